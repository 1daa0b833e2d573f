"""Put broken models and broken calibration sets through the command, and flip bits of models that are whole.

python tools/broken_models.py                    all of them: exit code, message, time, memory, and what is left behind
python tools/broken_models.py --only 'external'  those whose names hold a match of this expression
python tools/broken_models.py --every 12         each twelfth
python tools/broken_models.py --write FOLDER     write the files and try nothing
python tools/broken_models.py --forked           save the command's start: processes forked from one that has imported
python tools/broken_models.py --flips 20000      random bit flips of five models instead

For each model `tinyopt compile` is started as a user would start it; time and memory are those of the whole command.
Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.broken.case import MODEL, Case  # noqa: E402

MOST_CPU_SECONDS = 10
MOST_MEMORY_BYTES = 2 * 2**30
REFUSED = (2, 3)
_SHOWN = 50  # characters of a long name
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@dataclass(frozen=True)
class Outcome:
    """What became of one case. problem: "" where all is as it should be."""

    case: Case
    code: int
    message: str
    cpu_seconds: float
    memory_bytes: int
    problem: str


def all_cases() -> Iterator[Case]:
    """Every broken model, then every broken calibration set."""
    from tools.broken.bombs import bomb_cases
    from tools.broken.boundary import boundary_cases
    from tools.broken.disguises import disguise_cases
    from tools.broken.files import file_cases
    from tools.broken.graphs import graph_cases
    from tools.broken.integers import integer_cases
    from tools.broken.operators import operator_cases
    from tools.broken.sample_tricks import sample_trick_cases
    from tools.broken.samples import sample_cases
    from tools.broken.subgraphs import subgraph_cases
    from tools.broken.sweeps import sweep_cases
    from tools.broken.tensors import tensor_cases

    models = (file_cases, disguise_cases, graph_cases, boundary_cases, subgraph_cases, tensor_cases, integer_cases)
    for cases in (*models, operator_cases, sweep_cases, bomb_cases, sample_cases, sample_trick_cases):
        yield from cases()


def write_case(case: Case, folder: Path) -> None:
    """Write the files and links of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in case.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    for name, leads_to in case.links.items():
        (folder / name).symlink_to(leads_to)
    for name, other in case.hard_links.items():
        os.link(folder / other, folder / name)
    for name, size in case.sparse.items():
        (folder / name).touch()
        os.truncate(folder / name, size)
    for name in case.pipes:
        os.mkfifo(folder / name)


def preload() -> None:
    """Import what the command imports, once for all."""
    import tinyopt.api
    import tinyopt.cli.compile_command
    import tinyopt.entry
    from tinyopt.targets import all_targets

    assert tinyopt.api, tinyopt.cli.compile_command
    assert all_targets(), tinyopt.entry


def try_case(case: Case, folder: Path, cache_dir: Path, is_forked: bool) -> Outcome:
    """Compile one model in `folder`, which is made and removed."""
    write_case(case, folder)
    before = listing(folder)
    command = ["compile", MODEL, "--target", "cortex-m4", "-o", "out", "--cache-dir", str(cache_dir), *case.options]
    streams = [folder.parent / "stdout", folder.parent / "stderr"]
    child = os.fork()
    if child == 0:
        _run(command, folder, streams, is_forked)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    message = streams[1].read_text(encoding="utf-8", errors="replace")
    left = sorted(listing(folder) - before)
    seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    problem = _problem(case, code, message, streams[0].read_text(errors="replace"), seconds, memory, left)
    shutil.rmtree(folder)
    return Outcome(case, code, message.strip(), seconds, memory, problem)


def known_names(case: Case) -> set[str]:
    """What a message may name: the files of a case, what the command line names, and what is in the model."""
    names = {MODEL, f"model '{Path(MODEL).stem}'", *case.files, *case.links, *case.sparse, *case.pipes, *case.options}
    names |= {option.rpartition("=")[2].partition(":")[0] for option in case.options}
    try:
        graph = ModelProto.FromString(case.files.get(MODEL, b"")).graph
    except (DecodeError, RuntimeError):
        return names
    found = {each.name for each in (*graph.node, *graph.initializer, *graph.input, *graph.output)}
    found |= {name for each in graph.node for name in (*each.input, *each.output)}
    quoted = [f"'{_as_shown(name)}" for name in found if name]
    ended = {f"{name}{end}"[:_SHOWN] for name in quoted for end in ("'", "/")}  # of what a node becomes: 'node/inner'
    return {_as_shown(name)[:_SHOWN] for name in names if name} | ended


def _as_shown(name: str | bytes) -> str:
    """A name as messages show it: in one line, without control characters; what is no text comes as bytes."""
    name = name if isinstance(name, str) else name.decode(errors="replace")
    return "".join(character if character.isprintable() else "?" for character in " ".join(name.split()))


def listing(folder: Path) -> set[str]:
    """All that is in the folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _run(command: Sequence[str], folder: Path, streams: Sequence[Path], is_forked: bool) -> NoReturn:
    """The child: what `tinyopt` does, with its output in files and hard limits around it."""
    try:
        os.chdir(folder)
        for number, path in zip((1, 2), streams, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS + 2, MOST_CPU_SECONDS + 2))
        if not is_forked:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            os.execve(sys.executable, [sys.executable, "-m", "tinyopt.cli", *command], environment)
        sys.argv = ["tinyopt", *command]
        from tinyopt.entry import run

        run()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def _problem(case: Case, code: int, err: str, out: str, seconds: float, memory: int, left: list[str]) -> str:
    if code == 0 and case.accepted:
        return ""  # compiled as a whole, kernels included
    if seconds > MOST_CPU_SECONDS:
        return f"{seconds:.1f} s of CPU time"
    if memory > MOST_MEMORY_BYTES:
        return f"{memory >> 20} MiB"
    if "Traceback" in err or "internal error" in err or code not in (0, *REFUSED):
        return f"exit code {code}"
    if code == 0:
        return "accepted"
    lines = err.strip("\n").split("\n")
    if len(lines) != 1 or not lines[0].startswith("error: ") or out:
        return f"{len(lines)} lines on stderr, {len(out)} characters on stdout"
    if _CONTROL.search(lines[0]):
        return "control characters in the message"
    if not any(name in err for name in known_names(case)):
        return "the message names no file, node or tensor"
    return f"left {left}" if left else ""


def try_all(cases: Sequence[Case], is_verbose: bool, is_forked: bool) -> list[Outcome]:
    """Try the cases one after the other, with a line for each that is not as it should be, or for every one."""
    if is_forked:
        preload()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tinyopt-broken-") as name:
        for number, case in enumerate(cases, start=1):
            outcome = try_case(case, Path(name) / "case", Path(name) / "cache", is_forked)
            outcomes.append(outcome)
            if outcome.problem:
                print(f"\r{case.name}: {outcome.problem}: {outcome.message[-300:]}", flush=True)
            elif is_verbose:
                print(
                    f"\r{case.name}: {outcome.code} {outcome.cpu_seconds:.2f} s {outcome.message[:300]!a}", flush=True
                )
            if sys.stderr.isatty():
                print(f"\r{number}/{len(cases)} {case.name:60.60}", end="", file=sys.stderr, flush=True)
    return outcomes


def main() -> int:
    """Try or write what the arguments ask for; 1 where anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for names of cases")
    parser.add_argument("--every", type=int, default=1, help="each so many-th case only")
    parser.add_argument("--write", type=Path, help="write the files into this folder, and try nothing")
    parser.add_argument("--flips", type=int, help="flip single bits of five models, so many in all")
    parser.add_argument("--seed", type=int, default=0, help="which bits are flipped")
    parser.add_argument("--verbose", action="store_true", help="print every message")
    parser.add_argument("--forked", action="store_true", help="do not start the command anew for each model")
    arguments = parser.parse_args()
    if arguments.flips:
        from tools.broken.flips import flip_all

        return flip_all(arguments.flips, arguments.seed)
    cases = [case for case in all_cases() if re.search(arguments.only, case.name)][:: arguments.every]
    if arguments.write:
        for case in cases:
            write_case(case, arguments.write / case.name.replace("/", "_"))
        return 0
    started = time.monotonic()
    outcomes = try_all(cases, arguments.verbose, arguments.forked)
    bad = [outcome for outcome in outcomes if outcome.problem]
    accepted = [outcome for outcome in outcomes if outcome.code == 0 and not outcome.problem]
    slowest = max(outcomes, key=lambda outcome: outcome.cpu_seconds)
    largest = max(outcomes, key=lambda outcome: outcome.memory_bytes)
    print(
        f"{len(outcomes)} cases, {len(outcomes) - len(bad) - len(accepted)} refused as they should be, {len(accepted)} "
        f"valid and compiled, {len(bad)} not as they should be; slowest {slowest.case.name} "
        f"{slowest.cpu_seconds:.1f} s, largest {largest.case.name} {largest.memory_bytes >> 20} MiB "
        f"({time.monotonic() - started:.0f} s)"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
