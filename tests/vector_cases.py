"""Nodes with random data for the tests of the vector kernels."""

from __future__ import annotations

import math

import numpy as np

from tinyopt.ir import Array, Attribute, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.ops.requantize import multiplier_and_shift

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
NO_PADS: Pads = (0, 0, 0, 0)

_random = np.random.default_rng(7)


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
) -> tuple[Node, tuple[Array | None, ...]]:
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


def float_dense(rows: int, depth: int, channels: int, low: float = -math.inf) -> tuple[Node, tuple[Array | None, ...]]:
    """A float Dense."""
    x, w, b = floats(rows, depth), floats(channels, depth), floats(channels)
    inputs: list[Value | None] = [Value("x", TensorType.of(x)), Value.of("w", w), Value.of("b", b), None]
    return finished("Dense", inputs, clamp(low)), (x, w, b, None)


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
) -> tuple[Node, tuple[Array | None, ...]]:
    """A QConv of an NHWC image to `channels`; scale 1 fills the range of int8 well."""
    x, w = levels(1, *image), weights(channels, *kernel, image[2] // group)
    multiplier, shift = _requantization(w[0].size, channels, scale)
    bias = _random.integers(-20000, 20000, channels).astype(np.int32)
    inputs: list[Value | None] = [
        quantized(x, 11),
        Value.of("w", w, Quantization.per_channel([0.01] * channels, [0] * channels, 0)),
        Value.of("b", bias),
        Value.of("m", multiplier),
        None,
    ]
    attributes = {
        **window(strides, pads, dilations),
        "group": group,
        "residual_multiplier": 0,
        "shift": shift,
        "low": low,
        "high": high,
    }
    node = finished("QConv", inputs, attributes, Quantization.per_tensor(0.1, -7))
    added = levels(*node.output.shape) if residual else None
    if added is not None:
        node.inputs[4] = quantized(added, 5)
        node.attributes["residual_multiplier"] = int(0.4 * 2**shift)
    return node, (x, w, bias, multiplier, added)


def integer_dense(rows: int, depth: int, channels: int, scale: float = 1.0) -> tuple[Node, tuple[Array | None, ...]]:
    """A QDense."""
    x, w = levels(rows, depth), weights(channels, depth)
    multiplier, shift = _requantization(depth, channels, scale)
    bias = _random.integers(-20000, 20000, channels).astype(np.int32)
    inputs: list[Value | None] = [
        quantized(x, -128),
        Value.of("w", w, Quantization.per_channel([0.01] * channels, [0] * channels, 0)),
        Value.of("b", bias),
        Value.of("m", multiplier),
        None,
    ]
    attributes: dict[str, Attribute] = {"residual_multiplier": 0, "shift": shift, "low": -128, "high": 127}
    return finished("QDense", inputs, attributes, Quantization.per_tensor(0.1, 3)), (x, w, bias, multiplier, None)


def elementwise(
    op: str, *shape: int, attributes: dict[str, Attribute] | None = None
) -> tuple[Node, tuple[Array | None, ...]]:
    """A float operator of one or two inputs of equal shape."""
    arrays = tuple(floats(*shape) for _ in range(1 if op in ("Relu", "Clip") else 2))
    inputs: list[Value | None] = [Value(f"x{i}", TensorType.of(array)) for i, array in enumerate(arrays)]
    return finished(op, inputs, attributes or {}), arrays


def integer_sum(*shape: int, multiplier_b: int, low: int = -128) -> tuple[Node, tuple[Array | None, ...]]:
    """A QAdd of equal shapes."""
    a, b = levels(*shape), levels(*shape)
    attributes: dict[str, Attribute] = {
        "multiplier_a": 1_048_577,
        "multiplier_b": multiplier_b,
        "shift": 20,
        "low": low,
        "high": 127,
    }
    inputs: list[Value | None] = [quantized(a, -128), quantized(b, 17)]
    return finished("QAdd", inputs, attributes, Quantization.per_tensor(0.1, -20)), (a, b)


def to_levels(count: int) -> tuple[Node, tuple[Array | None, ...]]:
    """A QuantizeLinear; the input has halves between two levels, and values far beyond the ends."""
    x = np.concatenate([floats(count - 6) * 8, np.array([0.25, 0.75, -0.25, -1.25, 1e9, -1e9], np.float32)])
    inputs: list[Value | None] = [Value("x", TensorType.of(x))]
    return finished("QuantizeLinear", inputs, {}, Quantization.per_tensor(0.5, -3)), (x,)


def from_levels(count: int) -> tuple[Node, tuple[Array | None, ...]]:
    """A DequantizeLinear."""
    x = levels(count)
    return finished("DequantizeLinear", [quantized(x, 9, 0.013)], {}), (x,)


def pool(
    op: str,
    image: tuple[int, int, int],
    kernel: Pair,
    strides: Pair = (1, 1),
    pads: Pads = NO_PADS,
    dilations: Pair = (1, 1),
    counted_pads: Pads = NO_PADS,
    dtype: str = "float32",
) -> tuple[Node, tuple[Array | None, ...]]:
    """AveragePool, MaxPool (float32 or int8) or QAveragePool."""
    attributes: dict[str, Attribute] = {**window(strides, pads, dilations), "kernel": kernel}
    is_integer = dtype == "int8"
    x = levels(1, *image) if is_integer else floats(1, *image)
    inputs: list[Value | None] = [quantized(x, -5) if is_integer else Value("x", TensorType.of(x))]
    arrays: list[Array | None] = [x]
    if op == "AveragePool":
        attributes |= {"counted_pads": counted_pads, **clamp(-0.5)}
    if op == "QAveragePool":
        multiplier, shift = multiplier_and_shift(np.array([1.3 / (kernel[0] * kernel[1])]))
        inputs.append(Value.of("m", multiplier))
        arrays.append(multiplier)
        attributes |= {"shift": shift, "low": -128, "high": 127}
    same = inputs[0].quantization if inputs[0] is not None and op == "MaxPool" else Quantization.per_tensor(0.1, 4)
    return finished(op, inputs, attributes, same if is_integer else None), tuple(arrays)
