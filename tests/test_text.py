"""The textual form: one golden with everything in it, and names that try to break lines."""

from __future__ import annotations

import math

import numpy as np

from tests.graph_builder import GraphBuilder
from tinyopt.ir import Clusters, Quantization
from tinyopt.text import print_graph, print_node

GOLDEN = """\
graph test
in %x: f32[1,4,4,2]
%quantizelinear_out: i8[1,4,4,2] <scale 0.05, zero -3> = QuantizeLinear(%x)  named quantizelinear
%dequantizelinear_out: f32[1,4,4,2] = DequantizeLinear(%quantizelinear_out)  from dequantizelinear
%conv_out: f32[1,4,4,3] = Conv(%dequantizelinear_out, @w: f32[3,1,1,2] #b50a9e53, @c: f32[3] [0.1, -2, inf], none) \
{clamp_low = 0, dilations = [1, 1], group = 1, layout = NHWC, pads = [0, 0, 0, 0], strides = [1, 1]}  from first, second
%split_out0: f32[1,4,4,1], %split_out1: f32[1,4,4,2] = Split(%conv_out) {axis = 3, sizes = [1, 2]}  from split
%mul_out: f32[1,4,4,1] = Mul(%split_out0, @c_2: f32[] 0.5)  from mul
out %split_out1
out %mul_out
"""


def test_a_graph_prints_as_the_golden_says() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4, 4, 2))
    levels = build("QuantizeLinear", x, quantization=Quantization.per_tensor(0.05, -3))
    real = build("DequantizeLinear", levels)
    weights = build.constant(np.arange(6, dtype=np.float32).reshape(3, 1, 1, 2), "w")
    bias = build.constant([0.1, -2, math.inf])
    first, second = build.many(
        "Split", build("Conv", real, weights, bias, layout="NHWC", clamp_low=0.0), outputs=2, axis=3, sizes=(1, 2)
    )
    graph = build.graph_of(second, build("Mul", first, build.constant(0.5)))
    graph.nodes[0].origins = ()
    graph.nodes[2].name, graph.nodes[2].origins = "first", ("first", "second")
    assert print_graph(graph) == GOLDEN
    assert print_graph(graph.copy()) == GOLDEN


def test_quantized_weights_show_scales_and_clusters() -> None:
    build = GraphBuilder()
    channels = np.array([0.5, 0.25, 0.125], np.float32)
    weights = build.random_int8((3, 2), Quantization.per_channel(channels, [0, 0, 0], 0))
    weights.clusters = Clusters(np.zeros((3, 2), np.uint8), np.array([-5, 7], np.int8), channels)
    weights.constant = weights.clusters.integers()
    build("DequantizeLinear", weights)
    assert print_node(build.nodes[0]) == (
        "%dequantizelinear_out: f32[3,2] = DequantizeLinear(@w: i8[3,2] #ede2e4eb"
        " <scale [0.5, 0.25, 0.125], zero 0, axis 0> <2 clusters #f988606f>)  from dequantizelinear"
    )


def test_no_name_can_break_a_line() -> None:
    build = GraphBuilder("graph\nname")
    x = build.input('x"\n\r\x00\x85\u2028', (2,))
    y = build("Relu", x, name="relu;\t1")
    graph = build.graph_of(y)
    graph.nodes[0].origins = ("a\nb", "%c = d")
    text = print_graph(graph)
    assert text.isascii()
    assert len(text.splitlines()) == 4
    assert text.splitlines()[1] == r'in %"x\"\n\r\u0000\u0085\u2028": f32[2]'


def test_a_changed_weight_changes_the_text() -> None:
    build = GraphBuilder()
    weights = build.random((3, 3))
    graph = build.graph_of(build("Dense", build.input("x", (1, 3)), weights))
    before = print_graph(graph)
    weights.constant = weights.data + np.float32(1e-3)
    assert print_graph(graph) != before
