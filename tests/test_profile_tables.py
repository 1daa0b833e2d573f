"""Profiles side by side: layers find their partners by what they came from, and no instruction is lost."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from tests.digits import compiled_digits
from tinyopt.cli.profile_tables import comparison_table, profile_table
from tinyopt.execution.compare import pair_layers
from tinyopt.execution.profile import LayerProfile, Profile


def layer(index: int, origins: str, instructions: int, kernel: str = "k", refusals: Sequence[str] = ()) -> LayerProfile:
    names = tuple(origins.split())
    return LayerProfile(
        index, names[0] if names else f"own{index}", "Conv", kernel, 100, instructions, 0, names, tuple(refusals)
    )


def profile_of(layers: Sequence[LayerProfile]) -> Profile:
    return Profile("gcc 12", "O2", 12345, 321, 5432, 1, 2, 0, "", None, (), tuple(layers))


def shown(what: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_fused_layer_stands_beside_all_that_it_replaced() -> None:
    before = [layer(0, "conv", 10), layer(1, "relu", 5), layer(2, "pool", 7)]
    after = [layer(0, "conv relu", 12), layer(1, "pool", 7)]
    pairs = pair_layers(before, after)
    assert [([x.index for x in p.before], [x.index for x in p.after]) for p in pairs] == [([0, 1], [0]), ([2], [1])]
    assert [pair.instructions for pair in pairs] == [(15, 12), (7, 7)]


def test_layers_of_one_build_only_and_layers_without_origins_are_kept() -> None:
    pairs = pair_layers([layer(0, "gone", 3), layer(1, "", 4)], [layer(0, "", 5), layer(1, "", 6), layer(2, "new", 7)])
    assert sorted(pair.instructions for pair in pairs) == [(0, 5), (0, 7), (3, 0), (4, 6)]


def test_the_comparison_shows_signed_changes_and_both_kernels() -> None:
    pairs = pair_layers(
        [layer(0, "a", 1000, "slow"), layer(1, "b", 50)], [layer(0, "a", 250, "fast"), layer(1, "b", 60)]
    )
    text = shown(comparison_table("old", "new", pairs))
    assert "slow -> fast" in text
    assert "-750 (-75.0 %)" in text
    assert "+10 (+20.0 %)" in text
    assert "-740 (-70.5 %)" in text.splitlines()[-1]


def test_the_profile_says_why_each_kernel_was_chosen_once_for_equal_reasons() -> None:
    refusals = ["it is not 1x1", "it has [two] groups"]
    layers = [layer(0, "a", 30, "slow", refusals), layer(1, "b", 10), layer(2, "c", 60, "slow", refusals)]
    text = shown(profile_table(profile_of(layers), is_cortex_m=True))
    (line,) = [line for line in text.splitlines() if "it is not 1x1" in line]
    assert line.split() == "slow 0, 2 faster ones refused: it is not 1x1; it has [two] groups".split()
    assert "the first choice" in text
    assert "60.0 %" in text
    assert "The library (gcc 12, -O2)" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith(("stack", "code"))] == ["321", "5,432"]


def test_a_model_that_computes_nothing_has_a_profile_too() -> None:
    assert "all" in shown(profile_table(profile_of([]), is_cortex_m=False))


@pytest.mark.qemu
def test_a_build_compared_with_itself_has_not_changed(tmp_path: Path) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64 on PATH")
    out = tmp_path / "out"  # the command writes its counts into it
    shutil.copytree(compiled_digits("arm"), out)
    command = [sys.executable, "-m", "tinyopt.cli", "profile", str(out), "--compare", str(out)]
    pairs = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    layers = json.loads((out / "report.json").read_text())["layers"]
    assert sum(len(pair["before"]) for pair in pairs) == len(layers)
    for pair in pairs:
        assert pair["before"] == pair["after"]
