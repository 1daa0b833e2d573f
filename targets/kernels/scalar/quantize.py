"""Between float32 and integers: QuantizeLinear, DequantizeLinear, FlipSign.

Rounding half to even without libm: for |v| < 2^10, float32(v + 2^23 + 2^10) has no bits behind the point, so that the
addition itself rounds; what is added is even, so that ties go where they should. For int16 it is 2^23 + 2^22. The level
is clamped before it is rounded, which gives the same because the bounds are integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from tinyopt.ir import Node, Quantization, Value
from tinyopt.ops.integer_rules import level_limits
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, cast, clamp, constant

_ROUNDING: Mapping[str, int] = {"int8": (1 << 23) + (1 << 10), "int16": (1 << 23) + (1 << 22)}


@dataclass(frozen=True)
class QuantizeSpec:
    """One scale for each of `channels`, which lie between outer and inner dimensions."""

    outer: int
    channels: int
    inner: int
    integer: str

    @classmethod
    def of(cls, value: Value, quantization: Quantization) -> QuantizeSpec:
        if quantization.axis is None:
            return cls(1, 1, value.type.elements, value.dtype)
        shape, axis = value.shape, quantization.axis
        return cls(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]), value.dtype)

    @property
    def elements(self) -> int:
        return self.outer * self.channels * self.inner


@dataclass(frozen=True)
class FlipSpec:
    """FlipSign of so many elements."""

    elements: int


def plan_quantize(node: Node) -> Kernel | Refusal:
    """QuantizeLinear from float32 to int8 or int16."""
    if node.input(0).dtype != "float32" or node.output.dtype not in _ROUNDING:
        return Refusal(f"QuantizeLinear from {node.input(0).dtype} to {node.output.dtype}")
    spec, constants = _parameters(node.output)
    # An element's byte never lies behind the four bytes that it is made from. (C keeps int16 and floats apart.)
    overlaps = (Overlap.in_place(0),) if spec.integer == "int8" else ()
    name = {"int8": "quantize_s8", "int16": "quantize_s16"}[spec.integer]
    return Kernel(quantize, spec, name, (InputArgument(0), *constants, OutputArgument(0)), overlaps=overlaps)


def plan_dequantize(node: Node) -> Kernel | Refusal:
    """DequantizeLinear from int8, int16 or int32 to float32."""
    spec, constants = _parameters(node.input(0))
    return Kernel(dequantize, spec, f"dequantize_{spec.integer}", (InputArgument(0), *constants, OutputArgument(0)))


def _parameters(value: Value) -> tuple[QuantizeSpec, tuple[ConstantArgument, ConstantArgument]]:
    assert value.quantization is not None, value.name
    scale = np.array(value.quantization.scale, np.float32)
    zero_point = np.array(value.quantization.zero_point, np.int32)
    spec = QuantizeSpec.of(value, value.quantization)
    return spec, (ConstantArgument("scale", scale), ConstantArgument("zero_point", zero_point))


def plan_flip_sign(node: Node) -> Kernel | Refusal:
    """FlipSign between uint8 and int8."""
    spec = FlipSpec(node.output.type.elements)
    return Kernel(flip_sign, spec, "flip_sign", (InputArgument(0), OutputArgument(0)), overlaps=(Overlap.in_place(0),))


def quantize(spec: QuantizeSpec) -> PrimFunc:
    """y = clamp(round(x / scale) + zero_point), half to even."""
    lowest, highest = level_limits(spec.integer)
    kernel = KernelBuilder("quantize")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.elements)
        scale = kernel.buffer("scale", "float32", spec.channels)
        zero_point = kernel.buffer("zero_point", "int32", spec.channels)
        y = kernel.buffer("y", spec.integer, spec.elements)
        with kernel.loop(spec.outer) as i, kernel.loop(spec.channels) as channel:
            zero = kernel.let(zero_point[channel])
            low, high = (kernel.let(cast(bound - zero, "float32")) for bound in (lowest, highest))
            step = kernel.let(scale[channel])
            with kernel.loop(spec.inner) as j:
                index = (i * spec.channels + channel) * spec.inner + j
                level = round_half_even(clamp(x[index] / step, low, high), _ROUNDING[spec.integer])
                y[index] = cast(level + zero, spec.integer)
    return kernel.finish()


def round_half_even(value: Expr, rounding: int) -> Expr:
    """The nearest integer as int32, for values well below what `rounding` is above 2^23."""
    return cast(value + constant(rounding, "float32"), "int32") - rounding


def dequantize(spec: QuantizeSpec) -> PrimFunc:
    """y = (x - zero_point) * scale."""
    wide = "int64" if spec.integer == "int32" else "int32"  # an int32 minus a zero point may need 33 bits
    kernel = KernelBuilder(f"dequantize_{spec.integer}")
    with kernel.function():
        x = kernel.buffer("x", spec.integer, spec.elements)
        scale = kernel.buffer("scale", "float32", spec.channels)
        zero_point = kernel.buffer("zero_point", "int32", spec.channels)
        y = kernel.buffer("y", "float32", spec.elements)
        with kernel.loop(spec.outer) as i, kernel.loop(spec.channels) as channel:
            zero = kernel.let(cast(zero_point[channel], wide))
            step = kernel.let(scale[channel])
            with kernel.loop(spec.inner) as j:
                index = (i * spec.channels + channel) * spec.inner + j
                y[index] = cast(cast(x[index], wide) - zero, "float32") * step
    return kernel.finish()


def flip_sign(spec: FlipSpec) -> PrimFunc:
    """y = x ^ 0x80: uint8 levels as int8 ones with a zero point less 128, and back."""
    kernel = KernelBuilder("flip_sign")
    with kernel.function():
        x = kernel.buffer("x", "int8", spec.elements)
        y = kernel.buffer("y", "int8", spec.elements)
        with kernel.loop(spec.elements) as i:
            y[i] = x[i] ^ constant(-128, "int8")
    return kernel.finish()
