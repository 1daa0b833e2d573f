"""The map from statements to the tests that execute them: built once, kept in the user's cache, brought up to date."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.mutation import tracing

FAST_SECONDS = 5.0
# tests of other rooms, browsers, boards, processes and speed; the grids of vector kernels take minutes
LEFT_OUT = (
    "test_arm_targets", "test_browser", "test_broken_models", "test_calibration_memory", "test_cli",
    "test_committed_figures", "test_compression_table", "test_custom_pass", "test_entry", "test_execution",
    "test_inner_loops", "test_kernels_", "test_loader", "test_memory_plan", "test_mutation", "test_onnx_session",
    "test_packaging", "test_profile_tables", "test_quantization_table", "test_regions", "test_report",
    "test_graph_diff", "test_samples", "test_schedule", "test_shape_grids", "test_target_costs",
)  # fmt: skip
TAKEN = ("test_kernels_scalar",)
TOO_LARGE = ("test_a_race_detector",)  # ThreadSanitizer wants more addresses than the limit for mutants leaves


@dataclass(frozen=True)
class TracedTest:
    """A test, its CPU seconds and the lines that it executes, by path."""

    name: str
    seconds: float
    hits: Mapping[str, frozenset[int]]

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]


class StatementMap:
    """What is kept in `folder`: a line of JSON for each test, and the sources that the lines are of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = folder / "statements.jsonl"
        self._digests = folder / "digests.json"

    def update(self, tree: Path, files: Sequence[str], is_kept: bool = False) -> list[TracedTest]:
        """Trace the test files that are new or changed since, and return all tests that pass and are fast.

        tree: a copy of the sources that nothing else uses. is_kept: trace nothing anew.
        """
        digests = {file: hashlib.sha256((tree / file).read_bytes()).hexdigest() for file in files}
        traced = json.loads(self._digests.read_text()) if self._digests.exists() else {}
        stale = [] if is_kept else [file for file in files if traced.get(file) != digests[file]]
        records = [json.loads(line) for line in self._records.read_text().splitlines()] if traced else []
        records = [record for record in records if record["test"].partition("::")[0] not in stale]
        records = _moved(records, self._folder / "sources", tree)
        for file in stale:  # file by file: what is done is kept
            records += _trace(tree, file, self._folder / "cache")
            self._keep(tree, records, traced | {file: digests[file]})
            traced[file] = digests[file]
        self._keep(tree, records, traced)
        return list(_tests(records))

    def _keep(self, tree: Path, records: Sequence[Mapping[str, object]], digests: Mapping[str, str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sources = self._folder / "sources"
        shutil.rmtree(sources, ignore_errors=True)
        for room in ("passes", "targets", "tinyopt/ops"):
            shutil.copytree(tree / room, sources / room, ignore=shutil.ignore_patterns("__pycache__"))
        self._records.write_text("".join(json.dumps(record) + "\n" for record in records))
        self._digests.write_text(json.dumps(digests))

    @property
    def warm_cache(self) -> Path:
        """The cache folder of the traced runs: the kernels that the tests compile."""
        return self._folder / "cache"


def fast_test_files(tree: Path) -> list[str]:
    """The test files that mutants are tried on."""
    names = sorted(path.stem for path in (tree / "tests").glob("test_*.py"))
    chosen = [name for name in names if name.startswith(TAKEN) or not name.startswith(LEFT_OUT)]
    return [f"tests/{name}.py" for name in chosen]


def environment_of(tree: Path, cache: Path) -> dict[str, str]:
    """Variables for tests in a copy of the tree: one thread, the copy's sources, a cache of their own."""
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    found = {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(tree),
        "TINYOPT_CACHE_DIR": str(cache),
    }
    for variable, name in (("TINYOPT_MODELS", "models"), ("TINYOPT_DATA", "data")):
        found[variable] = os.environ.get(variable, str(beside / name))
    return found


def _trace(tree: Path, file: str, cache: Path) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory(prefix="tinyopt-statements-") as scratch:
        site, hits = Path(scratch) / "site", Path(scratch) / "hits.jsonl"
        site.mkdir()
        (site / "sitecustomize.py").write_text(tracing.SITE)
        hits.touch()
        environment = os.environ | environment_of(tree, cache) | {tracing.VARIABLE: str(hits)}
        environment["PYTHONPATH"] += os.pathsep + str(site)
        program = "import sys; from tools.mutation import tracing; sys.exit(tracing.main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, file]
        subprocess.run(command, cwd=tree, env=environment, check=False, stdout=sys.stderr)
        return [_relative(json.loads(line), tree) for line in hits.read_text().splitlines()]


def _relative(record: dict[str, object], tree: Path) -> dict[str, object]:
    hits = record["hits"]
    assert isinstance(hits, dict)
    root = tree.resolve()
    return record | {"hits": {str(Path(path).relative_to(root)): lines for path, lines in hits.items()}}


def _moved(records: list[dict[str, object]], old: Path, tree: Path) -> list[dict[str, object]]:
    """The lines of sources that have changed since, where they are now; lines that are gone are left out."""
    places: dict[str, dict[int, int]] = {}
    for path in {path for record in records for path in record["hits"]}:  # type: ignore[attr-defined]
        before = (old / path).read_text().splitlines() if (old / path).exists() else []
        after = (tree / path).read_text().splitlines() if (tree / path).exists() else []
        if before != after:
            blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
            places[path] = {a + i + 1: b + i + 1 for a, b, size in blocks for i in range(size)}
    for record in records:
        hits = record["hits"]
        assert isinstance(hits, dict)
        for path in hits.keys() & places.keys():
            hits[path] = [places[path][line] for line in hits[path] if line in places[path]]
    return records


def _tests(records: Iterable[Mapping[str, object]]) -> Iterable[TracedTest]:
    """Tests that pass within the time, with what the processes that they start execute."""
    lines: dict[str, dict[str, set[int]]] = {}
    seconds: dict[str, float] = {}
    for record in records:
        name, hits = str(record["test"]), record["hits"]
        assert isinstance(hits, dict)
        of_test = lines.setdefault(name, {})
        for path, executed in hits.items():
            of_test.setdefault(path, set()).update(executed)
        if record.get("outcome") == "passed":
            seconds[name] = float(str(record["seconds"]))
    for name, taken in seconds.items():
        if taken <= FAST_SECONDS and not any(test in name for test in TOO_LARGE):
            yield TracedTest(name, taken, {path: frozenset(executed) for path, executed in lines[name].items()})
