"""Clustered weights: indices in flash, eight in `bits` bytes, each the place of a weight in the codebook."""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.targets.kernel import Argument, ConstantArgument
from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD
from tinyopt.targets.kernels.packing import pack_rows
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast, read

WORDS_AT_ONCE = 2  # of four weights each
READ_AHEAD_BYTES = 4  # the last indices are loaded as whole words too


def index_bits(weight: Value) -> int:
    """Bits of a packed index; 0 where the weights are not clustered, or so finely that indices are no smaller."""
    if weight.clusters is None or weight.clusters.index_bits >= 8:
        return 0
    return weight.clusters.index_bits


def cluster_arguments(weight: Value, words: Array, bits: int) -> list[Argument]:
    """Packed indices and codebook. words: indices in the kernel's order, four to a word, an even number of words."""
    assert weight.clusters is not None
    packed = pack_rows(words.reshape(1, -1), bits)[0]
    return [
        ConstantArgument("weight", np.pad(packed, (0, READ_AHEAD_BYTES))),
        ConstantArgument("codebook", weight.clusters.codebook.view(np.uint8)),
    ]


def decode_words(kernel: KernelBuilder, packed: Buffer, codebook: Buffer, bits: int, pair: Expr) -> list[Expr]:
    """The words 2 * pair and 2 * pair + 1, four weights each."""
    start = kernel.let(pair * bits)
    words: list[Expr] = []
    for half in range(WORDS_AT_ONCE):
        indices = kernel.let(read(LOAD_WORD, packed.address(start + bits * half // 2)))
        shift = bits * half * 4 % 8
        weights = [
            cast(codebook[(indices >> (shift + place * bits)) & ((1 << bits) - 1)], "int32") << 8 * place
            for place in range(4)
        ]
        words.append(weights[0] | weights[1] | weights[2] | weights[3])
    return words
