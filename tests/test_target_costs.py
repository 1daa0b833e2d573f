"""What float graphs will take on a target: against what finished compilations take, and against committed counts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from digits import MODEL, compiled_digits, options_for
from graph_builder import context_for
from prepared_models import prepared

from tinyopt.api import compile_model, load_calibration, no_progress
from tinyopt.errors import BudgetError
from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.estimates import NodeEstimates
from tinyopt.pass_manager import TargetCosts, run_pass
from tinyopt.passes.eliminate_dead_channels import EliminateDeadChannels
from tinyopt.pipeline import build_pipeline
from tinyopt.target_costs import target_costs
from tinyopt.targets import target_named
from tinyopt.targets.kernel_costs import kernel_costs
from tools.benchmark import committed
from tools.fit_costs import Count, fit_kernel, read_counts, shape_of
from tools.instruction_costs.grid import Layer

TOLERANCES = {"cortex-m4": 0.03, "cortex-m7": 0.03, "cortex-m33": 0.03}
OTHERS = 0.15


def costs_of(target: str) -> TargetCosts:
    options = options_for(target)
    named = target_named(target)
    samples = load_calibration(prepared(MODEL), options, no_progress).samples
    return target_costs(named, options, build_pipeline(options, named.boundary), samples)


def estimate(graph: Graph, target: str) -> float:
    estimates = NodeEstimates(target_named(target), is_quantized=True)
    return sum(estimates.instructions(node) for node in graph.nodes)


def counted(model: str, core: str) -> int:
    """The committed instructions of one inference, as gcc compiles it with -O3."""
    figures = [f for f in committed()[1] if (f.model, f.core, f.optimization) == (model, core, "O3")]
    return next(figure.instructions for figure in figures if "gcc" in figure.compiler)


def assert_close_to_what_was_counted(model: str, graph: Graph) -> None:
    for core in ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"):
        tolerance = TOLERANCES.get(core, OTHERS)
        assert estimate(graph, core) == pytest.approx(counted(model, core), rel=tolerance), (model, core)


def test_flash_and_ram_of_a_draft_are_those_of_the_finished_library() -> None:
    costs, graph = costs_of("cortex-m4"), prepared(MODEL)
    after = json.loads((compiled_digits("cortex-m4") / "report.json").read_text())["after"]
    assert costs.ram_bytes(graph) == after["arena_bytes"]
    assert costs.flash_bytes(graph) == pytest.approx(after["flash_bytes"], rel=0.01)


def test_what_is_kept_of_one_compilers_code_is_not_taken_for_anothers() -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    named = target_named("cortex-m4")
    labels = [
        target_costs(named, replace(options_for("cortex-m4"), cc=cc), [], ()).label
        for cc in ("arm-none-eabi-gcc", "arm-none-eabi-gcc -fno-inline")
    ]
    assert labels[0] != labels[1]


def test_a_library_that_takes_more_than_max_flash_is_an_error_that_says_how_much_and_is_not_written(
    tmp_path: Path,
) -> None:
    report = json.loads((compiled_digits("cortex-m4") / "report.json").read_text())
    needed = report["after"]["flash_bytes"]
    with pytest.raises(BudgetError, match=rf"{needed:,} B of flash .* 1 more than .* --max-flash: prune it .*cluster"):
        compile_model(MODEL, tmp_path / "out", replace(options_for("cortex-m4"), max_flash=needed - 1))
    assert not (tmp_path / "out").exists()


def test_the_instructions_of_the_example_are_about_those_that_were_counted() -> None:
    assert_close_to_what_was_counted("digits", prepared(MODEL))


@pytest.mark.parametrize("model", ["kws01", "vww01", "ic01", "ad01"])
def test_the_instructions_of_larger_models_are_about_those_that_were_counted(model: str, models_dir: Path) -> None:
    graph = prepared(models_dir / f"{model}.onnx")
    run_pass(EliminateDeadChannels(), graph, context_for())
    assert_close_to_what_was_counted(model, graph)


def test_a_node_without_constants_is_estimated_as_with_them() -> None:
    estimates = NodeEstimates(target_named("cortex-m4"), is_quantized=True)
    for node in prepared(MODEL).nodes:
        bare = [v if v is None or not v.is_constant else Value(v.name, v.type) for v in node.inputs]
        without = Node(node.op, node.name, bare if node.op in ("Conv", "Dense") else node.inputs, node.outputs)
        without.attributes = node.attributes
        assert estimates.instructions(without) == pytest.approx(estimates.instructions(node), rel=0.02), node.name


def test_a_channel_that_begins_a_lane_costs_more_than_one_that_fills_it() -> None:
    """A pruned count that is no multiple of the lanes saves next to nothing."""
    estimates = NodeEstimates(target_named("cortex-m4"), is_quantized=True)
    at = [estimates.instructions(Layer("Conv", 25, 5, 64, channels).node("conv")) for channels in (60, 61, 62)]
    assert at[1] - at[0] > 10 * (at[2] - at[1]) >= 0


def test_the_models_of_the_kernels_follow_from_the_committed_counts() -> None:
    members: list[Count] = [c for c in read_counts() if (c.family, c.kernel) == ("dsp", "dense_smlad")]
    model = fit_kernel(members)
    assert model == kernel_costs("dsp")["dense_smlad"]
    worst = max(abs(model.instructions(shape_of(count)) / count.instructions - 1) for count in members)
    assert model.error < 0.05
    assert worst < 0.2
