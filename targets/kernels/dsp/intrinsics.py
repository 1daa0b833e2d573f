"""Instructions of the Arm DSP extension (Cortex-M4, M7, M33): two int16 or four int8 in one register.

The comments name lanes from the lowest bits up: a word holds the halves (h0, h1) or the bytes (b0, b1, b2, b3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.intrinsic import Intrinsic


def _signed(value: int, bits: int) -> int:
    """The lowest `bits` bits of a value as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _lanes(word: int, bits: int) -> list[int]:
    return [_signed(word >> place, bits) for place in range(0, 32, bits)]


def _word(lanes: Sequence[int]) -> int:
    bits = 32 // len(lanes)
    return _signed(sum((lane & ((1 << bits) - 1)) << bits * place for place, lane in enumerate(lanes)), 32)


def _intrinsic(name: str, parameters: str, body: str, meaning: Callable[..., int], *headers: str) -> Intrinsic:
    text = f"static inline __attribute__((always_inline)) int32_t tinyopt_{name}({parameters}) {{\n{body}}}\n"
    return Intrinsic(f"tinyopt_{name}", "int32", ("stdint.h", *headers), text, meaning)


def _acle(name: str, parameters: Sequence[str], meaning: Callable[..., int]) -> Intrinsic:
    """An instruction for which the Arm C Language Extensions have a function."""
    declared = ", ".join(f"int32_t {parameter}" for parameter in parameters)
    body = f"  return __{name}({', '.join(parameters)});\n"
    return _intrinsic(name, declared, body, meaning, "arm_acle.h")


def _load_word(memory: Sequence[int], start: int = 0) -> int:
    return _word([int(value) for value in memory[start : start + 4]])


def _multiply_halves(a_half: int, b_half: int) -> Callable[[int, int, int], int]:
    return lambda a, b, sum: _signed(_lanes(a, 16)[a_half] * _lanes(b, 16)[b_half] + sum, 32)


def _smlad(a: int, b: int, sum: int) -> int:
    products = (x * y for x, y in zip(_lanes(a, 16), _lanes(b, 16), strict=True))
    return _signed(sum + next(products) + next(products), 32)


def _sxtab16(halves: int, word: int, first: int) -> int:
    added = _lanes(word, 8)[first::2]
    return _word([half + byte for half, byte in zip(_lanes(halves, 16), added, strict=True)])


# Legal C for a word at any address: compilers make one LDR of it.
LOAD_WORD = _intrinsic(
    "load_word",
    "const void *from",
    "  int32_t word;\n  memcpy(&word, from, sizeof word);\n  return word;\n",
    _load_word,
    "string.h",
)

STORE_WORD = Intrinsic(
    name="tinyopt_store_word",
    result="void",
    headers=("stdint.h", "string.h"),
    c_text="""\
static inline __attribute__((always_inline)) void tinyopt_store_word(void *to, int32_t word) {
  memcpy(to, &word, sizeof word);
}
""",
    meaning=lambda memory, word: memory.__setitem__(slice(0, 4), _lanes(word, 8)),
)

SMLAD = _acle("smlad", ("a", "b", "sum"), _smlad)  # a.h0 * b.h0 + a.h1 * b.h1 + sum
SMLABB = _acle("smlabb", ("a", "b", "sum"), _multiply_halves(0, 0))  # a.h0 * b.h0 + sum
SMLABT = _acle("smlabt", ("a", "b", "sum"), _multiply_halves(0, 1))  # a.h0 * b.h1 + sum
SMLATB = _acle("smlatb", ("a", "b", "sum"), _multiply_halves(1, 0))  # a.h1 * b.h0 + sum
SXTB16 = _acle("sxtb16", ("word",), lambda word: _word(_lanes(word, 8)[0::2]))  # (b0, b2)
SXTAB16 = _acle("sxtab16", ("halves", "word"), lambda halves, word: _sxtab16(halves, word, 0))  # (h0 + b0, h1 + b2)

# (b1, b3); gcc does not fuse the rotation into the instruction
SXTB16_ROR8 = _intrinsic(
    "sxtb16_ror8",
    "int32_t word",
    '  int32_t result;\n  __asm("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));\n  return result;\n',
    lambda word: _word(_lanes(word, 8)[1::2]),
)

# (h0 + b1, h1 + b3)
SXTAB16_ROR8 = _intrinsic(
    "sxtab16_ror8",
    "int32_t halves, int32_t word",
    '  int32_t result;\n  __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(halves), "r"(word));\n'
    "  return result;\n",
    lambda halves, word: _sxtab16(halves, word, 1),
)

# (a.h0, b.h0) and (a.h1, b.h1); gcc makes two or three instructions of the same thing in C
PACK_LOW = _intrinsic(
    "pack_low",
    "int32_t a, int32_t b",
    '  int32_t result;\n  __asm("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(a), "r"(b));\n  return result;\n',
    lambda a, b: _word([_lanes(a, 16)[0], _lanes(b, 16)[0]]),
)
PACK_HIGH = _intrinsic(
    "pack_high",
    "int32_t a, int32_t b",
    '  int32_t result;\n  __asm("pkhtb %0, %2, %1, asr #16" : "=r"(result) : "r"(a), "r"(b));\n  return result;\n',
    lambda a, b: _word([_lanes(a, 16)[1], _lanes(b, 16)[1]]),
)

# The number itself, of which the compiler is to know nothing
OPAQUE = _intrinsic(
    "opaque",
    "int32_t number",
    '  __asm volatile("" : "+r"(number));\n  return number;\n',
    lambda number: number,
)

# the larger one of each of the four int8 lanes
MAX_BYTES = _intrinsic(
    "max_bytes",
    "int32_t a, int32_t b",
    '  int32_t result;\n  __asm("ssub8 %0, %1, %2\\n\\tsel %0, %1, %2" : "=&r"(result) : "r"(a), "r"(b) : "cc");\n'
    "  return result;\n",
    lambda a, b: _word([max(x, y) for x, y in zip(_lanes(a, 8), _lanes(b, 8), strict=True)]),
)


def _with_words(count: int, use: Callable[[str, int], str]) -> list[str]:
    """C that uses word[0], word[1], ..., loaded two at once with LDRD, which gcc does not do, just before their use."""
    lines = ["  int32_t first, second;\n" if count > 1 else "  int32_t first;\n"]
    lines += ["  typedef int64_t __attribute__((may_alias, aligned(4))) pair_of_words;\n"] if count > 1 else []
    for n in range(0, count, 2):
        if n + 1 < count:
            pair = f'"m"(*(const pair_of_words *)(word + {n}))'
            lines.append(f'  __asm volatile("ldrd %0, %1, %2" : "=r"(first), "=r"(second) : {pair});\n')
            lines += [use("first", n), use("second", n + 1)]
        else:
            lines += [f"  first = word[{n}];\n", use("first", n)]
    return lines


def multiply_rows(channels: int) -> Intrinsic:
    """acc[channel] += the four bytes of x times those of word[channel]."""

    def use(word: str, n: int) -> str:
        return (
            f'  __asm("sxtb16 %0, %1, ror #8" : "=r"(weights) : "r"({word}));\n'
            f"  acc[{n}] = __smlad(__sxtb16({word}), even, acc[{n}]);\n"
            f"  acc[{n}] = __smlad(weights, odd, acc[{n}]);\n"
        )

    lines = [
        "  const int32_t even = __sxtb16(x);\n",
        "  int32_t odd, weights;\n",
        '  __asm("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(x));\n',
        *_with_words(channels, use),
    ]
    name = f"tinyopt_multiply_{channels}_rows"
    text = _procedure(name, "int32_t *acc, const int32_t *word, int32_t x", lines)
    return Intrinsic(name, "void", ("stdint.h", "arm_acle.h"), text, _multiply_rows(channels))


def _procedure(name: str, parameters: str, lines: list[str]) -> str:
    return f"static inline __attribute__((always_inline)) void {name}({parameters}) {{\n{''.join(lines)}}}\n"


def _multiply_rows(channels: int) -> Callable[..., None]:
    def multiply(acc: NDArray[np.int32], word: Sequence[int], x: int) -> None:
        for n in range(channels):
            products = (a * b for a, b in zip(_lanes(int(word[n]), 8), _lanes(x, 8), strict=True))
            acc[n] = _signed(int(acc[n]) + sum(products), 32)

    return multiply


def shift_and_saturate(shift: int) -> Intrinsic:
    """SSAT with its shift: saturate(value >> shift) to int8. The distance is part of the instruction."""
    assert 1 <= shift <= 31, shift
    return _intrinsic(
        f"ssat8_asr{shift}",
        "int32_t value",
        f'  int32_t result;\n  __asm("ssat %0, #8, %1, asr #{shift}" : "=r"(result) : "r"(value));\n  return result;\n',
        lambda value: min(max(value >> shift, -128), 127),
    )


# hi32(acc * m + (zero_point << 32) + 2^31 + residual * residual_multiplier): two SMLAL
REQUANTIZE_RESIDUAL = _intrinsic(
    "requantize_residual",
    "int32_t acc, int32_t m, int32_t residual, int32_t residual_multiplier, int32_t zero_point",
    "  int64_t sum = (int64_t)zero_point * 4294967296 + 2147483648;\n"
    "  sum += (int64_t)acc * m;\n"
    "  sum += (int64_t)residual * residual_multiplier;\n"
    "  return (int32_t)(sum >> 32);\n",
    lambda acc, m, residual, multiplier, zero: (acc * m + residual * multiplier + (zero << 32) + (1 << 31)) >> 32,
)
