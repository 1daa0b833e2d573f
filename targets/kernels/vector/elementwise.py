"""Elementwise operators in vectors: sums and products of equal shapes, activations, QAdd, to int8 and back, Cast.

Sums, products and activations are of float32 or float16, where the CPU has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, cast, clamp, reinterpret
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.generic import levels_of, splat, vector_type
from tinyopt.targets.kernels.vector.rows import in_vectors

WIDTH = 16  # elements at a time
FLOATS = ("float32", "float16")
ROUNDING = 1.5 * 2.0**23  # a float of this size has no fraction: adding it rounds half to even
ROUNDING_BITS = 0x4B400000  # its bits; those of ROUNDING + n are this + n

_COMBINE: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
}


@dataclass(frozen=True)
class BinarySpec:
    """A float Add, Sub or Mul of two tensors of `elements`."""

    op: str
    elements: int
    clamp: Clamp
    dtype: str


@dataclass(frozen=True)
class ClampSpec:
    """A float Relu or Clip."""

    elements: int
    clamp: Clamp
    dtype: str


@dataclass(frozen=True)
class CastSpec:
    """A Cast between float32 and float16."""

    elements: int
    dtypes: tuple[str, str]  # from, to


@dataclass(frozen=True)
class QuantizedAddSpec:
    """QAdd; offset = -zero_point_a * multiplier_a - zero_point_b * multiplier_b + the half that rounds."""

    elements: int
    multipliers: tuple[int, int]
    offset: int
    to: Requantization


@dataclass(frozen=True)
class ScaleSpec:
    """QuantizeLinear and DequantizeLinear with one scale."""

    elements: int
    scale: float
    zero_point: int


def plan_binary(node: Node) -> Kernel | Refusal:
    """Add, Sub, Mul of equal shapes."""
    refusal = _shape_refusal(node) or _dtype_refusal(node, *FLOATS)
    if refusal is not None:
        return refusal
    spec = BinarySpec(node.op, node.output.type.elements, Clamp.of(node), node.output.dtype)
    arguments = (InputArgument(0), InputArgument(1), OutputArgument(0))
    return Kernel(binary, spec, f"{node.op.lower()}_vector", arguments, overlaps=(Overlap.in_place(0),))


def plan_relu(node: Node) -> Kernel | Refusal:
    """Relu."""
    return _plan_clamp(node, 0.0, math.inf)


def plan_clip(node: Node) -> Kernel | Refusal:
    """Clip."""
    return _plan_clamp(node, node.float("low"), node.float("high"))


def plan_quantized_add(node: Node) -> Kernel | Refusal:
    """QAdd of equal shapes."""
    refusal = _shape_refusal(node)
    if refusal is not None:
        return refusal
    to = Requantization.of(node)
    multipliers = (node.int("multiplier_a"), node.int("multiplier_b"))
    zero_points = (zero_point_of(node, node.input(0)), zero_point_of(node, node.input(1)))
    offset = (1 << (to.shift - 1)) - sum(m * z for m, z in zip(multipliers, zero_points, strict=True))
    if to.shift > 31 or abs(offset) + 128 * (abs(multipliers[0]) + abs(multipliers[1])) >= 1 << 31:
        return Refusal("the sum does not fit 32 bits")
    spec = QuantizedAddSpec(node.output.type.elements, multipliers, offset, to)
    arguments = (InputArgument(0), InputArgument(1), OutputArgument(0))
    return Kernel(quantized_add, spec, "add_q_vector", arguments, overlaps=(Overlap.in_place(0),))


def plan_quantize(node: Node) -> Kernel | Refusal:
    """QuantizeLinear with one scale."""
    refusal = _dtype_refusal(node, "float32")
    if refusal is not None:
        return refusal
    spec = _scale_spec(node, 0)
    return spec if isinstance(spec, Refusal) else Kernel(quantize, spec, "quantize_vector", _IN_AND_OUT)


def plan_dequantize(node: Node) -> Kernel | Refusal:
    """DequantizeLinear of int8 with one scale."""
    refusal = _dtype_refusal(node, "int8")
    if refusal is not None:
        return refusal
    spec = _scale_spec(node, 1)
    return spec if isinstance(spec, Refusal) else Kernel(dequantize, spec, "dequantize_vector", _IN_AND_OUT)


_IN_AND_OUT = (InputArgument(0), OutputArgument(0))


def plan_float_cast(node: Node) -> Kernel | Refusal:
    """Cast between float32 and float16."""
    dtypes = (node.input(0).dtype, node.output.dtype)
    if sorted(dtypes) != sorted(FLOATS):
        return Refusal(f"from {dtypes[0]} to {dtypes[1]}: not between float32 and float16")
    return Kernel(float_cast, CastSpec(node.output.type.elements, dtypes), f"to_{dtypes[1]}_vector", _IN_AND_OUT)


def _plan_clamp(node: Node, low: float, high: float) -> Kernel | Refusal:
    refusal = _dtype_refusal(node, *FLOATS)
    if refusal is not None:
        return refusal
    return Kernel(
        clamp_all,
        ClampSpec(node.output.type.elements, Clamp.between(low, high, node.output.dtype), node.output.dtype),
        "clamp_vector",
        _IN_AND_OUT,
        overlaps=(Overlap.in_place(0),),
    )


def _scale_spec(node: Node, int8_side: int) -> ScaleSpec | Refusal:
    value = (node.output, node.input(0))[int8_side]
    quantization = value.quantization
    if value.dtype != "int8" or quantization is None or not quantization.is_per_tensor:
        return Refusal("not int8 with one scale")
    return ScaleSpec(value.type.elements, quantization.scale[0], quantization.zero_point[0])


def _shape_refusal(node: Node) -> Refusal | None:
    if node.input(0).shape != node.input(1).shape:
        return Refusal(f"shapes {node.input(0).shape} and {node.input(1).shape} that must be broadcast")
    return None


def _dtype_refusal(node: Node, *dtypes: str) -> Refusal | None:
    found = node.input(0).dtype
    return None if found in dtypes else Refusal(f"elements of {found}, not {' or '.join(dtypes)}")


def binary(spec: BinarySpec) -> PrimFunc:
    """y = clamp(a op b)."""

    def value(operands: list[Expr], width: int) -> Expr:
        return clamped(_COMBINE[spec.op](*operands), spec.clamp, width, spec.dtype)

    return _elementwise("binary_vector", spec.elements, (spec.dtype, spec.dtype), spec.dtype, value)


def clamp_all(spec: ClampSpec) -> PrimFunc:
    """y = clamp(x)."""

    def value(operands: list[Expr], width: int) -> Expr:
        return clamped(operands[0], spec.clamp, width, spec.dtype)

    return _elementwise("clamp_vector", spec.elements, (spec.dtype,), spec.dtype, value)


def float_cast(spec: CastSpec) -> PrimFunc:
    """y = x, rounded half to even where it gets narrower."""

    def value(operands: list[Expr], width: int) -> Expr:
        return cast(operands[0], vector_type(spec.dtypes[1], width))

    return _elementwise("float_cast_vector", spec.elements, (spec.dtypes[0],), spec.dtypes[1], value)


def quantized_add(spec: QuantizedAddSpec) -> PrimFunc:
    """y = clamp(((a * multiplier_a + b * multiplier_b + offset) >> shift) + zero_point)."""

    def value(operands: list[Expr], width: int) -> Expr:
        total = splat(spec.offset, "int32", width)
        for levels, multiplier in zip(operands, spec.multipliers, strict=True):
            wide = cast(levels, vector_type("int32", width))
            total = total + wide * splat(multiplier, "int32", width)
        return levels_of(total >> splat(spec.to.shift, "int32", width), spec.to, width)

    return _elementwise("add_q_vector", spec.elements, ("int8", "int8"), "int8", value)


def quantize(spec: ScaleSpec) -> PrimFunc:
    """y = clamp(round(x / scale) + zero_point); clamped first, which gives the same and keeps the sum small."""

    def value(operands: list[Expr], width: int) -> Expr:
        low, high = (splat(float(level - spec.zero_point), "float32", width) for level in (-128, 127))
        steps = clamp(operands[0] / splat(spec.scale, "float32", width), low, high)
        bits = reinterpret(steps + splat(ROUNDING, "float32", width), vector_type("int32", width))
        level = bits - splat(ROUNDING_BITS - spec.zero_point, "int32", width)
        return cast(level, vector_type("int8", width))

    return _elementwise("quantize_vector", spec.elements, ("float32",), "int8", value)


def dequantize(spec: ScaleSpec) -> PrimFunc:
    """y = (x - zero_point) * scale."""

    def value(operands: list[Expr], width: int) -> Expr:
        wide = cast(operands[0], vector_type("int32", width)) - splat(spec.zero_point, "int32", width)
        return cast(wide, vector_type("float32", width)) * splat(spec.scale, "float32", width)

    return _elementwise("dequantize_vector", spec.elements, ("int8",), "float32", value)


def _elementwise(
    name: str, elements: int, inputs: Sequence[str], output: str, value: Callable[[list[Expr], int], Expr]
) -> PrimFunc:
    """A kernel whose output is `value(vectors of the inputs, width)`, element by element. inputs, output: dtypes."""
    kernel = KernelBuilder(name)
    with kernel.function():
        operands = [kernel.buffer(f"x{i}", dtype, elements) for i, dtype in enumerate(inputs)]
        y = kernel.buffer("y", output, elements)

        def write(at: Expr, width: int) -> None:
            y.store_vector(at, value([operand.vector(at, width) for operand in operands], width), width)

        in_vectors(kernel, elements, WIDTH, write)
    return kernel.finish()
