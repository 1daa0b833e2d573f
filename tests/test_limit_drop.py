"""The accuracy gate: which layers are backed off, to what, and when it gives up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from tests.digits import CALIBRATION, DATA, MODEL
from tests.graph_builder import GraphBuilder, context_for, messages, random_inputs
from tinyopt.api import compile_model
from tinyopt.cli import main
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import AccuracyError, UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Value
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import LabelledSamples, PassContext
from tinyopt.passes.limit_drop import LimitDrop
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.quantize import Quantize
from tinyopt.verify import verify

SAMPLES = 200


@dataclass
class Case:
    """A quantized graph, and the context in which the gate finds it."""

    graph: Graph
    context: PassContext
    samples: list[dict[str, Array]]

    def classes(self, graph: Graph) -> NDArray[np.int64]:
        """What the operators' own references say, integer ones included."""
        return np.array([next(iter(evaluate(graph, sample).values())).argmax() for sample in self.samples])

    def lost_points(self) -> float:
        assert self.context.float_graph is not None
        return 100 * float(np.mean(self.classes(self.graph) != self.classes(self.context.float_graph)))


def case_of(graph: Graph, zeroed: int = 0) -> Case:
    """Quantize `graph`. zeroed: so many first elements of the inputs are zero in every sample."""
    samples = [random_inputs(graph, seed) for seed in range(SAMPLES)]
    for sample in samples:
        sample["x"][..., :zeroed] = 0
    context = context_for(samples)
    assert Quantize(method="minmax").run(graph, context)
    context.remarks.clear()
    return Case(graph, context, samples)


def rescaled_channel(factor: float) -> Graph:
    """Channel 2 of layer `wide` is `factor` times too large, which the classifier undoes."""
    build = GraphBuilder()
    x = build.input("x", (1, 12))
    return build.graph_of(build("Softmax", _branch(build, x, factor, build.random((6, 12))), axis=1))


def _branch(build: GraphBuilder, x: Value, factor: float, back: Value, name: str = "") -> Value:
    weights, bias = build.random((12, 12)), build.random((12,))
    weights.data[2] *= factor
    bias.data[2] *= factor
    back.data[:, 2] /= factor
    wide = build("Dense", x, weights, bias, name=f"wide{name}", clamp_low=0.0)
    return build("Dense", wide, back, name=f"back{name}")


def saturating() -> Graph:
    """Channel 2 of layer `wide` is 3000 times larger than the others, which a tanh makes a sign of."""
    build = GraphBuilder()
    weights = build.random((12, 12))
    weights.data[2] *= 3000
    wide = build("Dense", build.input("x", (1, 12)), weights, name="wide")
    return build.graph_of(build("Dense", build("Tanh", wide), build.random((6, 12))))


def outlying_weights() -> Graph:
    """The weights of layer `coarse` for input 0, which is always zero, are 1000 times larger than the others."""
    build = GraphBuilder()
    x = build.input("x", (1, 12))
    weights = build.random((6, 12))
    weights.data[:, 0] = 1000
    first = build("Dense", x, build.constant(np.eye(12, dtype=np.float32)), name="first")
    return build.graph_of(build("Dense", first, weights, name="coarse"))


def two_branches() -> Graph:
    """Two bad layers: `wide_harmless` has more noise, but in class 5 alone, which never wins."""
    build = GraphBuilder()
    x = build.input("x", (1, 12))
    harmless = build.random((6, 12))
    harmless.data[:5] = 0
    one = _branch(build, x, 20000.0, harmless, "_harmless")
    two = _branch(build, x, 150.0, build.random((6, 12)), "_guilty")
    low = build.constant([0.0, 0.0, 0.0, 0.0, 0.0, -60.0])
    return build.graph_of(build("Add", build("Add", one, two), low))


def test_the_layer_whose_output_loses_the_classes_becomes_int16_and_the_integer_graph_keeps_them() -> None:
    case = case_of(rescaled_channel(1000.0))
    assert case.lost_points() >= 5
    assert LimitDrop(max_drop=4.0).run(case.graph, case.context)
    verify(case.graph, after="limit-drop")
    (summary,), (did,) = messages(case.context.remarks, "note"), messages(case.context.remarks, "did")
    assert "allowed are 4.00 points: agreement of top-1 with the float model on 200 calibration" in summary
    assert did.startswith(
        "Dense 'wide' gives int16, for 12 bytes of activations more: alone in int8 it leaves the outputs at "
    )
    LowerInteger().run(case.graph, case.context)
    assert "wide_out_int16" in [value.name for value in case.graph.values() if value.dtype == "int16"]
    assert case.lost_points() <= 4.0


def test_a_layer_whose_weights_are_to_blame_is_computed_in_float() -> None:
    case = case_of(outlying_weights(), zeroed=1)
    assert case.lost_points() >= 5
    assert LimitDrop(max_drop=2.0).run(case.graph, case.context)
    (did,) = messages(case.context.remarks, "did")
    assert did.startswith(
        "Dense 'coarse' in float, for 216 bytes of weights more: alone in int8 it leaves the outputs at "
    )
    coarse = next(node for node in case.graph.nodes if node.name == "coarse")
    assert coarse.input(1).is_constant
    assert coarse.input(1).dtype == "float32"
    assert case.lost_points() <= 2.0


def test_where_a_reader_cannot_take_int16_the_layer_and_its_reader_are_in_float_with_nothing_rounded_between() -> None:
    case = case_of(saturating())
    assert case.lost_points() >= 5
    assert LimitDrop(max_drop=4.0).run(case.graph, case.context)
    (did,) = messages(case.context.remarks, "did")
    assert did.startswith("Dense 'wide' and what reads it: 'tanh' in float, for 432 bytes of weights more")
    LowerInteger().run(case.graph, case.context)
    producers = case.graph.producers()
    tanh = next(node for node in case.graph.nodes if node.op == "Tanh")
    assert producers[tanh.input(0)].op == "Dense"
    assert case.lost_points() <= 4.0


def test_back_offs_that_are_not_needed_are_undone() -> None:
    case = case_of(two_branches())
    assert case.lost_points() >= 5
    assert LimitDrop(max_drop=4.0).run(case.graph, case.context)
    (did,) = messages(case.context.remarks, "did")
    assert did.startswith("Dense 'wide_guilty' gives int16")
    assert "; without that " in did
    assert case.lost_points() <= 4.0


def test_it_gives_up_with_what_was_reached_and_leaves_the_graph_alone() -> None:
    case = case_of(outlying_weights(), zeroed=1)
    before = [node.name for node in case.graph.nodes]
    with pytest.raises(
        AccuracyError, match=r"points are lost at best; --max-drop allows 0.50 .* Dense 'coarse'"
    ) as info:
        LimitDrop(max_drop=0.5, allow_float=False).run(case.graph, case.context)
    assert info.value.exit_code == 4
    assert "\n" not in str(info.value)
    assert [node.name for node in case.graph.nodes] == before


def test_labels_decide_where_there_are_some() -> None:
    worse = case_of(rescaled_channel(1000.0))
    assert worse.context.float_graph is not None
    worse.context.evaluation = LabelledSamples(worse.samples, worse.classes(worse.context.float_graph))
    assert LimitDrop(max_drop=4.0).run(worse.graph, worse.context)
    assert "top-1 on 200 labelled samples" in messages(worse.context.remarks, "note")[0]
    better = case_of(rescaled_channel(1000.0))
    better.context.evaluation = LabelledSamples(better.samples, better.classes(better.graph))
    assert not LimitDrop(max_drop=0.0).run(better.graph, better.context)


def test_what_pruning_lost_before_quantization_cannot_be_given_back() -> None:
    case = case_of(rescaled_channel(1.0))
    other = rescaled_channel(1.0)
    head = next(node for node in other.nodes if node.name == "back")
    head.input(1).data[:] = head.input(1).data[::-1].copy()
    case.context.original = other
    with pytest.raises(AccuracyError, match="are lost before quantization, by pruning or clustering"):
        LimitDrop(max_drop=1.0).run(case.graph, case.context)


def test_within_the_limit_nothing_changes_and_without_one_or_without_float_layers_it_declines() -> None:
    case = case_of(rescaled_channel(1.0))
    assert not LimitDrop(max_drop=3.0).run(case.graph, case.context)
    assert messages(case.context.remarks, "note")[0].endswith("on 200 calibration samples")
    context = context_for(case.samples)
    assert not LimitDrop().run(case.graph, context)
    assert not LimitDrop(max_drop=0.0).run(case.graph, context)
    assert messages(context.remarks, "declined") == [
        "no limit: give --max-drop",
        "nothing was quantized here: there are no float layers to go back to",
    ]


def test_models_without_one_score_for_each_class_are_refused() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4))
    first = build("Dense", x, build.random((4, 4)))
    for outputs, reason in (
        ([first], "an output of its input's shape"),
        ([first, build("Relu", first)], "has 2 outputs"),
        ([build("Dense", first, build.random((1, 4)))], r"gives \[1, 1\] in 'dense_2_out', not one score"),
    ):
        case = case_of(build.graph_of(*outputs).copy())
        with pytest.raises(UsageError, match=reason):
            LimitDrop(max_drop=1.0).run(case.graph, case.context)


def test_a_compiled_model_keeps_its_accuracy_although_one_calibration_sample_is_sixty_times_too_large(
    tmp_path: Path,
) -> None:
    with np.load(DATA) as data:
        calibration = data["calib"][:60].astype(np.float32)
    calibration[7] *= 60
    np.savez(tmp_path / "calib.npz", x=calibration)
    options = CompileOptions(
        target="cortex-m4",
        calibration=f"{tmp_path / 'calib.npz'}:x",
        evaluation=f"{DATA}:x,y",
        max_drop=3.0,
        settings={"quantize": {"method": "minmax"}},
        cache_dir=default_cache_dir(),
    )
    result = compile_model(MODEL, tmp_path / "out", options)
    (record,) = [step.record for step in result.steps if step.record.pass_name == "limit-drop"]
    (note,) = messages(record.remarks, "note")
    assert float(note.split()[0]) >= 5  # points that int8 alone loses
    backed_off = messages(record.remarks, "did")
    assert any("gives int16" in message for message in backed_off)
    assert all(message in str(result.report) for message in backed_off)
    evaluated = result.report["evaluation"]
    lost = 100 * (evaluated["float_top1"] - evaluated["compiled_top1"])
    assert lost <= 3.0
    assert (result.report["gate"]["limit_points"], result.report["gate"]["lost_points"]) == (3.0, lost)
    assert "accuracy gate" in (result.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("more", [[], ["--disable-pass", "limit-drop", "--eval", f"{DATA}:x,y"]])
def test_the_command_exits_with_4_and_writes_nothing_where_the_limit_cannot_be_met(
    tmp_path: Path, more: list[str]
) -> None:
    arguments = ["-t", "cortex-m4", "--calib", CALIBRATION, "--prune", "0.7", "--max-drop", "0", *more]
    run = CliRunner().invoke(main, ["compile", str(MODEL), "-o", str(tmp_path / "out"), *arguments])
    assert run.exit_code == 4, run.output
    assert "error: " in run.stderr.splitlines()[-1]
    assert "--max-drop allows 0.00 points" in run.stderr
    assert list(tmp_path.iterdir()) == []
