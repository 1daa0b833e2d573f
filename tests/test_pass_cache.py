"""What costly passes did is kept on disk, and gives the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.digits import MODEL, options_for
from tinyopt.api import compile_model
from tinyopt.pass_manager import Pass
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
    without = _compiled(tmp_path / "without", None)
    first = _compiled(tmp_path / "first", tmp_path / "cache")
    _forbid(monkeypatch, COSTLY)
    second = _compiled(tmp_path / "second", tmp_path / "cache", max_drop=50.0)
    assert without == first == second


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
