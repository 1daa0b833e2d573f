"""The committed figures of Cortex-M cores are those that the compiler gives today, and they are what they must be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tinyopt.targets import target_named
from tinyopt.toolchain import find_compiler
from tools import benchmark
from tools.benchmark import PAGE, committed, differences, update
from tools.benchmark_field import LAYER_CORES, Layer, field_layers, field_totals, residual_instructions_per_element
from tools.benchmark_figures import BUILDS, CORES, GCC, MODELS, Figures, Folders, Model, measure_model
from tools.benchmark_goals import NOT_YET, misses
from tools.benchmark_page import page

EXAMPLE, *LARGER = MODELS
HINT = "; if that is meant, `python -m tools.benchmark` writes the table anew"


@pytest.fixture
def same_compiler() -> None:
    """Skip where the figures cannot be the same."""
    for tool in (GCC, "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    ours, theirs = find_compiler(target_named(CORES[0]), GCC).version(), committed()[0][GCC]
    if ours != theirs:
        pytest.skip(f"the figures were measured with {theirs}, not with {ours}")


def changes(model: Model, core: str, folders: Folders) -> Sequence[str]:
    """What the default build gives now that is not as committed."""
    found: tuple[list[Figures], list[Layer]] = measure_model(model, core, BUILDS[:1], folders)
    _, figures, layers = committed()
    return differences([*found[0], *found[1]], [*figures, *layers])


@pytest.mark.qemu
@pytest.mark.usefixtures("same_compiler")
@pytest.mark.parametrize("core", CORES)
def test_the_example_costs_what_is_committed_on_every_core(core: str) -> None:
    assert not changes(EXAMPLE, core, Folders(Path(), Path())), HINT


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.usefixtures("same_compiler")
@pytest.mark.parametrize("core", LAYER_CORES)
@pytest.mark.parametrize("model", LARGER, ids=lambda model: model.name)
def test_the_larger_models_cost_what_is_committed(model: Model, core: str, models_dir: Path, data_dir: Path) -> None:
    assert not changes(model, core, Folders(models_dir, data_dir)), HINT


def test_every_combination_is_committed_once() -> None:
    _, figures, _ = committed()
    found = [(line.model, line.core, line.compiler, line.optimization) for line in figures]
    assert found == [(m.name, core, b.cc, b.optimization) for m in MODELS for core in CORES for b in BUILDS]


def test_the_committed_figures_reach_the_goals_but_for_those_that_are_known() -> None:
    _, figures, layers = committed()
    assert {(miss.where, miss.what) for miss in misses(figures, layers)} == NOT_YET


def test_the_page_shows_the_committed_figures() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(*committed()), HINT


def test_every_call_of_cmsis_nn_has_one_layer_that_does_its_work() -> None:
    _, _, layers = committed()
    for model in LARGER:
        for core in LAYER_CORES:
            ours = [layer for layer in layers if (layer.model, layer.core) == (model.name, core)]
            calls = sorted(call.text for call in field_layers(model.field, core))
            assert sorted(text for layer in ours for text in layer.replaces.split(" + ")) == calls
            assert sum(layer.cmsis_nn or 0 for layer in ours) <= field_totals()[model.field][core]


def test_a_residual_costs_the_difference_of_two_like_convolutions() -> None:
    plain = Layer("m", "c", 0, "k", "conv a", 1000, 5000)
    fused = Layer("m", "c", 1, "k", "conv a + add n 100", 1750, 6000)
    assert residual_instructions_per_element([plain, fused]) == 7.5
    assert residual_instructions_per_element([plain]) is None


def test_a_changed_figure_is_named_with_both_values() -> None:
    old = Layer("m", "c", 3, "k", "conv a", 1000, 5000)
    new = Layer("m", "c", 3, "k", "conv a", 1001, 5000)
    assert differences([new], [old]) == ["m c layer 3: instructions 1000 -> 1001"]
    assert differences([new], [new]) == []
    assert differences([new], []) == ["m c layer 3 is not in the committed table"]


def test_an_update_changes_what_was_measured_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions, figures, layers = committed()
    for name in ("COMMITTED", "PAGE"):
        copy = tmp_path / name
        shutil.copy(getattr(benchmark, name), copy)
        monkeypatch.setattr(benchmark, name, copy)
    monkeypatch.setattr(benchmark, "compiler_versions", lambda: versions)
    part = [layer for layer in layers if (layer.model, layer.core) == (layers[0].model, layers[0].core)]
    changed = replace(part[0], instructions=17)
    update([replace(figures[1], stack_bytes=18)], [changed, *part[1:]])
    assert committed()[1] == [figures[0], replace(figures[1], stack_bytes=18), *figures[2:]]
    assert committed()[2] == [changed, *layers[1:]]
    monkeypatch.setattr(benchmark, "compiler_versions", lambda: versions | {"qemu": "another"})
    with pytest.raises(SystemExit, match="other versions"):
        update([], [])
