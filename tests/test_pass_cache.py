"""What costly passes did is kept on disk, and gives the same model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.digits import MODEL, options_for
from tests.graph_builder import GraphBuilder, context_for
from tinyopt.api import compile_model
from tinyopt.ir import Graph, Value
from tinyopt.pass_cache import run_pass_cached
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.quantize import Quantize
from tinyopt.pipeline import DEFAULT_PASSES

COSTLY = [step for step in DEFAULT_PASSES if step.is_costly]


def _compiled(folder: Path, cache_dir: Path | None, **options: object) -> dict[str, bytes]:
    """Every file of a compilation to C text but the reports, which hold times."""
    chosen = replace(options_for("c"), cache_dir=cache_dir, **options)  # type: ignore[arg-type]
    compile_model(MODEL, folder, chosen)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("report"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _forbid(monkeypatch: pytest.MonkeyPatch, steps: list[type[Pass]]) -> None:
    def run(self: Pass, *_: object) -> bool:
        raise AssertionError(f"{self.name} ran")

    for step in steps:
        monkeypatch.setattr(step, "run", run)


def test_a_second_compilation_takes_the_passes_results_from_disk_and_gives_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = {"prune": 0.2, "cluster": 16}
    without = _compiled(tmp_path / "without", None, **smaller)
    first = _compiled(tmp_path / "first", tmp_path / "cache", **smaller)
    _forbid(monkeypatch, COSTLY)
    second = _compiled(tmp_path / "second", tmp_path / "cache", **smaller, max_drop=50.0)
    locks = [files.pop("recipe.lock.toml") for files in (without, first, second)]
    assert without == first == second
    assert locks[0] == locks[1] != locks[2], "the third was asked for a --max-drop"


def test_other_options_run_the_pass_again_and_a_damaged_file_does_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_dir = tmp_path / "cache"
    first = _compiled(tmp_path / "first", cache_dir)
    damaged = list((cache_dir / "passes").rglob("*"))
    for path in damaged:
        if path.is_file():
            path.write_bytes(path.read_bytes()[:100])
    assert _compiled(tmp_path / "again", cache_dir) == first
    _forbid(monkeypatch, [Quantize])
    with pytest.raises(Exception, match="quantize ran"):
        _compiled(tmp_path / "other", cache_dir, ranges="minmax")


@dataclass(frozen=True)
class _LastWeight(Pass):
    """Says what it finds, and changes nothing."""

    name: ClassVar[str] = "last-weight"
    is_costly: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        context.note(str(graph.nodes[-1].input(1).data[-1]))
        return False


def test_a_pass_that_changed_nothing_keeps_no_weights_and_runs_again_where_one_weight_differs(tmp_path: Path) -> None:
    found: list[str] = []
    weights = np.zeros(100_000, np.float32)
    for last in (1.0, 2.0, 1.0):
        build = GraphBuilder()
        changed = Value.of("w", np.append(weights, np.float32(last)))
        graph = build.graph_of(build("Add", build.input("x", (1, 100_001)), changed))
        context = replace(context_for(), cache_dir=tmp_path)
        found += [remark.message for remark in run_pass_cached(_LastWeight(), graph, context).remarks]
    assert found == ["1.0", "2.0", "1.0"]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert all(path.stat().st_size < 1000 for path in kept)


@dataclass(frozen=True)
class _OperatorBefore(Pass):
    """Says how the model as it came computes its output."""

    name: ClassVar[str] = "operator-before"
    is_costly: ClassVar[bool] = True
    is_for_target: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        assert context.original is not None
        context.note(context.original.nodes[-1].op)
        return False


def test_models_that_became_the_same_graph_are_told_apart_by_passes_that_look_at_the_original(tmp_path: Path) -> None:
    found: list[str] = []
    for operator in ("Relu", "Sigmoid", "Relu"):
        context = replace(context_for(), original=_graph_of(operator), cache_dir=tmp_path)
        found += [remark.message for remark in run_pass_cached(_OperatorBefore(), _graph_of("Tanh"), context).remarks]
    assert found == ["Relu", "Sigmoid", "Relu"]


def _graph_of(operator: str) -> Graph:
    build = GraphBuilder()
    return build.graph_of(build(operator, build.input("x", (1, 4))))
