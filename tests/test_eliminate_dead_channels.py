"""Dead channels: what is removed, what must stay, and that the numbers do not move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graph_builder import GraphBuilder, apply, changed_by, context_for, messages
from prepared_models import prepared

from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Quantization, Value
from tinyopt.ops.facts import graph_macs
from tinyopt.passes.eliminate_dead_channels import EliminateDeadChannels
from tinyopt.verify import verify


def _rows(build: GraphBuilder, shape: tuple[int, ...], zero_rows: list[int]) -> Value:
    weights = build.random(shape)
    data = weights.data.copy()
    data[zero_rows] = 0
    weights.constant = data
    return weights


def test_a_constant_channel_moves_into_the_bias_of_its_reader() -> None:
    build = GraphBuilder()
    first = build("Dense", build.input("x", (1, 3)), _rows(build, (4, 3), [1, 2]), build.constant([1, 5, -2, 4]))
    head = build.constant([[1, 10, 100, 1000], [2, 20, 200, 2000]])
    graph = build.graph_of(build("Dense", build("Relu", first), head, build.constant([0.5, 0.25]), name="head"))
    remarks = changed_by(EliminateDeadChannels(), graph, tolerance=1e-6)
    assert messages(remarks, "did") == ["dense: 2 of 4 channels are constant: removed"]
    assert graph.nodes[-1].input(1).data.tolist() == [[1, 1000], [2, 2000]]
    assert graph.nodes[-1].input(2).data.tolist() == [50.5, 100.25]  # relu(5) * 10, relu(-2) = 0


def test_a_reader_without_a_bias_gets_one() -> None:
    build = GraphBuilder()
    first = build("Dense", build.input("x", (1, 3)), _rows(build, (4, 3), [1]), build.constant([1, 5, -2, 4]))
    graph = build.graph_of(build("Dense", first, build.constant([[1, 10, 100, 1000]]), name="head"))
    changed_by(EliminateDeadChannels(), graph, tolerance=1e-6)
    assert graph.nodes[-1].input(2).data.tolist() == [50]


def test_a_constant_that_a_convolution_pads_with_zeros_stays() -> None:
    build = GraphBuilder()
    x = build("Conv", build.input("x", (1, 2, 5, 5)), _rows(build, (4, 2, 1, 1), [1, 2]), build.constant([1, 5, 0, 4]))
    graph = build.graph_of(build("Conv", x, build.random((3, 4, 3, 3)), name="padded", pads=(1, 1, 1, 1)))
    remarks = changed_by(EliminateDeadChannels(), graph)
    assert messages(remarks, "did") == ["conv: 1 of 4 channels are constant: removed"]  # the one that is zero
    assert messages(remarks, "declined") == [
        "conv: channels that are constant but not zero are kept: 'padded' pads them with zeros"
    ]


def test_a_depthwise_filter_of_a_constant_is_constant_only_inside_the_padding() -> None:
    build = GraphBuilder()
    x = build("Conv", build.input("x", (1, 2, 5, 5)), _rows(build, (3, 2, 1, 1), [0, 1]), build.constant([2, 2, 2]))
    filters = build.constant(np.stack([np.full((1, 3, 3), v, np.float32) for v in (1, -1, 1)]))
    y = build("Conv", x, filters, name="depthwise", group=3, pads=(1, 1, 1, 1), clamp_low=0.0)
    graph = build.graph_of(build("Conv", y, build.random((2, 3, 1, 1)), name="head"))
    remarks = changed_by(EliminateDeadChannels(), graph)
    # Channel 0 is 18 inside and 8 at the corners. Channel 1 is negative everywhere: its Relu is dead.
    assert messages(remarks, "did") == [
        "conv: 1 of 3 channels are constant: removed",
        "depthwise: 1 of 3 channels are constant: removed",
    ]


def test_channels_whose_columns_are_zero_are_removed_back_to_their_source() -> None:
    build = GraphBuilder()
    first = build("Dense", build.input("x", (1, 3)), build.random((4, 3)), name="first")
    weights = build.random((4, 4))
    weights.constant = weights.data * np.array([1, 0, 1, 1], np.float32)  # nobody reads channel 1 of `first`
    weights.constant[:, 2] *= [0, 1, 0, 0]  # channel 2 is read by row 1 alone, which nobody reads
    head = build.random((2, 4))
    head.constant = head.data * np.array([1, 0, 1, 1], np.float32)
    graph = build.graph_of(build("Dense", build("Dense", first, weights, name="middle"), head, name="head"))
    remarks = changed_by(EliminateDeadChannels(), graph)
    assert messages(remarks, "did") == [
        "first: 2 of 4 channels are never read: removed",
        "middle: 1 of 4 channels are never read: removed",
    ]


def test_a_residual_channel_that_lives_in_one_branch_stays_in_both() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 3))
    first = build("Dense", x, _rows(build, (4, 3), [0, 1]))
    second = build("Dense", x, _rows(build, (4, 3), [1, 2]), None, first)
    graph = build.graph_of(build("Dense", second, build.random((2, 4)), name="head"))
    changed_by(EliminateDeadChannels(), graph)
    assert first.shape == second.shape == (1, 3)


def test_a_layer_that_is_dead_altogether_keeps_one_channel() -> None:
    build = GraphBuilder()
    first = build("Relu", build("Dense", build.input("x", (1, 3)), _rows(build, (4, 3), [0, 1, 2, 3])))
    graph = build.graph_of(build("Dense", first, build.random((2, 4)), name="head"))
    changed_by(EliminateDeadChannels(), graph)
    assert first.shape == (1, 1)


def test_a_range_that_the_user_gives_proves_more() -> None:
    def graph_with_a_dark_channel() -> tuple[GraphBuilder, Value]:
        build = GraphBuilder()
        weights, bias = build.constant([[1, 1], [-1, -1], [1, -1]]), build.constant([0, -0.5, -1.5])
        first = build("Relu", build("Dense", build.input("x", (1, 2)), weights, bias))
        return build, build("Dense", first, build.random((2, 3)), name="head")

    build, head = graph_with_a_dark_channel()
    assert messages(apply(EliminateDeadChannels(), build.graph_of(head)), "did") == []
    build, head = graph_with_a_dark_channel()
    remarks = apply(EliminateDeadChannels(input_low=0, input_high=1), build.graph_of(head))
    assert messages(remarks, "did") == ["dense: 2 of 3 channels are constant: removed"]


def test_weights_that_training_decayed_to_nothing_count_as_zero() -> None:
    build = GraphBuilder()
    weights = build.constant([[1, 2], [3e-30, -1e-29], [2, 1]])
    first = build("Relu", build("Dense", build.input("x", (1, 2)), weights, build.constant([0, 1, 0])))
    graph = build.graph_of(build("Dense", first, build.random((2, 3)), name="head"))
    remarks = changed_by(EliminateDeadChannels(), graph, tolerance=1e-6)
    assert messages(remarks, "did")[1] == "dense: 1 of 3 channels are constant: removed"


def test_in_a_quantized_model_the_constant_moves_into_the_integer_bias() -> None:
    build = GraphBuilder()
    activation = Quantization.per_tensor(0.5, -10)

    def layer(x: Value, integers: list[list[int]], bias: list[int], scale: float, name: str) -> Value:
        weights = build.constant(integers, "w", "int8", Quantization.per_tensor(0.25, 0))
        biases = build.constant(bias, "b", "int32", Quantization.per_tensor(scale * 0.25, 0))
        y = build("Dense", x, build("DequantizeLinear", weights), build("DequantizeLinear", biases), name=name)
        return build("DequantizeLinear", build("QuantizeLinear", y, quantization=activation))

    x = build("DequantizeLinear", build.input("x", (1, 2), "int8", Quantization.per_tensor(2.0, 3)))
    first = layer(x, [[1, 2], [0, 0], [5, -3]], [0, 7, 9], 2.0, "first")  # row 1 is always 7 * 0.5 = 3.5 = level -3
    graph = build.graph_of(layer(first, [[1, 10, 3], [2, 20, 4]], [100, 200], 0.5, "head"))
    remarks = changed_by(EliminateDeadChannels(), graph, tolerance=0)
    assert messages(remarks, "did") == ["first: 1 of 3 channels are constant: removed"]
    head = next(node for node in graph.nodes if node.name == "head")
    bias = graph.producers()[head.input(2)].input(0)
    assert bias.data.tolist() == [100 + 10 * 7, 200 + 20 * 7]  # level -3 is 7 above the zero point


def _assert_vww_halves(model: Path, samples: list[Array], most_macs: int, tolerance: float) -> None:
    graph = prepared(model)
    before = graph.copy()
    assert EliminateDeadChannels().run(graph, context_for())
    verify(graph, after="eliminate-dead-channels")
    assert graph_macs(before) > 7_480_000
    assert graph_macs(graph) <= most_macs
    name = graph.inputs[0].name
    for sample in samples:
        (expected,), (got,) = (evaluate(g, {name: sample}).values() for g in (before, graph))
        assert np.abs(expected.astype(np.float64) - got).max() <= tolerance


def test_half_of_the_visual_wake_words_model_is_dead(models_dir: Path, data_dir: Path) -> None:
    photographs = np.load(data_dir / "vww01.npz")["x"][:3].astype(np.float32) / 255
    _assert_vww_halves(models_dir / "vww01.onnx", list(photographs[:, None]), 3_750_000, 1e-6)


def test_half_of_the_quantized_visual_wake_words_model_is_dead_in_its_integers(
    models_dir: Path, data_dir: Path
) -> None:
    photographs = (np.load(data_dir / "vww01.npz")["x"][:3].astype(np.int16) - 128).astype(np.int8)
    _assert_vww_halves(models_dir / "vww01_int8_qdq.onnx", list(photographs[:, None]), 3_730_000, 0)


def test_constants_move_into_the_biases_of_the_groups_that_read_them() -> None:
    build = GraphBuilder()
    rows, bias = _rows(build, (4, 3, 1, 1), [0, 2]), build.constant([5, 1, 7, 2])
    first = build("Conv", build.input("x", (1, 3, 4, 4)), rows, bias, name="first")
    grouped = build.constant(np.array([[1, 2], [10, 20], [100, 200], [1000, 2000]], np.float32).reshape(4, 2, 1, 1))
    y = build("Conv", build("Relu", first), grouped, build.constant([1, 2, 3, 4]), group=2, name="grouped")
    graph = build.graph_of(build("Conv", y, build.random((2, 4, 1, 1))))
    remarks = changed_by(EliminateDeadChannels(), graph)
    assert messages(remarks, "did") == ["first: 2 of 4 channels are constant: removed"]
    reader = next(node for node in graph.nodes if node.name == "grouped")
    assert reader.input(1).data.ravel().tolist() == [2, 20, 200, 2000]
    assert reader.input(2).data.tolist() == [1 + 5, 2 + 50, 3 + 700, 4 + 7000]
