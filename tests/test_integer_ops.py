"""Integer operators: every bit against loops over Python's integers, and within one step of onnxruntime."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

from tests.graph_builder import GraphBuilder, random_inputs
from tests.integer_cases import CASES as INT8_CASES
from tests.integer_cases import MIXED_CASES, conv
from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Attribute, Node, Quantization, TensorType, Value
from tinyopt.onnx_export import export_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.ops.requantize import MULTIPLIER_BITS, multiplier_and_shift, requantize

Index = tuple[int, ...]
CASES = {**INT8_CASES, **MIXED_CASES}


def zero(value: Value) -> int:
    assert value.quantization is not None
    return value.quantization.zero_point[0]


def rounded(node: Node, product: int) -> int:
    """The definition: one rounding of the exact product, half up."""
    levels = math.floor(product / (1 << node.int("shift")) + 0.5)
    assert levels == (product + (1 << (node.int("shift") - 1))) >> node.int("shift")
    low, high = node.int("low"), node.int("high")
    return min(max(levels + zero(node.output), low), high)


def slow_conv(node: Node, arrays: list[Array], at: Index) -> int:
    x, w, bias, multiplier = arrays[:4]
    (_, oy, ox, o), (top, left, _, _) = at, node.ints("pads")
    per_group, group = w.shape[3], o // (len(w) // node.int("group"))
    acc = int(bias[o])
    for ky, kx, i in np.ndindex(*w.shape[1:]):
        y = oy * node.ints("strides")[0] + ky * node.ints("dilations")[0] - top
        column = ox * node.ints("strides")[1] + kx * node.ints("dilations")[1] - left
        is_inside = 0 <= y < x.shape[1] and 0 <= column < x.shape[2]
        cell = int(x[0, y, column, group * per_group + i]) if is_inside else zero(node.input(0))
        acc += cell * int(w[o, ky, kx, i])
    return rounded(node, acc * int(multiplier[o]) + residual_part(node, arrays, at))


def slow_dense(node: Node, arrays: list[Array], at: Index) -> int:
    x, w, bias, multiplier = arrays[:4]
    acc = int(bias[at[-1]]) + sum(int(x[*at[:-1], k]) * int(w[at[-1], k]) for k in range(w.shape[1]))
    return rounded(node, acc * int(multiplier[at[-1]]) + residual_part(node, arrays, at))


def residual_part(node: Node, arrays: list[Array], at: Index) -> int:
    residual = node.optional_input(4)
    return 0 if residual is None else (int(arrays[4][at]) - zero(residual)) * node.int("residual_multiplier")


def slow_conv_transpose(node: Node, arrays: list[Array], at: Index) -> int:
    """Every input cell reaches output cell stride * y + dilation * ky - pad; those that reach `at` are added up."""
    x, w, bias, multiplier = arrays
    acc = int(bias[at[3]])
    for y, column, ky, kx, i in itertools.product(*map(range, (*x.shape[1:3], *w.shape[1:3], x.shape[3]))):
        row = y * node.ints("strides")[0] + ky * node.ints("dilations")[0] - node.ints("pads")[0]
        place = column * node.ints("strides")[1] + kx * node.ints("dilations")[1] - node.ints("pads")[1]
        if (row, place) == at[1:3]:
            acc += (int(x[0, y, column, i]) - zero(node.input(0))) * int(w[i, ky, kx, at[3]])
    return rounded(node, acc * int(multiplier[at[3]]))


def slow_matmul(node: Node, arrays: list[Array], at: Index) -> int:
    a, b = arrays
    za, zb = zero(node.input(0)), zero(node.input(1))
    acc = sum((int(a[*at[:-1], k]) - za) * (int(b[k, at[-1]]) - zb) for k in range(len(b)))
    return rounded(node, acc * node.int("multiplier"))


def centred_pair(node: Node, arrays: list[Array], at: Index) -> tuple[int, int]:
    a, b = (np.broadcast_to(array, node.output.shape)[at] for array in arrays)
    return int(a) - zero(node.input(0)), int(b) - zero(node.input(1))


def slow_add(node: Node, arrays: list[Array], at: Index) -> int:
    a, b = centred_pair(node, arrays, at)
    total = a * node.int("multiplier_a") + b * node.int("multiplier_b")
    is_narrow = all(value.dtype == "int8" for value in (*node.present_inputs, node.output))
    assert not is_narrow or abs(total) + (1 << (node.int("shift") - 1)) < 2**31
    return rounded(node, total)


def slow_mul(node: Node, arrays: list[Array], at: Index) -> int:
    a, b = centred_pair(node, arrays, at)
    return rounded(node, a * b * node.int("multiplier"))


def slow_prelu(node: Node, arrays: list[Array], at: Index) -> int:
    x = int(arrays[0][at]) - zero(node.input(0))
    return rounded(node, x * (node.int("multiplier") if x >= 0 else int(arrays[1][at[3]])))


def slow_requantize(node: Node, arrays: list[Array], at: Index) -> int:
    return rounded(node, (int(arrays[0][at]) - zero(node.input(0))) * node.int("multiplier"))


def slow_lookup(node: Node, arrays: list[Array], at: Index) -> int:
    del node
    return int(arrays[1][int(arrays[0][at]) + 128])


def slow_average_pool(node: Node, arrays: list[Array], at: Index) -> int:
    x, multipliers = arrays
    acc = 0
    for ky, kx in np.ndindex(*node.ints("kernel")):
        y = at[1] * node.ints("strides")[0] + ky - node.ints("pads")[0]
        column = at[2] * node.ints("strides")[1] + kx - node.ints("pads")[1]
        if 0 <= y < x.shape[1] and 0 <= column < x.shape[2]:
            acc += int(x[0, y, column, at[3]]) - zero(node.input(0))
    position = at[1] * node.output.shape[2] + at[2]
    return rounded(node, acc * int(multipliers[position if len(multipliers) > 1 else 0]))


def slow_reduce_sum(node: Node, arrays: list[Array], at: Index) -> int:
    (x,), axes = arrays, node.ints("axes")
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    fixed = dict(zip(kept, [at[axis] for axis in kept] if node.int("keepdims") else at, strict=True))
    acc = sum(
        int(x[cell]) - zero(node.input(0))
        for cell in np.ndindex(*x.shape)
        if all(cell[axis] == index for axis, index in fixed.items())
    )
    return rounded(node, acc * node.int("multiplier"))


def slow_softmax(node: Node, arrays: list[Array], at: Index) -> int:
    x, axis = arrays[0], node.int("axis")
    line = [int(item) for item in x[tuple(slice(None) if i == axis else at[i] for i in range(x.ndim))]]
    assert node.input(0).quantization is not None
    scale = node.input(0).quantization.scale[0]  # type: ignore[union-attr]
    exponential = exponential_int8 if node.input(0).dtype == "int8" else exponential_int16
    e = [exponential(max(line) - item, scale) for item in line]
    level = (e[at[axis]] * node.int("ratio") + sum(e) // 2) // sum(e) + zero(node.output)
    limit = 1 << (7 if node.output.dtype == "int8" else 15)
    return min(max(level, -limit), limit - 1)


def exponential_int8(distance: int, scale: float) -> int:
    return round(math.exp(-distance * scale) * 2**20)


def exponential_int16(distance: int, scale: float) -> int:
    """In two factors, for steps of 256 and for what is left."""
    factors = [round(math.exp(-part * scale) * 65535) for part in (distance // 256 * 256, distance % 256)]
    e = (factors[0] * factors[1] + 2048) // 4096
    assert factors[0] * factors[1] + 2048 < 2**32
    assert abs(e / (65535**2 / 4096) - math.exp(-distance * scale)) < 2**-16
    return e


SLOW: Mapping[str, Callable[[Node, list[Array], Index], int]] = {
    "QConv": slow_conv,
    "QDense": slow_dense,
    "QConvTranspose": slow_conv_transpose,
    "QMatMul": slow_matmul,
    "QAdd": slow_add,
    "QMul": slow_mul,
    "QPRelu": slow_prelu,
    "QRequantize": slow_requantize,
    "QLookup": slow_lookup,
    "QAveragePool": slow_average_pool,
    "QReduceSum": slow_reduce_sum,
    "QSoftmax": slow_softmax,
}


@pytest.mark.parametrize("case", CASES)
def test_every_bit_is_what_the_loop_says(case: str) -> None:
    graph = CASES[case]
    (node,) = graph.nodes
    inputs = random_inputs(graph)
    arrays = [value.data if value.is_constant else inputs[value.name] for value in node.present_inputs]
    (got,) = evaluate(graph, inputs).values()
    expected = [SLOW[node.op](node, arrays, at) for at in np.ndindex(*node.output.shape)]
    np.testing.assert_array_equal(got.ravel(), expected)
    assert len(np.unique(got)) > 4, "the case says little: nearly all outputs are equal"


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_is_never_further_than_one_step(case: str) -> None:
    graph = CASES[case]
    onnx.checker.check_model(export_model(graph), full_check=True)
    inputs = random_inputs(graph)
    expected, got = evaluate(graph, inputs), OnnxSession(graph).run(inputs)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        steps, differing = (1, 0.05) if array.dtype == np.int8 else (2, 0.3)  # a softmax of int16: two half steps
        assert np.max(np.abs(got[name].astype(int) - array.astype(int))) <= steps
        assert np.mean(got[name] != array) < differing


def test_all_integer_operators_are_tested() -> None:
    assert {graph.nodes[0].op for graph in CASES.values()} == {op for op in OPERATORS if op.startswith("Q")} - {
        "QuantizeLinear"
    }


@pytest.mark.parametrize("depth", [1024, 1025])
def test_the_largest_sums_are_exact_to_the_last_bit(depth: int) -> None:
    """The bias takes the sum back to 5; depths on both sides of where sums leave float32's exact range."""
    build = GraphBuilder()
    unit = Quantization.per_tensor(1.0, 0)
    weights = np.full((1, depth), -128, np.int8)
    weights[0, 0] = -127
    constants = [
        build.constant(weights, quantization=unit),
        build.constant(np.array([5 - 128 * (128 * depth - 1)], np.int32)),
        build.constant(np.array([1 << 30], np.int32)),
    ]
    x = build.input("x", (1, depth), "int8", unit)
    graph = build.graph_of(build("QDense", x, *constants, residual_multiplier=0, shift=30, low=-128, high=127))
    (got,) = evaluate(graph, {"x": np.full((1, depth), -128, np.int8)}).values()
    assert got.tolist() == [[5]]


def test_the_macs_of_integer_layers_are_those_of_the_float_layers() -> None:
    node = CASES["QConv in groups"].nodes[0]
    assert node.output.shape == (1, 4, 6, 6)
    assert OPERATORS["QConv"].macs(node) == 4 * 6 * 6 * (3 * 2 * 2)


def test_requantization_rounds_half_up_and_clamps() -> None:
    acc = np.array([-3, -2, -1, 0, 1, 2, 3, 1000, -1000], np.int32)
    np.testing.assert_array_equal(requantize(acc, 1 << 30, 31, 10, -5, 100), [9, 9, 10, 10, 11, 11, 12, 100, -5])
    largest = np.array([2**31 - 1, -(2**31)], np.int64)
    np.testing.assert_array_equal(requantize(largest, 2**31 - 1, 32, 0, -128, 127), [127, -128])


def test_multipliers_are_the_nearest_integers_and_fit() -> None:
    multiplier, shift = multiplier_and_shift(np.array([0.25, 0.0, 1e-6]))
    assert (multiplier.tolist(), shift) == ([1 << 30, 0, 4295], 32)
    multiplier, shift = multiplier_and_shift(np.array([0.5, -3.0]))
    assert (multiplier.tolist(), shift) == ([1 << 28, -3 << 29], 29)
    nearly_half = np.nextafter(0.5, 0)  # rounds to 2^31 at a shift of 32
    assert multiplier_and_shift(np.array([nearly_half]))[1] == 31
    for hopeless in (2.0**31, math.inf, math.nan):
        with pytest.raises(UnsupportedOperatorError):
            multiplier_and_shift(np.array([hopeless]))


def _without_quantization(node: Node) -> None:
    node.output.quantization = None


def _with_two_scales(node: Node) -> None:
    node.input(0).quantization = Quantization.per_channel([0.1] * 4, [0] * 4, 3)


def _with_a_shift_of_33(node: Node) -> None:
    node.attributes["shift"] = 33


def _with_crossed_limits(node: Node) -> None:
    node.attributes["low"] = 121


def _with_a_short_bias(node: Node) -> None:
    node.inputs[2] = Value.of("short", np.zeros(4, np.int32))


def _with_skewed_weights(node: Node) -> None:
    node.input(1).quantization = Quantization.per_tensor(0.1, 3)


def _with_a_large_kernel(node: Node) -> None:
    node.attributes["dilations"] = (9, 9)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_without_quantization, "no scale"),
        (_with_two_scales, "more than one scale"),
        (_with_a_shift_of_33, "shift is 33"),
        (_with_crossed_limits, "no range"),
        (_with_a_short_bias, "bias 'short'"),
        (_with_skewed_weights, "not symmetric"),
        (_with_a_large_kernel, "smaller than the kernel"),
    ],
)
def test_a_contradiction_is_refused_with_the_node_named(spoil: Callable[[Node], None], complaint: str) -> None:
    (node,) = conv((5, 3, 2, 4), group=1).nodes
    spoil(node)
    with pytest.raises(InvalidModelError, match=f"QConv 'qconv'.*{complaint}"):
        OPERATORS["QConv"].infer(node)


@pytest.mark.parametrize("multiplier", [-1, 0, (1 << MULTIPLIER_BITS) - 1, 1 << MULTIPLIER_BITS])
def test_a_change_of_scale_takes_every_multiplier_of_its_bits_and_no_other(multiplier: int) -> None:
    x = Value("x", TensorType("int8", (1, 4)), quantization=Quantization.per_tensor(0.1, 3))
    y = Value("y", TensorType("int16", (1, 4)), quantization=Quantization.per_tensor(0.1, 0))
    attributes: dict[str, Attribute] = {"multiplier": multiplier, "shift": 20, "low": -32768, "high": 32767}
    node = Node("QRequantize", "rescaled", [x], [y], attributes)
    if 0 <= multiplier < 1 << MULTIPLIER_BITS:
        assert OPERATORS["QRequantize"].infer(node) == [y.type]
        (levels,) = OPERATORS["QRequantize"].evaluate(node, [np.array([[3, 4, 127, -128]], np.int8)])
        exact = [centred * multiplier / 2**20 for centred in (0, 1, 124, -131)]
        assert levels.tolist() == [[min(max(math.floor(each + 0.5), -32768), 32767) for each in exact]]
    else:
        with pytest.raises(InvalidModelError, match=f"'rescaled': multiplier is {multiplier}"):
            OPERATORS["QRequantize"].infer(node)
