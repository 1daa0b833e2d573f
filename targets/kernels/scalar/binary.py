"""Functions of two tensors with numpy's broadcasting, float32 and integers; they may work in place of an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.requantize import (
    Requantization,
    requantize,
    requantize_sum,
    type_suffix,
    wide,
    zero_point_of,
)
from tinyopt.targets.kernels.scalar.loops import Walk, broadcast_strides, clamp_float, row_major, walk_loops
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, cast, clamp, constant, select


@dataclass(frozen=True)
class Operands:
    """How the operands a, b and the output are walked, of what type they are, and how many elements each has."""

    walk: Walk
    dtypes: tuple[str, str, str]
    elements: tuple[int, int, int]

    @classmethod
    def of(cls, node: Node) -> Operands:
        a, b, shape = node.input(0), node.input(1), node.output.shape
        walk = Walk.collapsed(
            shape, broadcast_strides(a.shape, shape), broadcast_strides(b.shape, shape), row_major(shape)
        )
        dtypes = (a.dtype, b.dtype, node.output.dtype)
        return cls(walk, dtypes, (a.type.elements, b.type.elements, node.output.type.elements))


@dataclass(frozen=True)
class FloatSpec:
    """function: a key of `FLOAT_FUNCTIONS`."""

    function: str
    operands: Operands
    low: float
    high: float


FLOAT_FUNCTIONS: Mapping[str, Callable[[Expr, Expr], Expr]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "PRelu": lambda a, b: select(a < constant(0, "float32"), a * b, a),
}


@dataclass(frozen=True)
class AddSpec:
    """QAdd."""

    operands: Operands
    zero_points: tuple[int, int]
    multipliers: tuple[int, int]
    to: Requantization


@dataclass(frozen=True)
class MulSpec:
    """QMul."""

    operands: Operands
    zero_points: tuple[int, int]
    multiplier: int
    to: Requantization


@dataclass(frozen=True)
class PReluSpec:
    """QPRelu. multiplier: the one of inputs from zero on; the slopes' are an operand."""

    operands: Operands
    zero_point: int
    multiplier: int
    to: Requantization


_ARGUMENTS = (InputArgument(0), InputArgument(1), OutputArgument(0))


def plan_arithmetic(node: Node) -> Kernel | Refusal:
    """Add, Sub, Mul and Div in float32."""
    spec = FloatSpec(node.op, Operands.of(node), node.float("clamp_low"), node.float("clamp_high"))
    return Kernel(combine_float, spec, f"{node.op.lower()}_f32", _ARGUMENTS, overlaps=_overlaps(node))


def plan_prelu(node: Node) -> Kernel | Refusal:
    """PRelu in float32."""
    spec = FloatSpec(node.op, Operands.of(node), float("-inf"), float("inf"))
    return Kernel(combine_float, spec, "prelu_f32", _ARGUMENTS, overlaps=_overlaps(node))


def plan_qadd(node: Node) -> Kernel | Refusal:
    """QAdd."""
    multipliers = (node.int("multiplier_a"), node.int("multiplier_b"))
    spec = AddSpec(Operands.of(node), _zero_points(node), multipliers, Requantization.of(node))
    return Kernel(add_integers, spec, f"add_{type_suffix(node)}", _ARGUMENTS, overlaps=_overlaps(node))


def plan_qmul(node: Node) -> Kernel | Refusal:
    """QMul."""
    spec = MulSpec(Operands.of(node), _zero_points(node), node.int("multiplier"), Requantization.of(node))
    return Kernel(multiply_integers, spec, f"mul_{type_suffix(node)}", _ARGUMENTS, overlaps=_overlaps(node))


def plan_qprelu(node: Node) -> Kernel | Refusal:
    """QPRelu."""
    zero_point = zero_point_of(node, node.input(0))
    spec = PReluSpec(Operands.of(node), zero_point, node.int("multiplier"), Requantization.of(node))
    return Kernel(prelu_integers, spec, f"prelu_{type_suffix(node)}", _ARGUMENTS, overlaps=_overlaps(node))


def _zero_points(node: Node) -> tuple[int, int]:
    return zero_point_of(node, node.input(0)), zero_point_of(node, node.input(1))


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    """The first input that is a variable of the output's type: nothing of it is read twice."""
    for index in range(2):
        value = node.input(index)
        if not value.is_constant and value.type == node.output.type:
            return (Overlap.in_place(index),)
    return ()


def combine_float(spec: FloatSpec) -> PrimFunc:
    """y = clip(a op b, low, high)."""

    def element(a: Expr, b: Expr) -> Expr:
        return clamp_float(FLOAT_FUNCTIONS[spec.function](a, b), spec.low, spec.high)

    return _elementwise(f"{spec.function.lower()}_f32", spec.operands, element)


def add_integers(spec: AddSpec) -> PrimFunc:
    """y = clamp((((a - za) * ma + (b - zb) * mb + half) >> shift) + zy), in 32 bits where that cannot overflow."""
    (za, zb), (ma, mb), to = spec.zero_points, spec.multipliers, spec.to
    is_int8 = set(spec.operands.dtypes) == {"int8"}
    is_narrow = is_int8 and 256 * (abs(ma) + abs(mb)) + (1 << (to.shift - 1)) < 1 << 31  # the sum fits 32 bits

    def narrow(a: Expr, b: Expr) -> Expr:
        # One constant for the rounding and both zero points.
        total = cast(a, "int32") * ma + cast(b, "int32") * mb + ((1 << (to.shift - 1)) - za * ma - zb * mb)
        return cast(clamp((total >> to.shift) + to.zero_point, to.low, to.high), to.dtype)

    def exact(a: Expr, b: Expr) -> Expr:
        left = wide(cast(a, "int32") - za) * constant(ma, "int64")
        right = wide(cast(b, "int32") - zb) * constant(mb, "int64")
        return cast(requantize_sum(left + right, to), to.dtype)

    return _elementwise("add_integers", spec.operands, narrow if is_narrow else exact)


def multiply_integers(spec: MulSpec) -> PrimFunc:
    """y = requantize((a - za) * (b - zb))."""
    za, zb = spec.zero_points

    def element(a: Expr, b: Expr) -> Expr:
        product = (cast(a, "int32") - za) * (cast(b, "int32") - zb)
        return cast(requantize(product, constant(spec.multiplier, "int32"), spec.to), spec.to.dtype)

    return _elementwise("multiply_integers", spec.operands, element)


def prelu_integers(spec: PReluSpec) -> PrimFunc:
    """y = requantize(x - zx), with the multiplier of its sign."""

    def element(x: Expr, slope: Expr) -> Expr:
        centred = cast(x, "int32") - spec.zero_point
        multiplier = select(centred >= 0, constant(spec.multiplier, "int32"), slope)
        return cast(requantize(centred, multiplier, spec.to), spec.to.dtype)

    return _elementwise("prelu_integers", spec.operands, element)


def _elementwise(name: str, operands: Operands, element: Callable[[Expr, Expr], Expr]) -> PrimFunc:
    kernel = KernelBuilder(name)
    with kernel.function():
        a, b, y = (kernel.buffer(*each) for each in zip("aby", operands.dtypes, operands.elements, strict=True))
        with walk_loops(kernel, operands.walk) as (a_index, b_index, y_index):
            y[y_index] = element(kernel.let(a[a_index]), kernel.let(b[b_index]))
    return kernel.finish()
