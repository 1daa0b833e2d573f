"""How a sum of products becomes an output element, float32 or integer: bias, residual, activation, requantization.

Convolution and dense kernels are written once for both: `Arithmetic` says how a product is formed, the epilogue what is
done with the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument, OutputArgument
from tinyopt.targets.kernels.requantize import Requantization, requantize_sum, wide, zero_point_of
from tinyopt.targets.kernels.scalar.loops import clamp_float
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast, constant


@dataclass(frozen=True)
class Arithmetic:
    """Element types and offsets of a sum of products (a - offset_a) * (b - offset_b)."""

    element_a: str
    element_b: str
    accumulator: str
    offset_a: int = 0
    offset_b: int = 0

    def product(self, a: Expr, b: Expr) -> Expr:
        """One product, in the accumulator's type."""
        if self.element_a == self.element_b == self.accumulator:
            return a * b
        return (cast(a, self.accumulator) - self.offset_a) * (cast(b, self.accumulator) - self.offset_b)


FLOAT = Arithmetic("float32", "float32", "float32")


class Finish(Protocol):
    """The end of a kernel, with its parameters declared."""

    def start(self, channel: Expr) -> Expr:
        """What the accumulator of an output channel starts from."""
        ...

    def store(self, channel: Expr, index: Expr, accumulator: Expr) -> None:
        """Write output element `index`, which belongs to `channel`."""
        ...


class Epilogue(Protocol):
    """The description of the end of a kernel, part of its spec."""

    def declare(self, kernel: KernelBuilder, channels: int, elements: int) -> Finish:
        """Declare the parameters: bias, multiplier, residual (those that there are), output."""
        ...


@dataclass(frozen=True)
class FloatEpilogue:
    """clip(sum + bias + residual, low, high)."""

    has_bias: bool
    has_residual: bool
    low: float
    high: float

    @classmethod
    def of(cls, node: Node) -> FloatEpilogue:
        bias, residual = node.optional_input(2), node.optional_input(3)
        return cls(bias is not None, residual is not None, node.float("clamp_low"), node.float("clamp_high"))

    def declare(self, kernel: KernelBuilder, channels: int, elements: int) -> Finish:
        bias = kernel.buffer("bias", "float32", channels) if self.has_bias else None
        residual = kernel.buffer("residual", "float32", elements) if self.has_residual else None
        return _FloatFinish(self, bias, residual, kernel.buffer("y", "float32", elements))


def float_arguments(node: Node) -> tuple[Argument, ...]:
    """The arguments that a FloatEpilogue declares."""
    present = (InputArgument(i) for i in (2, 3) if node.optional_input(i) is not None)
    return (*present, OutputArgument(0))


@dataclass(frozen=True)
class _FloatFinish:
    epilogue: FloatEpilogue
    bias: Buffer | None
    residual: Buffer | None
    y: Buffer

    def start(self, channel: Expr) -> Expr:
        return constant(0, "float32") if self.bias is None else self.bias[channel]

    def store(self, channel: Expr, index: Expr, accumulator: Expr) -> None:
        del channel
        total = accumulator if self.residual is None else accumulator + self.residual[index]
        self.y[index] = clamp_float(total, self.epilogue.low, self.epilogue.high)


@dataclass(frozen=True)
class IntegerEpilogue:
    """clamp(((acc * multiplier[channel] + (r - zr) * residual_multiplier + 2^(shift-1)) >> shift) + zy)."""

    to: Requantization
    residual_dtype: str
    residual_zero_point: int
    residual_multiplier: int | None

    @classmethod
    def of(cls, node: Node) -> IntegerEpilogue:
        residual = node.optional_input(4)
        if residual is None:
            return cls(Requantization.of(node), "int8", 0, None)
        zero_point, multiplier = zero_point_of(node, residual), node.int("residual_multiplier")
        return cls(Requantization.of(node), residual.dtype, zero_point, multiplier)

    def declare(self, kernel: KernelBuilder, channels: int, elements: int) -> Finish:
        bias = kernel.buffer("bias", "int32", channels)
        multiplier = kernel.buffer("multiplier", "int32", channels)
        has_residual = self.residual_multiplier is not None
        residual = kernel.buffer("residual", self.residual_dtype, elements) if has_residual else None
        return _IntegerFinish(self, bias, multiplier, residual, kernel.buffer("y", self.to.dtype, elements))


def integer_arguments(node: Node, bias: Array) -> tuple[Argument, ...]:
    """The arguments that an IntegerEpilogue declares, with `bias` in place of the node's where it is another array."""
    return (
        InputArgument(2) if bias is node.input(2).data else ConstantArgument("bias", bias),
        InputArgument(3),
        *(() if node.optional_input(4) is None else (InputArgument(4),)),
        OutputArgument(0),
    )


@dataclass(frozen=True)
class _IntegerFinish:
    epilogue: IntegerEpilogue
    bias: Buffer
    multiplier: Buffer
    residual: Buffer | None
    y: Buffer

    def start(self, channel: Expr) -> Expr:
        return self.bias[channel]

    def store(self, channel: Expr, index: Expr, accumulator: Expr) -> None:
        products = wide(accumulator) * wide(self.multiplier[channel])
        if self.residual is not None:
            centred = cast(self.residual[index], "int32") - self.epilogue.residual_zero_point
            products = products + wide(centred) * constant(self.epilogue.residual_multiplier or 0, "int64")
        self.y[index] = cast(requantize_sum(products, self.epilogue.to), self.epilogue.to.dtype)
