"""Clustered taps of a depthwise convolution: packed indices in flash, of which four channels are decoded at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Clusters
from tinyopt.targets.kernels.packing import pack_rows
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast

READ_AHEAD_BYTES = 1  # the last index is read with the byte behind it, too
INSTRUCTIONS_PER_TAP = 17


def packed_taps(clusters: Clusters) -> NDArray[np.uint8]:
    """The indices in the weights' own order, least significant bits first."""
    packed = pack_rows(clusters.indices.reshape(1, -1), clusters.index_bits)[0]
    return np.pad(packed, (0, READ_AHEAD_BYTES))


def decode_taps(
    kernel: KernelBuilder, bits: int, packed: Buffer, codebook: Buffer, taps: Buffer, first: Expr, count: Expr
) -> None:
    """`count` taps from tap `first` on, as int8."""
    with kernel.loop(count) as tap:
        bit = kernel.let((first + tap) * bits)
        byte = kernel.let(bit >> 3)
        word = cast(packed[byte], "int32") | cast(packed[byte + 1], "int32") << 8
        taps[tap] = codebook[(word >> (bit & 7)) & ((1 << bits) - 1)]
