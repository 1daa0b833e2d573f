"""Distillation: graphs in PyTorch give the references' numbers; training recovers, stops, repeats, and declines."""

from __future__ import annotations

import importlib.util
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.digits import CALIBRATION, DATA, MODEL
from tests.graph_builder import GraphBuilder, context_for, messages
from tests.kernel_cases import Case, all_cases
from tests.prepared_models import prepared
from tinyopt.api import compile_model
from tinyopt.errors import ToolchainError, UsageError
from tinyopt.ir import Array, Graph, Quantization
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import PassContext, Unpruned
from tinyopt.passes.distill import Distill
from tinyopt.passes.distillation import torch_door
from tinyopt.passes.distillation.heads import find_heads
from tinyopt.passes.distillation.parameters import choose_parameters, store
from tinyopt.verify import verify

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: pip install 'tinyopt[distill]'"
)


def _trained_operators() -> Set[str]:
    """The operators with a rule in PyTorch; graphs with others are refused."""
    if importlib.util.find_spec("torch") is None:
        return frozenset()
    from tinyopt.passes.distillation.operators import RULES

    return RULES.keys()


def float_cases() -> list[Case]:
    trained = _trained_operators()
    return [
        case
        for case in all_cases()
        if case.node.op in trained
        and case.node.input(0).dtype == "float32"
        and all(v.dtype in ("float32", "int64") for v in case.node.present_inputs)
    ]


@needs_torch
def test_every_rule_in_pytorch_is_of_a_float_operator_and_has_a_case() -> None:
    trained = _trained_operators()
    assert all(OPERATORS[name].quantization is not QuantizationRule.INTEGER for name in trained)
    assert {case.node.op for case in float_cases()} == trained - {"Reshape", "Identity"}  # no kernels, no cases


@needs_torch
@pytest.mark.parametrize("case", float_cases(), ids=lambda case: case.id)
def test_an_operator_gives_the_numbers_of_its_reference_for_each_of_several_samples(case: Case) -> None:
    from tinyopt.passes.distillation.module import to_tensor
    from tinyopt.passes.distillation.operators import RULES

    factors = (1.0, -0.5, 2.0)
    is_constant = [value is not None and value.is_constant for value in case.node.inputs]
    samples = [
        [a if a is None or fixed else (a * np.float32(f)) for a, fixed in zip(case.arrays, is_constant, strict=True)]
        for f in factors
    ]
    stacked = [
        None if a is None else a[None] if fixed else np.stack([s[i] for s in samples])  # type: ignore[misc]
        for i, (a, fixed) in enumerate(zip(case.arrays, is_constant, strict=True))
    ]
    found = RULES[case.node.op](case.node, [None if a is None else to_tensor(a) for a in stacked])
    for place, sample in enumerate(samples):
        for tensor, wanted in zip(found, OPERATORS[case.node.op].evaluate(case.node, sample), strict=True):
            got = tensor.expand(len(factors), *tensor.shape[1:])[place].numpy()
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def digits_context(count: int) -> PassContext:
    pictures = np.load(DATA)["calib"][:count]
    graph = prepared(MODEL)
    shape = graph.inputs[0].shape
    return replace(
        context_for([{graph.inputs[0].name: picture.astype(np.float32).reshape(shape)} for picture in pictures]),
        unpruned=Unpruned(graph, {}),
    )


def damaged(graph: Graph, size: float = 0.15) -> Graph:
    """The graph with noise on all its weights."""
    generator, twin = np.random.default_rng(0), graph.copy()
    for value in twin.constants():
        if value.dtype == "float32":
            spread = size * np.sqrt(np.mean(value.data**2))
            value.constant = (value.data + spread * generator.normal(size=value.shape)).astype(np.float32)
    return twin


def agreement(graph: Graph, original: Graph) -> float:
    sessions = [OnnxSession(original), OnnxSession(graph)]
    name, shape = graph.inputs[0].name, graph.inputs[0].shape
    fed = [{name: picture.astype(np.float32).reshape(shape)} for picture in np.load(DATA)["x"][:200]]
    first, second = ([int(next(iter(s.run(x).values())).argmax()) for x in fed] for s in sessions)
    return float(np.mean(np.array(first) == np.array(second)))


def floats_of(graph: Graph) -> dict[str, Array]:
    return {value.name: value.data for value in graph.constants() if value.dtype == "float32"}


@needs_torch
def test_a_damaged_model_answers_again_as_it_did_and_training_repeats_to_the_byte() -> None:
    context = digits_context(60)
    assert context.unpruned is not None
    original = context.unpruned.graph
    graph = damaged(original)
    twin, broken = graph.copy(), agreement(graph, original)
    shown: list[str] = []
    context.on_progress = lambda what, _done, _total: shown.append(what)
    assert Distill(epochs=6).run(graph, context)
    verify(graph, after="distill")
    assert broken < 0.9
    assert agreement(graph, original) > 1 - (1 - broken) / 3
    assert "on samples held out" in messages(context.remarks, "did")[0]
    assert all(text.startswith("distill: loss ") and "held out" in text for text in shown)
    assert Distill(epochs=6).run(twin, replace(context, remarks=[]))
    for one, other in zip(floats_of(graph).values(), floats_of(twin).values(), strict=True):
        assert np.array_equal(one, other)
    again = replace(context, remarks=[])
    assert not Distill(epochs=6).run(graph, again)
    assert "is trained already" in messages(again.remarks, "declined")[0]


@needs_torch
def test_what_training_makes_worse_stays_as_it_was() -> None:
    """A model that is already what it should be cannot be better on the samples held out."""
    context = digits_context(20)
    assert context.unpruned is not None
    graph = context.unpruned.graph.copy()
    assert not Distill(epochs=2, rate=0.5).run(graph, context)
    assert "made it no better on samples held out" in messages(context.remarks, "declined")[0]
    assert all(np.array_equal(a, floats_of(context.unpruned.graph)[name]) for name, a in floats_of(graph).items())


@needs_torch
@pytest.mark.parametrize("subset", ["bias-scale", "last"])
def test_a_subset_of_the_parameters_leaves_the_others_alone(subset: str) -> None:
    context = digits_context(40)
    assert context.unpruned is not None
    graph = damaged(context.unpruned.graph)
    before = [
        (node, [v.data if v is not None and v.is_constant else None for v in node.inputs]) for node in graph.nodes
    ]
    assert Distill(subset, epochs=2).run(graph, context)
    layers = [(node, arrays) for node, arrays in before if node.op in ("Conv", "Dense")]
    for node, arrays in layers:
        old, new = arrays[1], node.input(1).data
        assert old is not None
        if subset == "last":
            assert np.array_equal(old, new) == (node is not layers[-1][0])
        else:
            ratios = (new / old).reshape(len(old), -1)
            np.testing.assert_allclose(ratios, np.broadcast_to(ratios[:, :1], ratios.shape), rtol=1e-4)
            assert np.ptp(ratios[:, 0]) > 0


@needs_torch
def test_a_layer_is_matched_at_the_channels_that_it_kept() -> None:
    """The original's hidden channels are 1, 2, 3 times the input, the first of which nobody reads: without it, all is
    as it was. Were the hidden 2, 3 compared with 1, 2, their squared error would be 2 / 5 of the squares."""
    from tinyopt.passes.distillation.module import TorchGraph, to_tensor
    from tinyopt.passes.distillation.objective import Objective, find_matches

    graphs: list[Graph] = []
    for hidden, read in (([[1.0], [2.0], [3.0]], [[0.0, 1.0, 1.0]]), ([[2.0], [3.0]], [[1.0, 1.0]])):
        build = GraphBuilder()
        inside = build("Dense", build.input("x", (1, 1)), build.constant(hidden))
        graphs.append(build.graph_of(build("Dense", inside, build.constant(read))))
    original, pruned = graphs
    x = {"x": to_tensor(np.array([[[1.0]], [[5.0]]], np.float32))}

    def loss(kept: list[int]) -> float:
        matches = find_matches(pruned, Unpruned(original, {"dense": np.array(kept)}))
        assert [match.pruned.name for match in matches] == ["dense_out", "dense_2_out"]
        heads = find_heads(pruned, original)
        objective = Objective(TorchGraph(pruned), TorchGraph(original), heads, matches, 2.0, 0.1, layer_weight=10.0)
        return float(objective.loss(x, {}))

    assert loss([1, 2]) == 0
    assert loss([0, 1]) == pytest.approx(10 * (2 / 5 + 0) / 2)
    assert [match.pruned.name for match in find_matches(pruned, Unpruned(original, {}))] == ["dense_2_out"]


@needs_torch
def test_a_batch_keeps_its_first_samples_and_makes_the_others_of_two() -> None:
    """Sample i holds i everywhere in one input and -i in the other, so that the numbers tell what they were made of."""
    from tinyopt.passes.distillation.mixing import mixed
    from tinyopt.passes.distillation.module import to_tensor

    numbers = np.arange(8, dtype=np.float32)
    image = np.broadcast_to(numbers[:, None, None, None, None], (8, 1, 6, 5, 2)).copy()
    inputs = {"image": to_tensor(image), "row": to_tensor(-image[:, 0, 0, :1, 0])}
    found = {name: x.numpy() for name, x in mixed(inputs, 2, np.random.default_rng(0)).items()}
    assert found["image"].shape == image.shape
    for name, sign in (("image", 1), ("row", -1)):
        assert np.array_equal(found[name][:2], np.asarray(inputs[name])[:2])
        assert np.all((sign * found[name] >= 0) & (sign * found[name] <= 7))
    sums, patched = found["image"][2:5], found["image"][5:]
    assert all(np.ptp(each) == 0 for each in sums)
    np.testing.assert_allclose(sums[:, 0, 0, 0, 0], -found["row"][2:5, 0], rtol=1e-6)
    assert any(np.ptp(each) > 0 for each in patched)
    assert all(len(np.unique(each)) <= 2 and np.ptp(each, axis=-1).max() == 0 for each in patched)


@needs_torch
def test_labels_are_learned_from_where_they_are_classes_of_the_model() -> None:
    context = digits_context(40)
    assert context.unpruned is not None
    trained: list[Graph] = []
    for labels in (None, np.arange(40) % 10, np.arange(40)):
        trained.append(damaged(context.unpruned.graph))
        told = replace(context, labels=labels, remarks=[])
        assert Distill(epochs=2).run(trained[-1], told)
        is_refused = labels is not None and labels.max() > 9
        assert messages(told.remarks, "declined") == (
            ["the labels are not used: they reach from 0 to 39, and the model has 10 classes"] if is_refused else []
        )
    without, used, refused = (np.concatenate([a.ravel() for a in floats_of(g).values()]) for g in trained)
    assert np.array_equal(without, refused)
    assert not np.array_equal(without, used)


def test_classes_are_what_goes_through_a_softmax_or_is_a_vector_of_scores() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4))
    scores = build("Dense", x, build.random((3, 4)))
    soft = build("Reshape", build("Softmax", scores, axis=1), shape=(3,))
    plain = build("Dense", x, build.random((5, 4)))
    copy_of_input = build("Dense", x, build.random((4, 4)))
    image = build("Relu", build("Dense", x, build.random((6, 4))))
    graph = build.graph_of(soft, plain, copy_of_input, image)
    heads = find_heads(graph, graph)
    assert [(head.pruned, head.axis) for head in heads] == [
        (scores, 1), (plain, 1), (copy_of_input, None), (image, None)
    ]  # fmt: skip


def test_integers_behind_a_dequantize_linear_become_floats_when_they_are_trained() -> None:
    build = GraphBuilder()
    levels = build.constant(np.array([[1, 2], [3, 4]], np.int8), quantization=Quantization.per_tensor(0.5, 0))
    weights = build("DequantizeLinear", levels)
    graph = build.graph_of(build("Dense", build.input("x", (1, 2)), weights))
    constants: dict[object, Array] = {weights: np.ones((2, 2), np.float32)}
    (trained,) = choose_parameters(graph, {weights: constants[weights]}, "all", find_heads(graph, graph))
    assert trained.value is weights
    store(graph, {weights: np.array([[0.6, 1], [1.5, 2]])})
    verify(graph, after="distill")
    assert [node.op for node in graph.nodes] == ["Dense"]
    assert graph.nodes[0].input(1).data.tolist() == np.array([[0.6, 1], [1.5, 2]], np.float32).tolist()


@needs_torch
def test_what_cannot_be_trained_says_why() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2))
    quantized = build("QuantizeLinear", x, dtype="int8", quantization=Quantization.per_tensor(0.1, 0))
    graph = build.graph_of(build("Dense", build("DequantizeLinear", quantized), build.random((3, 2))))
    samples = [{"x": np.ones((1, 2), np.float32)}] * 12
    nothing = context_for(samples)
    assert not Distill().run(graph, nothing)
    assert messages(nothing.remarks, "declined") == ["nothing was pruned"]
    foreign = replace(context_for(samples), unpruned=Unpruned(graph.copy(), {}))
    assert not Distill().run(graph, foreign)
    assert messages(foreign.remarks, "declined") == ["QuantizeLinear 'quantizelinear' cannot be trained through"]
    few = replace(context_for(samples[:9]), unpruned=Unpruned(graph.copy(), {}))
    assert not Distill().run(graph, few)
    assert "9 calibration samples are too few" in messages(few.remarks, "declined")[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parameters": "some"}, "is 'some', not one of all, bias-scale, last"),
        ({"rate": 0.0}, r"distill\.rate is a number above 0, not 0"),
        ({"mixed": 1.5}, r"distill\.mixed is a share from 0 to 1, not 1\.5"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, object], message: str) -> None:
    build = GraphBuilder()
    graph = build.graph_of(build("Relu", build.input("x", (1, 2))))
    with pytest.raises(UsageError, match=message):
        Distill(**wrong).run(graph, context_for())  # type: ignore[arg-type]


def test_without_pytorch_the_error_says_at_once_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch_door, "_PACKAGE", "no_such_package")
    output, progress = tmp_path / "out", list[str]()
    options = CompileOptions(recover="distill", calibration=CALIBRATION)
    with pytest.raises(ToolchainError, match=r"pip install 'tinyopt\[distill\]'"):
        compile_model(MODEL, output, options, lambda what, _done, _total: progress.append(what))
    assert progress == []
    assert not output.exists()


@needs_torch
def test_samples_are_changed_only_in_ways_that_leave_their_classes() -> None:
    from tinyopt.passes.distillation.symmetries import find_symmetries, varied

    torch = torch_door.load_torch()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 8, 16)).astype(np.float32))
    by_rows = {"x": x}  # the class is the row with the largest sum: columns may go anywhere, rows may not
    found = find_symmetries(by_rows, lambda inputs: inputs["x"].sum(dim=2).argmax(dim=1))
    assert [each.name for each in found] == ["mirrored along axis 1"]
    changed = varied(by_rows, found, np.random.default_rng(0))["x"]
    mirrored = (changed != x).flatten(1).any(dim=1)
    assert 10 < int(mirrored.sum()) < 30
    assert torch.equal(changed[mirrored], x[mirrored].flip(2))


@needs_torch
def test_what_moves_in_at_the_border_of_a_shifted_sample_is_a_copy_of_the_border() -> None:
    from tinyopt.passes.distillation.symmetries import Symmetry

    torch = torch_door.load_torch()
    x = torch.arange(8, dtype=torch.float32)[None]
    assert Symmetry(1, 2).applied(x, 2).tolist() == [[0, 0, 0, 1, 2, 3, 4, 5]]
    assert Symmetry(1, 2).applied(x, -1).tolist() == [[1, 2, 3, 4, 5, 6, 7, 7]]
