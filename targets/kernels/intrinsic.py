"""Hardware intrinsics: the C text of each beside its meaning as executable Python."""

from __future__ import annotations

from collections.abc import Callable
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
