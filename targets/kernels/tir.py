"""The door to TensorIR: a small typed builder over TVM's IRBuilder, in which the kernels are written.

A kernel template is a plain Python function that writes one PrimFunc:

    def scale_by_two(spec: Spec) -> PrimFunc:
        kernel = KernelBuilder("scale_by_two")
        with kernel.function():
            x = kernel.buffer("x", "int8", spec.size)
            y = kernel.buffer("y", "int32", spec.size)
            with kernel.loop(spec.size) as i:
                y[i] = cast(x[i], "int32") * 2
        return kernel.finish()

A Python `for` around it unrolls; `kernel.loop` makes a loop in the generated code. Buffers are flat: index arithmetic
is written out, so that what is read here is what the C compiler sees. TVM is imported on first use, and only the
lowering's worker process ever builds a kernel, so that `import tinyopt` stays quick.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from tinyopt.targets.kernels.intrinsic import Intrinsic

Expr: TypeAlias = Any  # a TensorIR expression; supports + - * // % << >> & | ^ and comparisons
PrimFunc: TypeAlias = Any


@cache
def _tirx() -> Any:
    return importlib.import_module("tvm.script.ir_builder.tirx")


@cache
def _ir_builder() -> Any:
    return importlib.import_module("tvm.script.ir_builder").IRBuilder


@dataclass(frozen=True)
class Buffer:
    """A flat array: a kernel's parameter, or a local one on the C stack (keep those to a few hundred bytes)."""

    handle: Any
    dtype: str

    def __getitem__(self, index: Expr) -> Expr:
        return self.handle[index]

    def __setitem__(self, index: Expr, value: Expr) -> None:
        _tirx().buffer_store(self.handle, value, [index])

    def vector(self, index: Expr, lanes: int) -> Expr:
        """`lanes` neighbouring elements from `index` on (LLVM targets only, but for one lane: the element itself)."""
        return self.handle[index if lanes == 1 else _tirx().ramp(index, 1, lanes)]

    def store_vector(self, index: Expr, value: Expr, lanes: int) -> None:
        """Write `lanes` elements from `index` on (LLVM targets only, but for one lane: the element itself)."""
        _tirx().buffer_store(self.handle, value, [index if lanes == 1 else _tirx().ramp(index, 1, lanes)])

    def address(self, index: Expr = 0) -> Expr:
        """A pointer to element `index`, for an intrinsic."""
        return _tirx().address_of(self.handle[index])


class KernelBuilder:
    """Writes one PrimFunc. Parameters are declared first, in the order in which the caller passes them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._builder = _ir_builder()()

    @contextmanager
    def function(self) -> Generator[None]:
        with self._builder, _tirx().prim_func(s_tir=True):
            _tirx().func_name(self._name)
            _tirx().func_attr({"global_symbol": self._name, "tirx.noalias": True})
            yield

    def finish(self) -> PrimFunc:
        return self._builder.get()

    def buffer(self, name: str, dtype: str, elements: int) -> Buffer:
        """A pointer parameter to `elements` values."""
        return Buffer(_tirx().arg(name, _tirx().buffer((max(elements, 1),), dtype)), dtype)

    def scalar(self, name: str) -> Expr:
        """An int32 parameter."""
        return _tirx().arg(name, _tirx().int32())

    def local(self, dtype: str, elements: int) -> Buffer:
        """An array on the stack; with constant indices the C compiler keeps it in registers."""
        return Buffer(_tirx().alloc_buffer((elements,), dtype), dtype)

    @contextmanager
    def loop(self, extent: Expr, start: Expr = 0) -> Generator[Expr]:
        """A loop over start, start + 1, ..., start + extent - 1."""
        with _tirx().serial(start, start + extent) as index:
            yield index

    @contextmanager
    def when(self, condition: Expr) -> Generator[None]:
        """What is inside runs only where `condition` holds."""
        with _tirx().If(condition), _tirx().Then():
            yield

    @contextmanager
    def when_else(self, condition: Expr) -> Generator[tuple[Any, Any]]:
        """`with kernel.when_else(c) as (then, other): with then: ...; with other: ...`"""
        with _tirx().If(condition):
            yield _tirx().Then(), _tirx().Else()

    def let(self, value: Expr) -> Expr:
        """Compute `value` here, once, and give it a name in the generated code."""
        return _tirx().bind(value)

    def keep(self, value: Expr) -> Expr:
        """`let` for an int32 that TVM's simplifier must leave alone: bounds and starts that inner loops use."""
        variable = self.local("int32", 1)
        variable[0] = value
        return variable[0]

    def run(self, intrinsic: Intrinsic, *arguments: Expr) -> None:
        """Call an intrinsic for what it does to memory."""
        _tirx().evaluate(_tirx().call_extern("void", intrinsic.name, *arguments))


def call(intrinsic: Intrinsic, *arguments: Expr) -> Expr:
    """The value of a pure intrinsic (one whose result depends on its arguments alone)."""
    return _tirx().call_pure_extern(intrinsic.result, intrinsic.name, *arguments)


def read(intrinsic: Intrinsic, *arguments: Expr) -> Expr:
    """The value of an intrinsic that reads memory through a pointer, so that it is never moved over a store."""
    return _tirx().call_extern(intrinsic.result, intrinsic.name, *arguments)


def math_call(function: str, *arguments: Expr) -> Expr:
    """A float32 function of libm (expf, tanhf, ...)."""
    return _tirx().call_pure_extern("float32", function, *arguments)


def real_call(function: str, dtype: str, *arguments: Expr) -> Expr:
    """A function of libm by its name for double ("exp"), in float32 or float64."""
    name = f"{function}f" if dtype == "float32" else function
    return _tirx().call_pure_extern(dtype, name, *arguments)


def is_nan(value: Expr) -> Expr:
    """Whether a float is no number."""
    return _tirx().isnan(value)


def llvm_call(intrinsic: str, dtype: str, *arguments: Expr) -> Expr:
    """A pure LLVM intrinsic by its full name, e.g. llvm.fma.v4f32 (LLVM targets only)."""
    number = _tirx().llvm_lookup_intrinsic_id(intrinsic)
    return _tirx().call_llvm_pure_intrin(number, *arguments, dtype=dtype)


def constant(value: float, dtype: str) -> Expr:
    """A literal. TVM's C code prints floats with seven digits: one that this would change is passed on as its bits.

    `with_float_literals` makes a readable literal of such bits in the C text.
    """
    const = importlib.import_module("tvm").tirx.const
    integer = _BITS_OF.get(dtype)
    if integer is None or (np.isfinite(value) and np.dtype(dtype).type(f"{value:e}") == np.dtype(dtype).type(value)):
        return const(value, dtype)
    return reinterpret(const(int(np.array(value, dtype).view(integer)), integer), dtype)


_BITS_OF = {"float32": "int32", "float64": "int64"}
_BITS = r"\*\(float \*\)\(&\((-?\d+)\)\)"
_DOUBLE_BITS = re.compile(r"\n *int64_t (?P<name>\w+) = \(int64_t\)(?P<bits>-?\d+);")
_FLOAT_BITS = re.compile(rf"(?<!\w)\({_BITS}\)|{_BITS}")  # in parentheses of their own, or not


def with_float_literals(c_text: str) -> str:
    """The generated C with floats that TVM printed as reinterpreted integers written as exact literals."""
    c_text = _FLOAT_BITS.sub(lambda match: _literal(np.int32(match[1] or match[2]).view(np.float32), "f"), c_text)
    for declared in _DOUBLE_BITS.finditer(c_text):  # TVM gives the bits of a double a name before it reads them
        read = f"*(double *)(&({declared['name']}))"
        if read in c_text:
            literal = _literal(np.int64(declared["bits"]).view(np.float64), "")
            c_text = c_text.replace(read, literal).replace(declared[0], "")
    return c_text


def _literal(value: np.floating[Any], suffix: str) -> str:
    """The number in C, with all its digits."""
    if np.isnan(value):
        return "NAN"
    if np.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = f"{value:.{8 if suffix else 16}e}{suffix}"
    return text if value >= 0 else f"({text})"


def cast(value: Expr, dtype: str) -> Expr:
    """The same number as another type."""
    return _tirx().cast(value, dtype)


def reinterpret(value: Expr, dtype: str) -> Expr:
    """The same bits as another type."""
    return _tirx().reinterpret(dtype, value)


def broadcast(value: Expr, lanes: int) -> Expr:
    """A vector with `value` in all lanes; for one lane the value itself."""
    return value if lanes == 1 else _tirx().broadcast(value, lanes)


def lanes(vectors: Sequence[Expr], indices: Iterable[int]) -> Expr:
    """Elements `indices` of the vectors laid end to end, as a vector; one gives a scalar (LLVM targets only)."""
    tirx = importlib.import_module("tvm").tirx
    return tirx.Shuffle(list(vectors), [tirx.const(index, "int32") for index in indices])


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller one; both are computed here."""
    return _tirx().min(_named(a), _named(b))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger one; both are computed here."""
    return _tirx().max(_named(a), _named(b))


def _named(operand: Expr) -> Expr:
    """The operand of a minimum or maximum under a name of its own.

    TVM's C code gives one name to operands of equal text, also where the memory that they read was written in between.
    """
    tirx = importlib.import_module("tvm").tirx
    is_simple = isinstance(operand, int | float | tirx.Var | tirx.IntImm | tirx.FloatImm)
    return operand if is_simple else _tirx().bind(operand)


def clamp(value: Expr, low: Expr, high: Expr) -> Expr:
    """At least `low`, at most `high`."""
    return minimum(maximum(value, low), high)


def select(condition: Expr, if_true: Expr, if_false: Expr) -> Expr:
    """One of two values; both may be computed, so neither may read out of bounds."""
    return _tirx().Select(condition, if_true, if_false)


def both(*conditions: Expr) -> Expr:
    """All conditions hold."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = _tirx().And(result, condition)
    return result


def truncated_quotient(a: Expr, b: Expr) -> Expr:
    """a / b as C divides integers, towards zero; `//` rounds down and costs more where a sign is unknown."""
    return _tirx().truncdiv(a, b)


def bitwise_not(value: Expr) -> Expr:
    """An integer with all bits turned over."""
    return _tirx().bitwise_not(value)


def truncated_remainder(a: Expr, b: Expr) -> Expr:
    """a % b as C leaves it, with the sign of `a`."""
    return _tirx().truncmod(a, b)
