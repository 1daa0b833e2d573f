"""Sums in 32 bits: each kind of integer layer is taken as long as no sum can overflow, and not one step longer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, messages
from tests.kernel_harness import check_kernel
from tests.quantized_graphs import Q, lowered, quantize, real
from tinyopt.ir import Array, Graph, Node, Quantization, Value
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.scalar import SCALAR

LIMIT = 2**31 - 1
OUTPUT_SCALES = (2.0**20, 2.0**-14)
"""The multiplier has a shift of 32, then one so small that levels leave 32 bits before they are clamped."""


def weighted(op: str, terms: int, zero_point: int, dtype: str, spare: int, output_scale: float) -> Graph:
    """A layer of one output, all weights 127: its largest sum is terms * 127 * reach, its bias `spare`."""
    build = GraphBuilder()
    is_dense = op == "Dense"
    x = build.input("x", (1, terms) if is_dense else (1, 1, 1, terms), dtype, Q(0.5, zero_point))
    shape = {"Dense": (1, terms), "Conv": (1, 1, 1, terms), "ConvTranspose": (terms, 1, 1, 1)}[op]
    weights = build.constant(np.full(shape, 127, np.int8), quantization=Q(0.5, 0))
    bias = build.constant(np.array([spare], np.int32), quantization=Quantization.per_channel([0.25], [0], 0))
    layout: dict[str, Any] = {} if is_dense else {"layout": "NHWC"}
    made = build(op, real(build, x), real(build, weights), real(build, bias), **layout)
    return build.graph_of(_given(build, made, output_scale, dtype))


def product(terms: int, output_scale: float) -> Graph:
    """A product of two activations."""
    build = GraphBuilder()
    a, b = build.input("a", (1, terms), "int8", Q(0.5, 127)), build.input("b", (terms, 1), "int8", Q(0.5, 127))
    return build.graph_of(_given(build, build("MatMul", real(build, a), real(build, b)), output_scale, "int8"))


def reduction(op: str, terms: int, output_scale: float) -> Graph:
    """A sum of one activation's elements."""
    build = GraphBuilder()
    x = build.input("x", (1, 1, terms, 1), "int8", Q(0.5, 127))
    if op == "AveragePool":
        made = build(op, real(build, x), kernel=(1, terms), layout="NHWC")
    else:
        made = build(op, real(build, x), axes=(2,))
    return build.graph_of(_given(build, made, output_scale, "int8"))


def _given(build: GraphBuilder, value: Value, scale: float, dtype: str) -> Value:
    return (
        quantize(build, value, scale, 0)
        if dtype == "int8"
        else build("QuantizeLinear", value, quantization=Q(scale, 0), dtype="int16")
    )


def edges() -> dict[str, tuple[Callable[[float], Graph], Callable[[float], Graph]]]:
    """For each kind of layer the largest that fits, and the next one."""
    found: dict[str, tuple[Callable[[float], Graph], Callable[[float], Graph]]] = {}
    for op, reach, zero_point, dtype in (
        ("Dense", 128, 0, "int8"),
        ("Dense", 256, -128, "int8"),
        ("Dense", 2**15, 0, "int16"),
        ("Conv", 128, 0, "int8"),
        ("Conv", 255, 127, "int8"),
        ("ConvTranspose", 255, 127, "int8"),
    ):
        terms, spare = divmod(LIMIT, 127 * reach)
        sign = -1 if zero_point > 0 else 1  # of the share that the zero point has in a bias: -zero_point * sum(weights)
        layer = partial(weighted, op, terms, zero_point, dtype)
        found[f"{op}, {dtype}, zero point {zero_point}"] = (
            partial(layer, spare * sign),
            partial(layer, (spare + 1) * sign),
        )
    found["MatMul"] = partial(product, LIMIT // 255**2), partial(product, LIMIT // 255**2 + 1)
    for op in ("AveragePool", "ReduceSum", "ReduceMean"):
        found[op] = partial(reduction, op, LIMIT // 255), partial(reduction, op, LIMIT // 255 + 1)
    return found


EDGES = edges()


@pytest.mark.parametrize("kind", EDGES)
def test_a_sum_that_could_overflow_keeps_its_layer_in_float(kind: str) -> None:
    fits, does_not = EDGES[kind]
    assert not messages(lowered(fits(2.0**20)), "declined")
    (message,) = messages(lowered(does_not(2.0**20)), "declined")
    assert "not fit 32 bits" in message


@pytest.mark.parametrize("output_scale", OUTPUT_SCALES)
@pytest.mark.parametrize("kind", ["Dense, int8, zero point -128", "Dense, int16, zero point 0", "MatMul"])
def test_the_largest_sums_give_the_references_levels(kind: str, output_scale: float) -> None:
    graph = EDGES[kind][0](output_scale)
    lowered(graph, "int8")
    (node,) = graph.nodes
    for low in (True, False):
        check_kernel(node, _planned(node), [None if v is None else _array(v, low) for v in node.inputs])


def _array(value: Value, low: bool) -> Array:
    if value.constant is not None:
        return value.constant
    information = np.iinfo(value.dtype)
    return np.full(value.shape, information.min if low else information.max, value.dtype)


def _planned(node: Node) -> Kernel:
    kernel = SCALAR[node.op][-1](node)
    assert not isinstance(kernel, Refusal)
    return kernel
