"""Instructions of one node by its kernel: a sum of terms in the node's shape, fitted to counts under QEMU.

    instructions = one + C*channels + PC*pixels*channels + PCK*pixels*channels*depth + ... of the *rounded* sizes

Kernels work in lanes: pixels, output channels and depth are rounded up to what the kernel takes at once, so that a
channel that fills a lane which was begun costs nothing, and the first one of the next lane costs a whole lane. Which
roundings and which coefficients a kernel has on a family of cores stands in kernel_costs.json: tools/fit_costs.py
counts layers of many shapes, and fits both with coefficients of least squared relative error, none of them negative.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tinyopt.ir import Node

TABLE = Path(__file__).with_name("kernel_costs.json")
BLOCK = 4  # pixels of a whole tile of the matrix products: what is left over takes a narrower one
GROUP = 4  # channels that depthwise kernels hold in a word
LONG_SUM = 256  # cells, from which on sums of int8 need more than 16 bits


@dataclass(frozen=True)
class Rounding:
    """The multiples that a kernel works in; `depth` of one row of the window."""

    pixels: int = 1
    channels: int = 1
    depth: int = 1


@dataclass(frozen=True)
class Shape:
    """What of a node decides how long its kernel takes.

    pixels, rows: of the output; rows and pixels are 1 for vectors. run, runs: a window is so many rows of so many
    elements, of those channels that one output channel reads. image: elements that are read.
    """

    pixels: int
    rows: int
    channels: int
    run: int
    runs: int
    image: int
    has_residual: bool
    is_pool: bool

    @classmethod
    def of(cls, node: Node) -> Shape:
        """Of any node: what has no window has one cell."""
        image, output = node.variable_inputs[0], node.outputs[0]
        channels = output.shape[-1] if output.shape else 1
        rows = output.shape[1] if output.type.rank == 4 else 1
        run, runs = _window(node)
        has_residual = node.op in _WEIGHTED and len(node.variable_inputs) > 1
        elements = output.type.elements if channels else 0
        pixels = elements // max(channels, 1)
        read = max(image.type.elements, output.type.elements)
        return cls(pixels, rows, channels, run, runs, read, has_residual, "kernel" in node.attributes)

    def terms(self, rounding: Rounding) -> Mapping[str, float]:
        """Each term's value. In their names P is pixels, C channels, K depth, R rows of windows, H rows of outputs."""
        pixels, channels = _up(self.pixels, rounding.pixels), _up(self.channels, rounding.channels)
        depth, groups, rest = (
            self.runs * _up(self.run, rounding.depth),
            _up(channels, GROUP) // GROUP,
            self.pixels % BLOCK,
        )
        return {
            "one": 1,
            "C": channels,
            "P": pixels,
            "H": self.rows,
            "PC": pixels * channels,
            "PCK": pixels * channels * depth,
            "PCK in long sums": pixels * channels * depth if self.is_pool and depth > LONG_SUM else 0,
            "PK": pixels * depth,
            "PR": pixels * self.runs,
            "CK": channels * depth,
            "CK of 1 or 2 pixels left over": channels * depth if rest in (1, 2) else 0,
            "CK of 3 pixels left over": channels * depth if rest == 3 else 0,
            "C of pixels left over": channels if rest else 0,
            "HC": self.rows * channels,
            "groups": groups,
            "P groups": pixels * groups,
            "H groups": self.rows * groups,
            "image": self.image,
            "image in groups": self.image / self.channels * groups * GROUP if self.channels else 0,
            "residual": pixels * channels if self.has_residual else 0,
        }


_WEIGHTED = frozenset(("Conv", "QConv", "Dense", "QDense", "ConvTranspose", "QConvTranspose"))


def _window(node: Node) -> tuple[int, int]:
    """(elements of a row, rows) that one output element is computed from."""
    if node.op in ("Conv", "QConv"):
        _, rows, columns, channels = node.input(1).shape
        return columns * channels, rows
    if node.op in ("ConvTranspose", "QConvTranspose"):  # each output element meets a window's part between strides
        channels, rows, columns, _ = node.input(1).shape
        down, right = node.ints("strides")
        return math.ceil(columns / right) * channels // node.int("group"), math.ceil(rows / down)
    if node.op in ("Dense", "QDense"):
        return node.input(1).shape[-1], 1
    if node.op in ("MatMul", "QMatMul"):
        return node.input(0).shape[-1], 1
    if "kernel" in node.attributes:
        rows, columns = node.ints("kernel")
        return columns, rows
    return 1, 1


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class KernelCost:
    """A kernel's model on one family of cores. error: root mean square of the relative errors it was fitted with."""

    rounding: Rounding
    coefficients: Mapping[str, float]
    layers: int
    error: float

    def instructions(self, shape: Shape) -> float:
        """Of one run."""
        terms = shape.terms(self.rounding)
        return sum(factor * terms[name] for name, factor in self.coefficients.items())

    def as_dict(self) -> dict[str, Any]:
        """As the table holds it."""
        rounding = [self.rounding.pixels, self.rounding.channels, self.rounding.depth]
        factors = dict(self.coefficients)
        return {"rounding": rounding, "coefficients": factors, "layers": self.layers, "error": self.error}


@cache
def kernel_costs(family: str) -> Mapping[str, KernelCost]:
    """The models of all kernels that were counted on a family of cores, by the kernels' names."""
    table = json.loads(TABLE.read_text("ascii")) if TABLE.is_file() else {}
    return {
        name: KernelCost(Rounding(*entry["rounding"]), entry["coefficients"], entry["layers"], entry["error"])
        for name, entry in table.get(family, {}).items()
    }
