"""Numbers that a kernel reads as it runs, so that layers that differ in nothing else share one function.

A record of ints in the planner is a record of the same class in the template, whose fields are expressions:

    planner     numbers_argument(Sizes(depth=96, outputs=24), ...)     an array in flash, the kernel's first argument
    template    Numbers(kernel, spec.known).read(Sizes)                loads from it

What the layers of a model agree on becomes part of the code: `known`, a field of the spec that is empty at first, then
holds as many places as there are numbers.
"""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any, TypeAlias, TypeVar

import numpy as np

from tinyopt.targets.kernel import ConstantArgument
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast, constant

Known: TypeAlias = tuple[int | None, ...]
"""A number of the code for each place, None where it is read at run time; () where all are."""

ANY_SIZE = 1 << 24  # elements of an array whose size is not known when the function is compiled

Record = TypeVar("Record")


def numbers_argument(*records: Any) -> ConstantArgument:
    """All fields of the records (tuples, or frozen dataclasses, of ints that fit 32 bits), in order."""
    tuples = (record if isinstance(record, tuple) else astuple(record) for record in records)
    return ConstantArgument("parameters", np.array([n for numbers in tuples for n in numbers], np.int32))


class Numbers:
    """The parameter that `numbers_argument` passes; records are read in the order in which they were given.

    It holds what is not known; where everything is, there is no such parameter.
    """

    def __init__(self, kernel: KernelBuilder, known: Known) -> None:
        self._kernel = kernel
        self._known = known
        self._array: Buffer | None = None
        if None in known or not known:
            self._array = kernel.buffer("parameters", "int32", ANY_SIZE)
        self._given, self._loaded = 0, 0

    def read(self, record: type[Record], dtype: str = "int32") -> Record:
        """The next record: its fields are expressions. int64 for what addresses are made of: LLVM widens no sums."""
        return record(*self.read_list(len(fields(record)), dtype))  # type: ignore[arg-type]

    def read_list(self, count: int, dtype: str = "int32") -> list[Expr]:
        """The next `count` numbers, as `read` gives them."""
        return [self._next(dtype) for _ in range(count)]

    def _next(self, dtype: str) -> Expr:
        known = self._known[self._given] if self._known else None
        self._given += 1
        if known is not None:
            return constant(known, dtype)
        assert self._array is not None
        self._loaded += 1
        return self._kernel.let(cast(self._array[self._loaded - 1], dtype))
