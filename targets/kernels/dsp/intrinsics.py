"""Instructions of the Arm DSP extension (Cortex-M4, M7, M33): two int16 or four int8 in one register.

The comments name lanes from the lowest bits up: a word holds the halves (h0, h1) or the bytes (b0, b1, b2, b3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def _sxtab16(halves: int, word: int, first: int) -> int:
    added = _lanes(word, 8)[first::2]
    return _word([half + byte for half, byte in zip(_lanes(halves, 16), added, strict=True)])


def _quad_product(first: int, second: int, weights: int) -> int:
    b0, b1, b2, b3 = _lanes(weights, 8)
    halves = (*_lanes(first, 16), *_lanes(second, 16))
    return sum(half * byte for half, byte in zip(halves, (b0, b2, b1, b3), strict=True))


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

SXTAB16 = _acle("sxtab16", ("halves", "word"), lambda halves, word: _sxtab16(halves, word, 0))  # (h0 + b0, h1 + b2)

# (h0 + b1, h1 + b3); gcc does not fuse the rotation into the instruction
SXTAB16_ROR8 = _intrinsic(
    "sxtab16_ror8",
    "int32_t halves, int32_t word",
    '  int32_t result;\n  __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(halves), "r"(word));\n'
    "  return result;\n",
    lambda halves, word: _sxtab16(halves, word, 1),
)

# the larger one of each of the four int8 lanes
MAX_BYTES = _intrinsic(
    "max_bytes",
    "int32_t a, int32_t b",
    '  int32_t result;\n  __asm("ssub8 %0, %1, %2\\n\\tsel %0, %1, %2" : "=&r"(result) : "r"(a), "r"(b) : "cc");\n'
    "  return result;\n",
    lambda a, b: _word([max(x, y) for x, y in zip(_lanes(a, 8), _lanes(b, 8), strict=True)]),
)


def shift_and_saturate(shift: int) -> Intrinsic:
    """SSAT with its shift: saturate(value >> shift) to int8. The distance is part of the instruction."""
    assert 1 <= shift <= 31, shift
    return _intrinsic(
        f"ssat8_asr{shift}",
        "int32_t value",
        f'  int32_t result;\n  __asm("ssat %0, #8, %1, asr #{shift}" : "=r"(result) : "r"(value));\n  return result;\n',
        lambda value: min(max(value >> shift, -128), 127),
    )


# total + first * (b0, b2) + second * (b1, b3), of halves of words and bytes of `weights`
MULTIPLY_QUAD = _intrinsic(
    "multiply_quad",
    "int32_t total, int32_t first, int32_t second, int32_t weights",
    "  int32_t last;\n"
    '  __asm("sxtb16 %0, %1, ror #8" : "=r"(last) : "r"(weights));\n'
    "  return __smlad(second, last, __smlad(first, __sxtb16(weights), total));\n",
    lambda total, first, second, weights: total + _quad_product(first, second, weights),
    "arm_acle.h",
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
