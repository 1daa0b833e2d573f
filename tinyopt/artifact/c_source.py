"""The C text of a program: what the templates need, as plain values."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from tinyopt.artifact.literals import float_literal
from tinyopt.artifact.names import c_comment
from tinyopt.ir import Value
from tinyopt.lowering.program import ArenaSlot, FlashConstant, KernelCall, Location, Program, Scalar, Turn, Wait
from tinyopt.targets.kernels.intrinsic import Intrinsic

C_TYPES = {
    "bool": "uint8_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "int64": "int64_t",
    "uint64": "uint64_t",
    "float16": "uint16_t",  # its bits: C99 has no such type, and kernels only move them
    "float32": "float",
    "float64": "double",
}
_MATH = re.compile(
    r"\b(INFINITY\b|NAN\b"
    r"|(exp|expm1|log|log1p|a?sinh?|a?cosh?|a?tanh?|erf|sqrt|fabs|floor|ceil|trunc|round|rint|nearbyint"
    r"|pow|fmin|fmax|fma|fmod|ldexp)f?\()"
)


@dataclass(frozen=True)
class Names:
    """The identifiers of one model: `prefix` for functions and files, `upper` for macros."""

    prefix: str

    @property
    def upper(self) -> str:
        return self.prefix.upper()


@dataclass(frozen=True)
class Boundary:
    """A graph input or output as the header describes it."""

    index: int
    name: str  # safe inside a C comment
    shape: str
    elements: int
    bytes: int
    c_type: str
    location: str  # a C expression
    scale: str | None  # a C float literal, None for tensors that are not quantized
    zero_point: int | None


@dataclass(frozen=True)
class Region:
    """A memory region that the user gave: its name in C and in macros, the variable that points to it, its sizes."""

    name: str
    upper: str
    variable: str
    bytes: int
    capacity: int


@dataclass(frozen=True)
class Layer:
    """One call as the templates print it."""

    index: int
    comment: str
    call: str


@dataclass(frozen=True)
class ThreadTurn:
    """A layer that a thread runs, and what it waits for before.

    done: how many layers the thread has run then, where another one waits for so many; else 0.
    """

    layer: Layer
    waits: tuple[Wait, ...]
    done: int


@dataclass(frozen=True)
class CallSequence:
    """All layers of a variant, and the feature that a CPU must have for it: empty for none.

    threads: what each thread runs where several share the work.
    """

    name: str
    feature: str
    layers: list[Layer]
    threads: list[list[ThreadTurn]]


@dataclass(frozen=True)
class Function:
    """A kernel's C definition with its readable name."""

    name: str
    text: str
    arity: tuple[str, ...]  # the parameter types of its prototype, for kernels in object files


@functools.cache  # it keeps the compiled templates
def environment() -> jinja2.Environment:
    """The templates' environment. Values are C text already; undefined names are errors."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tinyopt.artifact"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


class CSource:
    """Turns a program into the values that the templates print."""

    def __init__(self, program: Program, names: Names) -> None:
        self.program = program
        self.names = names
        self._function_names = self._readable_names()

    def _readable_names(self) -> dict[str, str]:
        """For each compiled function a short name: `conv_0`, `conv_1`, `dense_0`, ... in the order of first use."""
        counts: dict[str, int] = {}
        named: dict[str, str] = {}
        for call in self.program.all_calls:
            if call.key not in named:
                number = counts.get(call.kernel.name, 0)
                counts[call.kernel.name] = number + 1
                named[call.key] = f"{call.kernel.name}_{number}"
        return named

    def function_name(self, call: KernelCall) -> str:
        """How the call's function is named: readable in C text, by content in object files."""
        return self._function_names[call.key] if self.program.target.code == "c" else call.symbol

    def functions(self) -> list[Function]:
        seen: dict[str, Function] = {}
        for call in self.program.all_calls:
            if call.key not in seen:
                text = ""
                if self.program.target.code == "c":
                    text = self.program.functions[call.key].decode()
                    text = re.sub(rf"\b{call.symbol}\b", self._function_names[call.key], text)
                types = tuple(
                    "int32_t" if isinstance(a, Scalar) else ("void *" if a.is_written else "const void *")
                    for a in call.arguments
                )
                seen[call.key] = Function(self.function_name(call), text, types)
        return list(seen.values())

    def intrinsics(self) -> list[Intrinsic]:
        """The intrinsics that the kernels in use call, each once, those that others build on first."""
        calls = self.program.all_calls
        wanted = {i.name: i for call in calls for i in call.kernel.intrinsics}
        keys = dict.fromkeys(call.key for call in calls)
        texts = "\n".join(self.program.functions[key].decode() for key in keys) if wanted else ""
        used = {name for name in wanted if re.search(rf"\b{name}\b", texts)}
        while True:
            needed = {
                name for name in wanted if any(re.search(rf"\b{name}\b", wanted[u].c_text) for u in used if u != name)
            }
            if needed <= used:
                return [intrinsic for name, intrinsic in wanted.items() if name in used]
            used |= needed

    def headers(self) -> list[str]:
        text = "\n".join(function.text for function in self.functions())
        found = {header for intrinsic in self.intrinsics() for header in intrinsic.headers}
        if _MATH.search(text):
            found.add("math.h")
        if re.search(r"\bmem(set|cpy|move)\b", text):
            found.add("string.h")
        return sorted(found - {"stdint.h", "stddef.h"})

    def variants(self) -> list[CallSequence]:
        """What is run: one sequence of calls, or one for each set of kernels that a CPU may have."""
        return [
            CallSequence(variant.name, variant.feature, layers, _thread_turns(layers, variant.turns))
            for variant in self.program.variants
            for layers in [[self._layer(call) for call in variant.calls]]
        ]

    def _layer(self, call: KernelCall) -> Layer:
        shape = "x".join(str(size) for size in call.node.outputs[0].shape)
        origins = ", ".join(call.node.origins) or call.node.name
        arguments = ", ".join(self.argument(argument) for argument in call.arguments)
        comment = c_comment(f"{call.node.op} -> {shape}, from {origins}")
        return Layer(call.index, comment, f"{self.function_name(call)}({arguments})")

    def argument(self, argument: Location | Scalar) -> str:
        if isinstance(argument, Scalar):
            return str(argument.value)
        return self.pointer(argument.place, argument.is_written)

    def pointer(self, place: ArenaSlot | FlashConstant, is_written: bool) -> str:
        """A C expression of type void pointer: it converts to whatever the kernel takes."""
        if isinstance(place, ArenaSlot):
            const = "" if is_written else "const "
            return f"({const}void *)({self.base_name(place.region)} + {place.offset})"
        return f"(const void *){self.constant_name(place)}"

    def base_name(self, region: int) -> str:
        """The C variable that points to where a memory region begins."""
        regions = self.program.regions
        return f"region_{regions[region].name}" if regions else "arena"

    def constant_name(self, constant: FlashConstant) -> str:
        return f"{self.names.prefix}_{constant.role}_{constant.index}"

    def regions(self) -> list[Region]:
        return [
            Region(region.name, region.name.upper(), self.base_name(number), max(region.bytes, 1), region.capacity)
            for number, region in enumerate(self.program.regions)
        ]

    def inputs(self) -> list[Boundary]:
        return [self._boundary(index, value, True) for index, value in enumerate(self.program.graph.inputs)]

    def outputs(self) -> list[Boundary]:
        return [self._boundary(index, value, False) for index, value in enumerate(self.program.graph.outputs)]

    def _boundary(self, index: int, value: Value, is_written: bool) -> Boundary:
        quantization = value.quantization
        return Boundary(
            index=index,
            name=c_comment(value.name),
            shape="x".join(str(size) for size in value.shape) or "scalar",
            elements=value.type.elements,
            bytes=value.type.bytes,
            c_type=C_TYPES[value.dtype],
            location=self.pointer(self.program.places[value], is_written),
            scale=None if quantization is None else float_literal(quantization.scale[0]),
            zero_point=None if quantization is None else quantization.zero_point[0],
        )


def _thread_turns(layers: Sequence[Layer], turns: Sequence[Sequence[Turn]]) -> list[list[ThreadTurn]]:
    awaited = {(wait.thread, wait.calls) for own in turns for turn in own for wait in turn.waits}
    return [
        [
            ThreadTurn(layers[turn.call], turn.waits, done if (thread, done) in awaited else 0)
            for done, turn in enumerate(own, start=1)
        ]
        for thread, own in enumerate(turns)
    ]


def fnv1a(data: bytes) -> int:
    """The 32-bit Fowler-Noll-Vo hash (FNV-1a), which the self-test computes of every layer's output."""
    value = 2166136261
    for byte in data:
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value
