"""Two operands of which one may be broadcast: rows of the larger one, each with the same or with the next row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.dsp.elementwise_micro_kernels import BLOCK
from tinyopt.targets.kernels.dsp.product import ANY_SIZE
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast

_ROWS, _LENGTH, _STEP, _FIRST_FREE = range(4)


@dataclass(frozen=True)
class Rows:
    """whole: the input that has the output's shape. step: of the other one from row to row; 0 where it is repeated."""

    whole: int
    rows: int
    length: int
    step: int

    @classmethod
    def of(cls, node: Node) -> Rows | Refusal:
        """Of a node whose second operand has the first one's shape, or the end of it; or the other way round."""
        shapes, shape = [node.input(index).shape for index in range(2)], node.output.shape
        if shape not in shapes:
            return Refusal("both of its inputs are broadcast")
        whole = shapes.index(shape)
        other = shapes[1 - whole]
        elements, length = prod(shape), prod(other)
        if length == elements:
            return cls(whole, 1, elements, elements)
        while other and other[0] == 1:
            other = other[1:]
        if length < BLOCK or other != shape[len(shape) - len(other) :]:
            return Refusal("one of its inputs is broadcast along inner axes")
        return cls(whole, elements // length, length, 0)

    @property
    def overlaps(self) -> tuple[Overlap, ...]:
        """Elements are read before they are written; but a row that is repeated must last."""
        first = Overlap.forward(self.whole)
        return (first, Overlap.forward(1 - self.whole)) if self.rows == 1 else (first,)

    def arguments(self, *numbers: int) -> tuple[Argument, ...]:
        """What `Operands.declare` declares."""
        words = np.array([self.rows, self.length, self.step, *numbers], np.int32)
        inputs = InputArgument(self.whole), InputArgument(1 - self.whole)
        return (*inputs, ConstantArgument("parameters", words), OutputArgument(0))


Block = Callable[[Expr, Expr, Expr, Expr], None]  # addresses in a, b and y, and a number of blocks
Level = Callable[[Expr, Expr], Expr]  # of an element of a and one of b


@dataclass(frozen=True)
class Operands:
    """The kernel's parameters. a: the operand that has the output's shape."""

    a: Buffer
    b: Buffer
    numbers: Buffer
    y: Buffer

    @classmethod
    def declare(cls, kernel: KernelBuilder) -> Operands:
        """Declare them."""
        a, b = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("a", "b"))
        numbers = kernel.buffer("parameters", "int32", ANY_SIZE)
        return cls(a, b, numbers, kernel.buffer("y", "int8", ANY_SIZE))

    def number(self, place: int) -> Expr:
        """One of the numbers that were given to `Rows.arguments`."""
        return self.numbers[_FIRST_FREE + place]

    def for_rows(self, kernel: KernelBuilder, block: Block | None, level: Level) -> None:
        """Whole blocks of each row by `block`, where there is one, and its other elements by `level`."""
        with kernel.loop(self.numbers[_ROWS]) as row:
            start = kernel.let(row * self.numbers[_LENGTH])
            other = kernel.let(row * self.numbers[_STEP])
            done: Expr = 0
            if block is not None:
                blocks = kernel.let(self.numbers[_LENGTH] >> 3)
                block(self.a.address(start), self.b.address(other), self.y.address(start), blocks)
                done = kernel.let(blocks * BLOCK)
            with kernel.loop(self.numbers[_LENGTH] - done) as place:
                elements = self.a[start + done + place], self.b[other + done + place]
                self.y[start + done + place] = cast(level(*(cast(element, "int32") for element in elements)), "int8")
