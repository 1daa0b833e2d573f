"""Small random networks in float, NHWC, valid by construction, with everything that channels are followed through.

A network grows from its input: each step takes tensors that are there and adds one or more. At the end a few of them
get heads. Weights are scaled by the number of operands, so that numbers stay about 1. In a quantized network every
scale is a power of two and every level small, so that float sums are exact, in whatever order, and no rounding flips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from graph_builder import GraphBuilder

from tinyopt.ir import Array, Graph, Quantization, Value

_STEPS = (3, 9)  # fewest and most


def random_graph(seed: int) -> Graph:
    """A network of its own for each seed; every fifth is quantized (QDQ)."""
    return _Network(seed, is_quantized=seed % 5 == 4).build()


class _Network:
    def __init__(self, seed: int, is_quantized: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.builder = GraphBuilder(f"random_{seed}", seed)
        self.is_quantized = is_quantized
        self.shared: dict[tuple[int, ...], Value] = {}  # weights that further layers of that shape may read
        self.images: list[Value] = []  # [1, H, W, C]

    def build(self) -> Graph:
        side = int(self.random.choice([4, 6]))
        x = self.builder.input("x", (1, side, side, self.integer(2, 4)))
        self.images = [x, self.conv(x)]
        names = [name for name in _MAKERS if name not in _INEXACT] if self.is_quantized else list(_MAKERS)
        for _ in range(self.integer(*_STEPS)):
            made = _MAKERS[str(self.random.choice(names))](self, self.image())
            self.images.extend(value for value in made if 2 <= value.shape[3] <= 24)
        heads = [self.head(self.images[-1])]
        if self.random.random() < 0.3:
            heads.append(self.head(self.image()))
        if self.random.random() < 0.1:
            heads.append(self.builder("Relu", self.image()))
        graph = self.builder.graph_of(*heads)
        graph.remove_unused()
        return graph

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def image(self) -> Value:
        """Mostly a late one."""
        return self.images[-1 - min(int(self.random.geometric(0.5)) - 1, len(self.images) - 1)]

    def twin(self, x: Value) -> Value:
        """Another image of the same height and width, or of the same shape where there is one."""
        same = [image for image in self.images if image.shape == x.shape and image is not x]
        return same[-1] if same and self.random.random() < 0.5 else self.conv(x, x.shape[3])

    def weights(self, shape: tuple[int, ...], operands: int, axis: int | None) -> Value:
        if shape in self.shared and self.random.random() < 0.15:
            return self.shared[shape]
        if self.is_quantized:
            levels = self.random.integers(-4, 5, size=shape).astype(np.int8)
            quantization = Quantization.per_tensor(0.25, 0)
            if axis is not None:
                scales = 2.0 ** self.random.integers(-3, -1, size=shape[axis])
                quantization = Quantization.per_channel(scales, [0] * shape[axis], axis)
            value = self.builder("DequantizeLinear", self.builder.constant(levels, "levels", "int8", quantization))
        else:
            value = self.builder.constant((self.random.normal(size=shape) / np.sqrt(operands)).astype(np.float32), "w")
        self.shared[shape] = value
        return value

    def bias(self, count: int) -> Value | None:
        if self.random.random() < 0.3:
            return None
        if self.is_quantized:
            levels: Array = self.random.integers(-9, 10, size=count).astype(np.int32)
            scales = Quantization.per_channel([2.0**-5] * count, [0] * count, 0)
            return self.builder("DequantizeLinear", self.builder.constant(levels, "bias_levels", "int32", scales))
        return self.builder.random((count,), "b")

    def finished(self, value: Value) -> Value:
        """An activation behind a layer, and in a quantized network a pair of QuantizeLinear and DequantizeLinear."""
        activations = ["none", "Relu", "Clip"] + ([] if self.is_quantized else ["Sigmoid", "HardSwish", "LeakyRelu"])
        op = str(self.random.choice(activations))
        if op == "Clip":
            value = self.builder("Clip", value, low=-0.5, high=1.0)
        elif op != "none":
            value = self.builder(op, value)
        if self.is_quantized:
            scale = Quantization.per_tensor(2.0**-4, self.integer(-20, 20))
            levels = self.builder("QuantizeLinear", value, quantization=scale, dtype="int8")
            value = self.builder("DequantizeLinear", levels)
        return value

    def conv(self, x: Value, outputs: int | None = None, group: int = 1, residual: Value | None = None) -> Value:
        size, inputs = int(self.random.choice([1, 3])), x.shape[3] // group
        outputs = outputs or group * self.integer(1 if group > 1 else 2, 6)
        weights = self.weights((outputs, size, size, inputs), size * size * inputs, 0)
        inputs_of_node = (x, weights, self.bias(outputs), residual)
        return self.finished(self.builder("Conv", *inputs_of_node, group=group, pads=(size // 2,) * 4, layout="NHWC"))

    def conv_transpose(self, x: Value, group: int) -> Value:
        weights = self.weights((x.shape[3], 2, 2, self.integer(1, 3)), x.shape[3] // group, None)
        outputs = weights.shape[3] * group
        y = self.builder("ConvTranspose", x, weights, self.bias(outputs), group=group, layout="NHWC", strides=(1, 1))
        return self.builder("Slice", y, starts=(0, 0, 0, 0), steps=(1, 1, 1, 1), sizes=(*x.shape[:3], outputs))

    def head(self, x: Value) -> Value:
        """A flattened or averaged image into one or two dense layers."""
        if self.random.random() < 0.5 or self.is_quantized:
            rows = self.builder("Reshape", x, shape=(1, int(np.prod(x.shape))))
        else:
            rows = self.builder("ReduceMean", x, axes=(1, 2), keepdims=0)
        if self.random.random() < 0.5:
            rows = self.finished(self.dense(rows, self.integer(3, 8)))
        return self.dense(rows, 3)

    def dense(self, x: Value, outputs: int) -> Value:
        return self.builder("Dense", x, self.weights((outputs, x.shape[1]), x.shape[1], 0), self.bias(outputs))

    def divisor(self, channels: int) -> int:
        """A number of groups that is more than one and leaves more than one channel to each, or 1."""
        found = [group for group in range(2, channels) if channels % group == 0]
        return int(self.random.choice(found)) if found else 1


def _add(net: _Network, x: Value) -> list[Value]:
    twin = net.twin(x)
    return [net.conv(x, x.shape[3], residual=twin) if net.random.random() < 0.5 else net.builder("Add", x, twin)]


def _concat(net: _Network, x: Value) -> list[Value]:
    others = [image for image in net.images if image.shape[:3] == x.shape[:3]]
    other = others[net.integer(0, len(others) - 1)]
    if net.random.random() < 0.2:
        other = net.builder.random((*x.shape[:3], 2), "constant")
    return [net.builder("Concat", *((x, other) if net.random.random() < 0.5 else (other, x)), axis=3)]


def _split(net: _Network, x: Value) -> list[Value]:
    cut = net.integer(1, x.shape[3] - 1)
    return net.builder.many("Split", x, outputs=2, axis=3, sizes=(cut, x.shape[3] - cut))


def _slice(net: _Network, x: Value) -> list[Value]:
    size = net.integer(1, x.shape[3])
    start, step = net.integer(0, x.shape[3] - size), 1
    if net.random.random() < 0.3:
        start, step = start + size - 1, -1
    if net.random.random() < 0.1:
        start, step, size = 0, 2, (x.shape[3] + 1) // 2
    sizes = (*x.shape[:3], size)
    return [net.builder("Slice", x, starts=(0, 0, 0, start), steps=(1, 1, 1, step), sizes=sizes)]


def _gather(net: _Network, x: Value) -> list[Value]:
    count = x.shape[3]
    picked = net.random.permutation(count) if net.random.random() < 0.5 else net.random.integers(0, count, size=4)
    return [net.builder("Gather", x, net.builder.constant(picked.astype(np.int64), "indices"), axis=3)]


def _shuffle(net: _Network, x: Value) -> list[Value]:
    group, (_, height, width, channels) = net.divisor(x.shape[3]), x.shape
    parts = net.builder("Reshape", x, shape=(1, height, width, group, channels // group))
    mixed = net.builder("Transpose", parts, perm=(0, 1, 2, 4, 3))
    return [net.builder("Reshape", mixed, shape=x.shape)]


def _depthwise(net: _Network, x: Value) -> list[Value]:
    return [net.conv(x, x.shape[3] * net.integer(1, 2), group=x.shape[3])]


def _pad(net: _Network, x: Value) -> list[Value]:
    ends = (0, 1, 1, net.integer(0, 2), 0, 1, 1, net.integer(0, 2))
    padded = net.builder("Pad", x, pads=ends, value=0.5)
    return [net.builder("MaxPool", padded, layout="NHWC", kernel=(3, 3))]


def _pool(net: _Network, x: Value) -> list[Value]:
    op = "MaxPool" if net.random.random() < 0.5 else "AveragePool"
    return [net.builder(op, x, layout="NHWC", kernel=(2, 2), pads=(0, 0, 1, 1))]


def _gate(net: _Network, x: Value) -> list[Value]:
    """Squeeze and excite."""
    mean = net.builder("ReduceMean", x, axes=(1, 2), keepdims=1)
    return [net.builder("Mul", x, net.builder("Sigmoid", net.conv(net.conv(mean), x.shape[3])))]


def _normalize(net: _Network, x: Value) -> list[Value]:
    scale, bias, mean = (net.builder.random((x.shape[3],), name) for name in ("scale", "shift", "mean"))
    variance = net.builder.constant(net.random.uniform(0.5, 2, size=x.shape[3]).astype(np.float32), "variance")
    return [net.builder("BatchNormalization", x, scale, bias, mean, variance, axis=3)]


def _softmax(net: _Network, x: Value) -> list[Value]:
    return [net.builder("Softmax", x, axis=3)]


_MAKERS: Mapping[str, Callable[[_Network, Value], list[Value]]] = {
    "Conv": lambda net, x: [net.conv(x)],
    "grouped": lambda net, x: [net.conv(x, group=net.divisor(x.shape[3]))],
    "depthwise": _depthwise,
    "transposed": lambda net, x: [net.conv_transpose(x, net.divisor(x.shape[3]))],
    "transposed depthwise": lambda net, x: [net.conv_transpose(x, x.shape[3])],
    "Add": _add,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "shuffle": _shuffle,
    "Pad": _pad,
    "pool": _pool,
    "PRelu": lambda net, x: [net.builder("PRelu", x, net.builder.random((1, 1, x.shape[3]), "slope"))],
    "scale": lambda net, x: [net.builder("Mul", x, net.builder.random((x.shape[3],), "factor"))],
    "gate": _gate,
    "normalize": _normalize,
    "Softmax": _softmax,
}
_INEXACT = ("gate", "normalize", "Softmax", "PRelu", "scale", "pool", "transposed", "transposed depthwise")
