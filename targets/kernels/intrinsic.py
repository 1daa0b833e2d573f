"""Hardware intrinsics: the C text of each beside its meaning as executable Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Intrinsic:
    """A few lines of C that a kernel calls, and what they mean.

    name: the C identifier, beginning with `tinyopt_`.
    result: the TensorIR type of the value, "void" where it works on memory.
    headers: the system headers that the C text needs, in angle brackets' place ("arm_acle.h").
    c_text: the definition, a `static inline` function.
    meaning: the same function on Python integers or numpy arrays; tests run the C text against it.
    """

    name: str
    result: str
    headers: tuple[str, ...]
    c_text: str
    meaning: Callable[..., Any]


# How the definition of a micro-kernel begins. The compiler must not look into it or change how it is called.
NAKED = Intrinsic(
    name="TINYOPT_NAKED",
    result="void",
    headers=(),
    c_text="""\
#if defined(__clang__)
#define TINYOPT_NAKED static __attribute__((naked, noinline))
#else
#define TINYOPT_NAKED static __attribute__((naked, noipa))
#endif
""",
    meaning=lambda: None,
)


_STATEMENT_CHARACTERS = 4000  # of one assembly statement, its first line not counted


def micro_kernel(
    name: str,
    parameters: Sequence[str],
    assembly: str,
    meaning: Callable[..., Any],
    *headers: str,
    result: str = "void",
) -> Intrinsic:
    """A function written in assembly: the same instructions with every compiler and at every level of optimization.

    parameters: their C declarations ("const int8_t *x"), passed as the Arm procedure call standard says. assembly: one
    instruction or label (use numbers, as in `1:` and `bne 1b`) to a line, comments behind `@`; it saves the registers
    that it must (r4-r11, d8-d15) and returns by itself. A kernel that calls it lists `NAKED` too.
    """
    declared = ", ".join(f"{parameter} __attribute__((unused))" for parameter in parameters) or "void"
    lines = [line.partition("@")[0].strip() for line in assembly.strip().splitlines()]
    statements = "".join(map(_assembly_statement, _in_parts([line for line in lines if line])))
    kind = {"void": "void", "int32": "int32_t"}[result]
    text = f"TINYOPT_NAKED {kind} {name}({declared}) {{\n{statements}}}\n"
    return Intrinsic(name, result, ("stdint.h", *headers), text, meaning)


def _in_parts(lines: Sequence[str]) -> list[list[str]]:
    """The lines in several statements' worth: a C99 compiler need not take a string beyond 4095 characters."""
    parts: list[list[str]] = [[]]
    for line in lines:
        if sum(len(other) + len("\n\t") for other in [*parts[-1], line]) > _STATEMENT_CHARACTERS:
            parts.append([])
        parts[-1].append(line)
    return parts


def _assembly_statement(lines: Sequence[str]) -> str:
    body = "".join(f'      "{line}\\n\\t"\n' for line in [".syntax unified", *lines])
    return f"  __asm volatile(\n{body.rstrip()});\n"
