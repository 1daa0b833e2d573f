"""Layers whose instructions are counted to fit the cost models: the shapes that pruned networks have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Attribute, Node, TensorType, Value
from tinyopt.ops import OPERATORS

CHANNELS = (*range(4, 65, 4), *range(72, 129, 8), 144, 160, 192, 256)
ODD_CHANNELS = (1, 2, 3, 5, 7, 9, 13, 18, 22, 27, 35, 46, 61)
IMAGES = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (24, 24), (25, 5), (13, 7), (48, 48))
NO_CLAMP: dict[str, Attribute] = {"clamp_low": -math.inf, "clamp_high": math.inf}
RELU: dict[str, Attribute] = {"clamp_low": 0.0, "clamp_high": math.inf}


@dataclass(frozen=True)
class Layer:
    """One layer: `op` on an image or vector, in one line of text and back."""

    op: str
    height: int
    width: int
    channels: int
    outputs: int  # channels
    rows: int = 1  # of the window
    columns: int = 1
    stride: int = 1
    has_residual: bool = False

    @property
    def macs(self) -> int:
        return OPERATORS[node.op].macs(node) if (node := self.node("")) else 0

    def node(self, name: str) -> Node:
        """The float node, without constants but with their types."""
        return _MAKERS.get(self.op, _elementwise)(self, name)

    @property
    def text(self) -> str:
        window = f"{self.rows}x{self.columns}/{self.stride}"
        residual = "+" if self.has_residual else ""
        return f"{self.op}{residual} {self.height}x{self.width}x{self.channels} {window} {self.outputs}"

    @classmethod
    def parse(cls, text: str) -> Layer:
        """The layer of which `text` is what `text` gives."""
        op, image, window, outputs = text.split()
        height, width, channels = (int(part) for part in image.split("x"))
        size, _, stride = window.partition("/")
        rows, columns = (int(part) for part in size.split("x"))
        return cls(op.rstrip("+"), height, width, channels, int(outputs), rows, columns, int(stride), op[-1] == "+")


def grid(most_macs: int) -> list[Layer]:
    """All layers with at most so many MACs, each once."""
    random = np.random.default_rng(7)
    layers = dict.fromkeys(_layers(random))
    return [layer for layer in layers if layer.macs <= most_macs]


def _layers(random: np.random.Generator) -> Iterator[Layer]:
    yield from _pointwise(random)
    yield from _windows(random)
    yield from _depthwise(random)
    yield from _dense(random)
    yield from _others(random)
    yield from _residuals(random)


def _pick(random: np.random.Generator, choices: tuple[int, ...]) -> int:
    return int(random.choice(choices))


def _image(random: np.random.Generator, largest: int = len(IMAGES)) -> tuple[int, int]:
    return IMAGES[int(random.integers(largest))]


def _channels(random: np.random.Generator, number: int) -> int:
    """Every fifth one is odd."""
    return _pick(random, ODD_CHANNELS if number % 5 == 4 else CHANNELS)


def _pointwise(random: np.random.Generator) -> Iterator[Layer]:
    for number in range(90):
        inputs, outputs = _channels(random, number), _channels(random, number + number // 5)
        yield Layer("Conv", *_image(random), inputs, outputs, has_residual=number % 9 == 8)
    for number in range(10):
        yield Layer("Conv", *_image(random, 9), _channels(random, number), _channels(random, number), stride=2)


def _windows(random: np.random.Generator) -> Iterator[Layer]:
    for number in range(60):
        inputs, outputs = _channels(random, number), _channels(random, number + number // 5)
        stride, has_residual = 1 + number % 3 // 2, number % 6 == 5
        yield Layer("Conv", *_image(random), inputs, outputs, 3, 3, 1 if has_residual else stride, has_residual)
    for number, inputs in enumerate((1, 3, 1, 3, 1, 3, 2, 4)):
        rows, columns = ((10, 4), (3, 3), (5, 5), (3, 3))[number % 4]
        image = ((49, 10), (32, 32), (28, 28), (48, 48))[number % 4]
        for outputs in (8, 16, 28, 40, 64):
            yield Layer("Conv", *image, inputs, outputs, rows, columns, 1 + number % 2)


def _depthwise(random: np.random.Generator) -> Iterator[Layer]:
    for number in range(80):
        channels = _channels(random, number)
        yield Layer("Depthwise", *_image(random), channels, channels, 3, 3, 1 + number % 3 // 2)
    for channels in (16, 40, 64):
        yield Layer("Depthwise", 12, 12, channels, channels, 5, 5, 1)


def _dense(random: np.random.Generator) -> Iterator[Layer]:
    for number in range(40):
        inputs, outputs = _channels(random, number), _channels(random, number + number // 5)
        yield Layer("Dense", 1, 1, inputs, outputs)
    for inputs, outputs in ((640, 128), (640, 100), (128, 640), (96, 640), (1280, 10), (512, 33), (7, 12), (64, 2)):
        yield Layer("Dense", 1, 1, inputs, outputs)


def _others(random: np.random.Generator) -> Iterator[Layer]:
    for number in range(24):
        height, width = _image(random)
        channels = _channels(random, number)
        yield Layer("GlobalAverage", height, width, channels, channels, height, width)
    for op in ("AveragePool", "MaxPool"):
        for number in range(12):
            channels = _channels(random, number)
            yield Layer(op, 8, 16, channels, channels, 2 + number % 2, 2 + number % 2, 2)
    for op in ("Add", "Mul", "Sigmoid", "Relu", "HardSwish"):
        for number in range(10 if op == "Add" else 5):
            channels = _channels(random, number)
            yield Layer(op, *_image(random), channels, channels)
    for classes in (2, 10, 12, 35, 100, 1000):
        yield Layer("Softmax", 1, 1, classes, classes)


def _residuals(random: np.random.Generator) -> Iterator[Layer]:
    """As the blocks of residual networks end."""
    for number in range(16):
        size, inputs = (1, 3)[number % 2], _pick(random, CHANNELS[:15])
        outputs = _pick(random, CHANNELS[:15])
        yield Layer("Conv", *IMAGES[4 + number % 7], inputs, outputs, size, size, has_residual=True)


def _output_image(layer: Layer) -> tuple[int, int]:
    return -(-layer.height // layer.stride), -(-layer.width // layer.stride)


def _pads(layer: Layer) -> tuple[int, int, int, int]:
    """As TensorFlow's SAME."""
    height, width = _output_image(layer)
    down = max((height - 1) * layer.stride + layer.rows - layer.height, 0)
    right = max((width - 1) * layer.stride + layer.columns - layer.width, 0)
    return down // 2, right // 2, down - down // 2, right - right // 2


def _float(name: str, *shape: int) -> Value:
    return Value(name, TensorType("float32", shape))


def _convolution(layer: Layer, name: str) -> Node:
    group = layer.channels if layer.op == "Depthwise" else 1
    weights = _float(f"{name}_w", layer.outputs, layer.rows, layer.columns, layer.channels // group)
    height, width = _output_image(layer)
    output = _float(f"{name}_y", 1, height, width, layer.outputs)
    residual = _float(f"{name}_r", *output.shape) if layer.has_residual else None
    attributes: dict[str, Attribute] = {
        "strides": (layer.stride, layer.stride),
        "pads": _pads(layer),
        "dilations": (1, 1),
        "group": group,
        "layout": "NHWC",
        **RELU,
    }
    inputs = [_image_of(layer, name), weights, _float(f"{name}_b", layer.outputs), residual]
    return Node("Conv", name, inputs, [output], attributes)


def _image_of(layer: Layer, name: str) -> Value:
    return _float(f"{name}_x", 1, layer.height, layer.width, layer.channels)


def _dense_node(layer: Layer, name: str) -> Node:
    weights, bias = _float(f"{name}_w", layer.outputs, layer.channels), _float(f"{name}_b", layer.outputs)
    image, output = _float(f"{name}_x", 1, layer.channels), _float(f"{name}_y", 1, layer.outputs)
    return Node("Dense", name, [image, weights, bias, None], [output], dict(NO_CLAMP))


def _pool(layer: Layer, name: str) -> Node:
    is_global = layer.op == "GlobalAverage"
    height, width = (1, 1) if is_global else _output_image(layer)
    pads = (0, 0, 0, 0) if is_global else _pads(layer)
    attributes: dict[str, Attribute] = {
        "kernel": (layer.rows, layer.columns),
        "strides": (layer.stride, layer.stride),
        "pads": pads,
        "dilations": (1, 1),
        "layout": "NHWC",
    }
    op = "MaxPool" if layer.op == "MaxPool" else "AveragePool"
    if op == "AveragePool":
        attributes |= {"counted_pads": (0, 0, 0, 0), **NO_CLAMP}
    return Node(op, name, [_image_of(layer, name)], [_float(f"{name}_y", 1, height, width, layer.outputs)], attributes)


def _binary(layer: Layer, name: str) -> Node:
    image = _image_of(layer, name)
    other = _float(f"{name}_b", *image.shape)
    return Node(layer.op, name, [image, other], [_float(f"{name}_y", *image.shape)], dict(NO_CLAMP))


def _softmax(layer: Layer, name: str) -> Node:
    return Node(
        "Softmax", name, [_float(f"{name}_x", 1, layer.channels)], [_float(f"{name}_y", 1, layer.channels)], {"axis": 1}
    )


def _elementwise(layer: Layer, name: str) -> Node:
    image = _image_of(layer, name)
    return Node(layer.op, name, [image], [_float(f"{name}_y", *image.shape)])


_MAKERS = {
    "Conv": _convolution,
    "Depthwise": _convolution,
    "Dense": _dense_node,
    "GlobalAverage": _pool,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Add": _binary,
    "Mul": _binary,
    "Softmax": _softmax,
}
