"""Nodes with random data for the tests of the vector kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Attribute, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.ops.requantize import multiplier_and_shift

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
Sample = tuple[Node, tuple[Array | None, ...]]  # a node and its inputs' arrays, constants included
NO_PADS: Pads = (0, 0, 0, 0)
SAME: Pads = (1, 1, 1, 1)

_random = np.random.default_rng(7)


def begin_with(seed: int) -> None:
    """Let the data of the samples that follow depend on the seed, and not on what was drawn before."""
    _random.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def floats(*shape: int) -> Array:
    return _random.normal(size=shape).astype(np.float32)


def levels(*shape: int) -> Array:
    return _random.integers(-128, 128, size=shape).astype(np.int8)


def weights(*shape: int) -> Array:
    return _random.integers(-127, 128, size=shape).astype(np.int8)


def quantized(array: Array, zero_point: int, scale: float = 0.05) -> Value:
    return Value("x", TensorType.of(array), None, Quantization.per_tensor(scale, zero_point))


def finished(
    op: str,
    inputs: list[Value | None],
    attributes: dict[str, Attribute],
    quantization: Quantization | None = None,
) -> Node:
    """The node with the output that the operator's shape rule gives."""
    node = Node(
        op,
        op.lower(),
        inputs,
        [Value("y", TensorType("int8" if quantization else "float32", ()), None, quantization)],
        attributes,
    )
    node.outputs[0].type = OPERATORS[op].infer(node)[0]
    return node


def in_float16(sample: Sample) -> Sample:
    """The same float32 node on float16 numbers."""
    node, arrays = sample

    def narrow(array: Array | None) -> Array | None:
        return None if array is None else array.astype(np.float16)

    inputs = [
        None if v is None else Value(v.name, TensorType("float16", v.shape), narrow(v.constant)) for v in node.inputs
    ]
    output = Value("y", TensorType("float16", node.output.shape))
    return Node(node.op, node.name, inputs, [output], node.attributes), tuple(map(narrow, arrays))


def window(strides: Pair = (1, 1), pads: Pads = NO_PADS, dilations: Pair = (1, 1)) -> dict[str, Attribute]:
    return {"strides": strides, "pads": pads, "dilations": dilations, "layout": "NHWC"}


def clamp(low: float = -math.inf, high: float = math.inf) -> dict[str, Attribute]:
    return {"clamp_low": low, "clamp_high": high}


def float_convolution(
    image: tuple[int, int, int],
    channels: int,
    kernel: Pair = (1, 1),
    strides: Pair = (1, 1),
    pads: Pads = NO_PADS,
    dilations: Pair = (1, 1),
    group: int = 1,
    residual: bool = False,
    low: float = -math.inf,
    high: float = math.inf,
) -> Sample:
    """A float Conv of an NHWC image to `channels`."""
    x = floats(1, *image)
    inputs: list[Value | None] = [
        Value("x", TensorType.of(x)),
        Value.of("w", floats(channels, *kernel, image[2] // group)),
        Value.of("b", floats(channels)),
        None,
    ]
    attributes = {**window(strides, pads, dilations), "group": group, **clamp(low, high)}
    node = finished("Conv", inputs, attributes)
    added = floats(*node.output.shape) if residual else None
    if added is not None:
        node.inputs[3] = Value("r", TensorType.of(added))
    return node, (x, inputs[1].data, inputs[2].data, added)  # type: ignore[union-attr]


def float_dense(
    rows: int,
    depth: int,
    channels: int,
    low: float = -math.inf,
    high: float = math.inf,
    residual: bool = False,
) -> Sample:
    """A float Dense."""
    x, w, b = floats(rows, depth), floats(channels, depth), floats(channels)
    added = floats(rows, channels) if residual else None
    inputs: list[Value | None] = [Value("x", TensorType.of(x)), Value.of("w", w), Value.of("b", b), None]
    if added is not None:
        inputs[3] = Value("r", TensorType.of(added))
    return finished("Dense", inputs, clamp(low, high)), (x, w, b, added)


def _requantization(depth: int, channels: int, scale: float) -> tuple[Array, int]:
    spread = scale / math.sqrt(depth) * _random.uniform(0.3, 1.0, channels)
    return multiplier_and_shift(spread / 50)


def integer_convolution(
    image: tuple[int, int, int],
    channels: int,
    kernel: Pair = (1, 1),
    strides: Pair = (1, 1),
    pads: Pads = NO_PADS,
    dilations: Pair = (1, 1),
    group: int = 1,
    residual: bool = False,
    low: int = -128,
    high: int = 127,
    scale: float = 1.0,
    zero_points: Pair = (11, -7),
) -> Sample:
    """A QConv of an NHWC image to `channels`; scale 1 fills the range of int8 well.

    zero_points: of input and output.
    """
    x, w = levels(1, *image), weights(channels, *kernel, image[2] // group)
    attributes: dict[str, Attribute] = {**window(strides, pads, dilations), "group": group, "low": low, "high": high}
    return _weighted("QConv", x, w, attributes, residual, scale, zero_points)


def integer_dense(
    rows: int,
    depth: int,
    channels: int,
    scale: float = 1.0,
    residual: bool = False,
    low: int = -128,
    high: int = 127,
    zero_points: Pair = (-128, 3),
) -> Sample:
    """A QDense; scale and zero points as in `integer_convolution`."""
    x, w = levels(rows, depth), weights(channels, depth)
    return _weighted("QDense", x, w, {"low": low, "high": high}, residual, scale, zero_points)


def _weighted(
    op: str, x: Array, w: Array, attributes: dict[str, Attribute], residual: bool, scale: float, zero_points: Pair
) -> Sample:
    channels = len(w)
    multiplier, shift = _requantization(w[0].size, channels, scale)
    bias = _random.integers(-20000, 20000, channels).astype(np.int32)
    inputs: list[Value | None] = [
        quantized(x, zero_points[0]),
        Value.of("w", w, Quantization.per_channel([0.01] * channels, [0] * channels, 0)),
        Value.of("b", bias),
        Value.of("m", multiplier),
        None,
    ]
    rounding = {"residual_multiplier": 0, "shift": shift}
    node = finished(op, inputs, {**attributes, **rounding}, Quantization.per_tensor(0.1, zero_points[1]))
    added = levels(*node.output.shape) if residual else None
    if added is not None:
        node.inputs[4] = quantized(added, 5)
        node.attributes["residual_multiplier"] = int(0.4 * 2**shift)
    return node, (x, w, bias, multiplier, added)


def elementwise(op: str, *shape: int, attributes: dict[str, Attribute] | None = None) -> Sample:
    """A float operator of one or two inputs of equal shape."""
    return elementwise_of(op, [shape] * (1 if op in ("Relu", "Clip") else 2), attributes or {})


def elementwise_of(op: str, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Attribute]) -> Sample:
    """A float operator of inputs of these shapes, broadcast where they differ."""
    arrays = tuple(floats(*shape) for shape in shapes)
    inputs: list[Value | None] = [Value(f"x{i}", TensorType.of(array)) for i, array in enumerate(arrays)]
    return finished(op, inputs, attributes), arrays


def integer_sum(*shape: int, multiplier_b: int, low: int = -128) -> Sample:
    """A QAdd of equal shapes."""
    return integer_sum_of([shape, shape], (1_048_577, multiplier_b), 20, low)


def integer_sum_of(
    shapes: Sequence[tuple[int, ...]],
    multipliers: Pair,
    shift: int,
    low: int = -128,
    high: int = 127,
    zero_points: tuple[int, int, int] = (-128, 17, -20),
) -> Sample:
    """A QAdd, broadcast where the shapes differ. zero_points: of the inputs and the output."""
    arrays = tuple(levels(*shape) for shape in shapes)
    attributes: dict[str, Attribute] = {
        "multiplier_a": multipliers[0],
        "multiplier_b": multipliers[1],
        "shift": shift,
        "low": low,
        "high": high,
    }
    inputs: list[Value | None] = [quantized(array, zero) for array, zero in zip(arrays, zero_points, strict=False)]
    return finished("QAdd", inputs, attributes, Quantization.per_tensor(0.1, zero_points[2])), arrays


def to_levels(count: int, scale: float = 0.5, zero_point: int = -3) -> Sample:
    """A QuantizeLinear; the input has halves between two levels, and values far beyond the ends."""
    ends = np.array([0.5, 1.5, -0.5, -2.5, 2e9, -2e9], np.float32) * np.float32(scale)
    x = np.concatenate([floats(count) * np.float32(16 * scale), ends])[-count:]
    inputs: list[Value | None] = [Value("x", TensorType.of(x))]
    return finished("QuantizeLinear", inputs, {}, Quantization.per_tensor(scale, zero_point)), (x,)


def from_levels(count: int, scale: float = 0.013, zero_point: int = 9) -> Sample:
    """A DequantizeLinear."""
    x = levels(count)
    return finished("DequantizeLinear", [quantized(x, zero_point, scale)], {}), (x,)


def pool(
    op: str,
    image: tuple[int, int, int],
    kernel: Pair,
    strides: Pair = (1, 1),
    pads: Pads = NO_PADS,
    dilations: Pair = (1, 1),
    counted_pads: Pads = NO_PADS,
    dtype: str = "float32",
    low: int = -128,
    high: int = 127,
    zero_points: Pair = (-5, 4),
    has_factors: bool = False,
) -> Sample:
    """AveragePool, MaxPool (float32 or int8) or QAveragePool, whose are the clamp, the zero points and the factors.

    has_factors: a multiplier for each output position.
    """
    attributes: dict[str, Attribute] = {**window(strides, pads, dilations), "kernel": kernel}
    is_integer = dtype == "int8"
    x = levels(1, *image) if is_integer else floats(1, *image)
    inputs: list[Value | None] = [quantized(x, zero_points[0]) if is_integer else Value("x", TensorType.of(x))]
    if op == "AveragePool":
        attributes |= {"counted_pads": counted_pads, **clamp(-0.5)}
    if op != "QAveragePool":
        same = Quantization.per_tensor(0.1, zero_points[0]) if is_integer else None
        return finished(op, inputs, attributes, same), (x,)
    multiplier, shift = multiplier_and_shift(np.array([1.3 / (kernel[0] * kernel[1])]))
    inputs.append(Value.of("m", multiplier))
    attributes |= {"shift": shift, "low": low, "high": high}
    node = finished(op, inputs, attributes, Quantization.per_tensor(0.1, zero_points[1]))
    if has_factors:
        shares = _random.uniform(0.6, 1.0, node.output.shape[1] * node.output.shape[2])
        node.inputs[1] = Value.of("m", (multiplier * shares).astype(np.int32))
    return node, (x, node.input(1).data)
