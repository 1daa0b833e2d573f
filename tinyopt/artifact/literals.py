"""Numbers as C initializers that give back the very same numbers.

Decimal floats are for people to read; finding the shortest one takes a microsecond, so that models with very many
floats get hexadecimal ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array

MOST_DECIMAL_FLOATS = 300_000  # in one model: half a second
_NUMBERS_PER_LINE = 20
_NUMBERS_PER_PART = 1000 * _NUMBERS_PER_LINE

_NOT_FINITE = {"nan": "NAN", "inf": "HUGE_VALF", "-inf": "-HUGE_VALF"}
_LOWEST = {-(2**63): "(-9223372036854775807-1)"}  # C reads a minus apart from its number, which is too large
_SMALL_INTEGERS = np.array([f"{number}," for number in range(-128, 256)], "S6")
_HEXADECIMAL_FLOAT = np.dtype([("high", "S7"), ("low", "S4"), ("exponent", "S7")])
# by the sign, whether it is a normal number, and the first eight bits of its fraction
_HIGH = np.array([f"{s}0x{lead}.{digits:02x}" for s in " -" for lead in "01" for digits in range(256)], "S7")
_EXPONENTS = np.array([f"p{max(exponent, 1) - 127:+04}f," for exponent in range(256)], "S7")


def float_literal(value: float) -> str:
    """A C literal that gives back the very same float32.

    >>> float_literal(0.1), float_literal(1.0), float_literal(float("inf"))
    ('0.1f', '1.0f', 'HUGE_VALF')
    """
    return _float_literals(np.array([value], np.float32))[0]


def array_literal(array: Array) -> str:
    """The elements between braces, some numbers to a line.

    >>> array_literal(np.array([1, -2], np.int8))
    '{1,-2}'
    """
    return "".join(literal_parts(array))


def literal_parts(array: Array, is_hexadecimal: bool = False) -> Iterator[str]:
    """What `array_literal` gives, in parts that take little memory. is_hexadecimal: floats of 32 bits are."""
    flat = np.ascontiguousarray(array).reshape(-1)
    yield "{"
    for start in range(0, flat.size, _NUMBERS_PER_PART):
        part = flat[start : start + _NUMBERS_PER_PART]
        text = _part(part, is_hexadecimal)
        yield text if start + part.size < flat.size else text.removesuffix("\n").removesuffix(",")
    yield "}"


def _part(flat: Array, is_hexadecimal: bool) -> str:
    """A comma after each number, and the end of the line after some."""
    if flat.dtype.name in ("int8", "uint8"):
        return _joined(_SMALL_INTEGERS[flat.astype(np.int16) + 128])
    if is_hexadecimal and flat.dtype == np.float32 and np.isfinite(flat).all():
        return _hexadecimal_floats(flat)
    items = _LITERALS.get(flat.dtype.name, _integer_literals)(flat)
    lines = [",".join(items[i : i + _NUMBERS_PER_LINE]) for i in range(0, len(items), _NUMBERS_PER_LINE)]
    return "".join(f"{line},\n" for line in lines)


def _joined(texts: NDArray[np.bytes_]) -> str:
    """Texts of equal room, some to a line, without the zero bytes that fill them up."""
    characters = texts.view(np.uint8).reshape(len(texts), -1)
    with_ends = np.pad(characters, ((0, 0), (0, 1)))
    with_ends[_NUMBERS_PER_LINE - 1 :: _NUMBERS_PER_LINE, -1] = ord("\n")
    return with_ends.tobytes().replace(b"\0", b"").decode("ascii")


def _hexadecimal_floats(flat: Array) -> str:
    """Such as -0x1.800000p+001f, for -3: all of them equally wide, some to a line."""
    bits = flat.view(np.uint32)
    exponents = bits >> 23 & 0xFF
    texts = np.empty(flat.shape, _HEXADECIMAL_FLOAT)
    texts["high"] = _HIGH[bits >> 31 << 9 | np.minimum(exponents, 1) << 8 | bits >> 15 & 0xFF]
    texts["low"] = _low_digits()[bits & 0x7FFF]
    texts["exponent"] = _EXPONENTS[exponents]
    in_lines = len(texts) // _NUMBERS_PER_LINE * _NUMBERS_PER_LINE
    lines = texts[:in_lines].view(np.uint8).reshape(-1, _NUMBERS_PER_LINE * texts.itemsize)
    ends = np.full((len(lines), 1), ord("\n"), np.uint8)
    return (np.concatenate([lines, ends], axis=1).tobytes() + texts[in_lines:].tobytes()).decode("ascii")


@functools.cache
def _low_digits() -> NDArray[np.bytes_]:
    """What the last 15 bits of a fraction of 23 are in hexadecimal: the last four digits of six."""
    return np.array([f"{bits << 1:04x}" for bits in range(2**15)], "S4")


def _float_literals(flat: Array) -> list[str]:
    return [_NOT_FINITE.get(text) or f"{text}f" for text in map(str, flat)]


def _double_literals(flat: Array) -> list[str]:
    return [_NOT_FINITE.get(text, text) for text in map(repr, flat.tolist())]


def _integer_literals(flat: Array) -> list[str]:
    return [_LOWEST.get(item, str(item)) for item in map(int, flat.tolist())]


_LITERALS: Mapping[str, Callable[[Array], list[str]]] = {
    "uint64": lambda flat: [f"{item}u" for item in flat.tolist()],
    "float16": lambda flat: _integer_literals(flat.view(np.uint16)),
    "float32": _float_literals,
    "float64": _double_literals,
}
