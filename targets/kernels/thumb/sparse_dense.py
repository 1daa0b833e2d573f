"""Dense layers of one row whose input lies behind a ReLU, on ARMv6-M: see thumb1_sparse."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED
from tinyopt.targets.kernels.requantize import INT8_LOW, zero_point_of
from tinyopt.targets.kernels.thumb.core import CORES, channel_groups
from tinyopt.targets.kernels.thumb.limits import ANY_SIZE
from tinyopt.targets.kernels.thumb.rescaling import Rescaling
from tinyopt.targets.kernels.thumb.thumb1_sparse import CHANNELS, LIST, SPARSE
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, minimum, read

PART_CHANNELS = 64
LONGEST = 256  # eight bytes of scratch for each place
_NUMBERS = ("depth", "channels", "parts", "zero_point", "sums")


@dataclass(frozen=True)
class SparseSpec:
    """core: a key of CORES."""

    core: str


def plan_sparse_dense(core: str, node: Node) -> Kernel | Refusal:
    """QDense of one row whose input has no level below its zero point."""
    channels, depth = node.input(1).shape
    zero_point = zero_point_of(node, node.input(0))
    if zero_point != INT8_LOW:
        return Refusal("its input is not behind a ReLU")
    if node.output.type.elements > channels or depth > LONGEST or node.optional_input(4) is not None:
        return Refusal("it has several rows, more places than a list may have, or a residual")
    rescaling = Rescaling.of(node)
    refusal = CORES[core].residual_numbers(rescaling)
    if isinstance(refusal, Refusal):
        return refusal
    weights = node.input(1).data
    start = rescaling.bias + zero_point * weights.sum(axis=1, dtype=np.int64)
    list_words = 1 + 2 * (depth + 2)
    numbers = (depth, channels, ceil(channels / PART_CHANNELS), zero_point, list_words, *rescaling.clamp)
    return Kernel(
        template=sparse_dense,
        spec=SparseSpec(core),
        name=f"sparse_dense_{core}",
        arguments=(
            InputArgument(0),
            ConstantArgument("weight", channel_groups((weights.astype(np.int16) + 128).astype(np.uint8))),
            ConstantArgument("bias", np.pad(start, (0, -channels % CHANNELS)).astype(np.int32)),
            ConstantArgument("multiplier", rescaling.multiplier.astype(np.int32)),
            ConstantArgument("parameters", np.array(numbers, np.int64).astype(np.int32)),
            ScratchArgument(4 * (list_words + min(PART_CHANNELS, channels + -channels % CHANNELS)), 4),
            OutputArgument(0),
        ),
        intrinsics=(NAKED, LIST, SPARSE, CORES[core].finish),
        overlaps=(Overlap(0, None, None),),
    )


def sparse_dense(spec: SparseSpec) -> PrimFunc:
    """List what is not zero, then part by part of the channels: the sums and the rescaling."""
    core = CORES[spec.core]
    kernel = KernelBuilder("sparse_dense")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        weights = kernel.buffer("weights", "uint8", ANY_SIZE)
        start = kernel.buffer("start", "int32", ANY_SIZE)
        multipliers = kernel.buffer("multipliers", "int32", ANY_SIZE)
        numbers = kernel.buffer("numbers", "int32", ANY_SIZE)
        scratch = kernel.buffer("scratch", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        of = {name: kernel.let(numbers[place]) for place, name in enumerate(_NUMBERS)}
        sums = scratch.address(of["sums"])
        bytes_ = kernel.local("int32", 1)
        bytes_[0] = read(LIST, x.address(0), scratch.address(0), of["depth"], of["zero_point"])
        with kernel.loop(of["parts"]) as part:
            first = kernel.let(part * PART_CHANNELS)
            count = kernel.let(minimum(PART_CHANNELS, of["channels"] - first))
            kernel.run(
                SPARSE,
                scratch.address(0),
                bytes_[0],
                weights.address(first * of["depth"]),
                start.address(first),
                sums,
                (count + (CHANNELS - 1)) >> 3,
                of["depth"] * CHANNELS,
            )
            clamp = numbers.address(len(_NUMBERS))
            kernel.run(core.finish, sums, multipliers.address(first), y.address(first), clamp, count)
    return kernel.finish()
