"""Which slices are found to belong together, on graphs small enough to see."""

from __future__ import annotations

from typing import Any

import pytest
from graph_builder import GraphBuilder, assert_same_numbers

from tinyopt.ir import Graph, Quantization, Value
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups, keep_channels
from tinyopt.verify import verify


def _conv(build: GraphBuilder, x: Value, outputs: int, name: str, residual: Value | None = None) -> Value:
    weights, bias = build.random((outputs, 1, 1, x.shape[3]), f"{name}_w"), build.random((outputs,), f"{name}_b")
    return build("Conv", x, weights, bias, residual, name=name, layout="NHWC")


def _depthwise(build: GraphBuilder, x: Value, multiplier: int, name: str) -> Value:
    channels = x.shape[3]
    weights = build.random((channels * multiplier, 3, 3, 1), f"{name}_w")
    return build("Conv", x, weights, name=name, layout="NHWC", group=channels, pads=(1, 1, 1, 1))


def _members(group: ChannelGroup) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for member in group.members:
        found.setdefault(member.value.name, []).append(member.axis)
    return found


def _only(graph: Graph, producer: str) -> ChannelGroup:
    return next(g for g in find_channel_groups(graph) if producer in [use.node.name for use in g.producers])


def _zero_channels(group: ChannelGroup, doomed: list[int]) -> None:
    """Make channels carry zeros by clearing all their rows and biases."""
    for use in (*group.producers, *group.depthwise):
        for value in (use.weights, use.node.optional_input(2)):
            if value is not None:
                member = group.member(value, 0)
                data = value.data.copy()
                data[member.indices(doomed)] = 0
                value.constant = data


def test_a_fused_residual_ties_both_branches() -> None:
    build = GraphBuilder()
    x = _conv(build, build.input("x", (1, 4, 4, 3)), 8, "first")
    graph = build.graph_of(_conv(build, _conv(build, _conv(build, x, 6, "inner"), 8, "second", x), 2, "last"))
    group = _only(graph, "first")
    assert [use.node.name for use in group.producers] == ["first", "second"]
    assert [use.node.name for use in group.consumers] == ["inner", "last"]
    assert group.blocked is None
    assert _members(group) == {
        "first_w": [0],
        "first_b": [0],
        "first_out": [3],
        "inner_w": [3],
        "second_w": [0],
        "second_b": [0],
        "second_out": [3],
        "last_w": [3],
    }


def test_removing_zero_channels_keeps_the_numbers_through_depthwise_flatten_and_elementwise() -> None:
    build = GraphBuilder()
    x = _conv(build, build.input("x", (1, 4, 4, 3)), 4, "first")
    wide = build("Relu", _depthwise(build, x, 2, "spread"))
    scaled = build("PRelu", build("Mul", wide, build.random((8,))), build.random((1, 1, 8)))
    flat = build("Reshape", scaled, shape=(1, 4 * 4 * 8))
    graph = build.graph_of(build("Dense", flat, build.random((5, 128)), name="head"))
    group = _only(graph, "first")
    assert (group.size, group.blocked) == (4, None)
    assert group.member(flat, 1).places[1].tolist() == [8 * pixel + 2 + copy for pixel in range(16) for copy in (0, 1)]
    _zero_channels(group, [1, 2])
    before = graph.copy()
    keep_channels(graph, {group: [0, 3]})
    verify(graph, after="keep_channels")
    assert [node.input(1).shape for node in graph.nodes if node.op == "Dense"] == [(5, 64)]
    assert_same_numbers(before, graph)


def test_channels_leave_a_transposed_depthwise_convolution_as_they_leave_a_depthwise_one() -> None:
    build = GraphBuilder()
    x = _conv(build, build.input("x", (1, 3, 3, 3)), 4, "first")
    weights, bias = build.random((4, 2, 2, 1), "spread_w"), build.random((4,), "spread_b")
    x = build("ConvTranspose", x, weights, bias, name="spread", strides=(2, 2), group=4, layout="NHWC")
    graph = build.graph_of(_conv(build, x, 2, "last"))
    group = _only(graph, "first")
    assert group.blocked is None
    assert [use.node.name for use in group.depthwise] == ["spread"]
    _zero_channels(group, [2])
    before = graph.copy()
    keep_channels(graph, {group: [0, 1, 3]})
    verify(graph, after="keep_channels")
    assert [node.input(1).shape for node in graph.nodes] == [(3, 1, 1, 3), (3, 2, 2, 1), (2, 1, 1, 3)]
    assert_same_numbers(before, graph)


def test_a_flattened_image_in_channels_first_layout_gives_blocks_of_columns() -> None:
    build = GraphBuilder()
    x = build("Conv", build.input("x", (1, 3, 4, 4)), build.random((6, 3, 1, 1)), build.random((6,)), name="first")
    flat = build("Reshape", build("AveragePool", x, strides=(2, 2)), shape=(1, 24))
    graph = build.graph_of(build("Dense", flat, build.random((5, 24)), name="head"))
    group = _only(graph, "first")
    _zero_channels(group, [5])
    before = graph.copy()
    keep_channels(graph, {group: [0, 1, 2, 3, 4]})
    verify(graph, after="keep_channels")
    assert graph.nodes[-2].ints("shape") == (1, 20)
    assert_same_numbers(before, graph)


def test_weights_that_two_layers_share_are_cut_once_for_both() -> None:
    build = GraphBuilder()
    x, weights = build.input("x", (2, 6)), build.random((4, 6), "shared")
    a, b = (build("Dense", build("Mul", x, build.constant(factor)), weights) for factor in (1.0, 2.0))
    graph = build.graph_of(build("Dense", build("Add", a, b), build.random((3, 4)), name="head"))
    group = _only(graph, "dense")
    assert [use.node.name for use in group.producers] == ["dense", "dense_2"]
    keep_channels(graph, {group: [3]})
    verify(graph, after="keep_channels")
    assert weights.shape == (1, 6)


def test_quantized_weights_are_cut_behind_their_dequantize_linear() -> None:
    build = GraphBuilder()
    weights = build.random_int8((3, 2), Quantization.per_channel((0.1, 0.2, 0.3), (0, 0, 0), 0))
    bias = build.constant([5, 6, 7], "b", "int32", Quantization.per_channel((0.01, 0.02, 0.03), (0, 0, 0), 0))
    x = build("Dense", build.input("x", (1, 2)), build("DequantizeLinear", weights), build("DequantizeLinear", bias))
    graph = build.graph_of(build("Dense", x, build.random((2, 3)), name="head"))
    keep_channels(graph, {_only(graph, "dense"): [0, 2]})
    verify(graph, after="keep_channels")
    assert weights.quantization == Quantization.per_channel((0.1, 0.3), (0, 0), 0)
    assert bias.data.tolist() == [5, 7]


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("Softmax", "Softmax 'softmax' normalizes over it"),
        ("Slice", "Slice 'slice' takes one in 2 of it"),
        ("ReduceMean", "ReduceMean 'reducemean' reduces it"),
        ("MatMul", "MatMul 'matmul' has no channel rule"),
    ],
)
def test_an_operator_that_is_not_followed_blocks_the_group_and_is_named(operator: str, expected: str) -> None:
    build = GraphBuilder()
    x = build("Dense", build.input("x", (4, 6)), build.random((4, 6)), name="first")
    inputs = [x, x] if operator == "MatMul" else [x]
    every_other = {"starts": (0, 0), "steps": (1, 2), "sizes": (4, 2)}
    attributes: dict[str, dict[str, Any]] = {"ReduceMean": {"axes": (1,)}, "MatMul": {}, "Slice": every_other}
    y = build(operator, *inputs, **attributes.get(operator, {"axis": 1}))
    graph = build.graph_of(build("Dense", y, build.random((2, y.shape[1])), name="head"))
    assert expected in (_only(graph, "first").blocked or "")


def test_channels_at_the_border_of_the_graph_stay() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 6))
    graph = build.graph_of(build("Add", x, build("Dense", x, build.random((6, 6)), name="only")))
    assert _only(graph, "only").blocked == "it reaches the graph's input 'x'"


def test_axes_that_a_reshape_regroups_block_the_channels() -> None:
    build = GraphBuilder()
    x = _conv(build, build.input("x", (1, 4, 6, 3)), 8, "first")
    shuffled = build("Reshape", x, shape=(1, 4, 12, 4))
    graph = build.graph_of(_conv(build, shuffled, 2, "last"))
    assert "regroups it" in (_only(graph, "first").blocked or "")


def test_each_branch_of_a_concat_has_a_group_of_its_own_and_what_must_stay_stays() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4, 4, 3))
    a, b = _conv(build, x, 4, "a"), _conv(build, x, 5, "b")
    joined = build("Concat", a, x, b, axis=3)
    graph = build.graph_of(_conv(build, joined, 2, "head"))
    first, second = _only(graph, "a"), _only(graph, "b")
    assert (first.size, first.blocked, second.size, second.blocked) == (4, None, 5, None)
    assert second.member(joined, 3).places.tolist() == [[7], [8], [9], [10], [11]]
    keep_channels(graph, {first: [1], second: [0, 4]})
    verify(graph, after="keep_channels")
    assert joined.shape == (1, 4, 4, 1 + 3 + 2)


def test_a_unit_is_the_same_place_in_every_group_of_a_convolution_and_behind_its_shuffle() -> None:
    build = GraphBuilder()
    x = _conv(build, build.input("x", (1, 4, 4, 3)), 6, "first")
    grouped = build("Conv", x, build.random((8, 1, 1, 3)), name="grouped", layout="NHWC", group=2)
    parts = build("Reshape", grouped, shape=(1, 4, 4, 2, 4))
    shuffled = build("Reshape", build("Transpose", parts, perm=(0, 1, 2, 4, 3)), shape=(1, 4, 4, 8))
    graph = build.graph_of(_conv(build, shuffled, 2, "head"))
    first, second = _only(graph, "first"), _only(graph, "grouped")
    assert first.member(x, 3).places.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert second.member(grouped, 3).places.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert second.member(shuffled, 3).places.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert second.blocked is None
