"""Dense layers of one row: a few dozen channels at a time, over a part of the depth where the whole is long.

The activations of one part are packed once for all channels that they meet, see dense_micro_kernels. The weights lie in
the order in which they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from tinyopt.ir import Array, Node
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
from tinyopt.targets.kernels.requantize import Requantization, requantize
from tinyopt.targets.kernels.thumb.convolution import Window, plan_window
from tinyopt.targets.kernels.thumb.core import CORES
from tinyopt.targets.kernels.thumb.dense_micro_kernels import CHANNELS, CORRECT, PACK, PLACES
from tinyopt.targets.kernels.thumb.limits import ANY_SIZE
from tinyopt.targets.kernels.thumb.rescaling import Rescaling
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, maximum, minimum

PART_CHANNELS = 64
PACKED_BYTES = 1024  # of a part of the depth
WORD_BYTES = 12  # packed, of four places
LARGEST_GROUP = 255  # |w0| + |w1| + |w2| + |w3|: the sum of four products of int8 stays below 2^15
LONGEST = 1 << 14  # an entry holds a place in 16 bits, of which CORRECT needs the upper two to be zero

_NUMBERS = ("depth", "channels", "parts", "pieces", "words")


@dataclass(frozen=True)
class DenseSpec:
    """core: a key of CORES. to: int16, for which sums are rescaled one by one; None for int8."""

    core: str
    to: Requantization | None


@dataclass(frozen=True)
class _Shape:
    """pieces: of the depth. words: of four places, of one piece. parts: of the channels."""

    depth: int
    channels: int
    pieces: int
    words: int

    @classmethod
    def of(cls, channels: int, depth: int) -> _Shape:
        words = ceil(depth / PLACES)
        pieces = ceil(words * WORD_BYTES / PACKED_BYTES)
        return cls(depth, channels, pieces, ceil(words / pieces))

    @property
    def parts(self) -> int:
        return ceil(self.channels / PART_CHANNELS)


def plan_dense(core: str, node: Node) -> Kernel | Refusal:
    """QDense; over several rows it is a 1x1 convolution."""
    channels, depth = node.input(1).shape
    rows = node.output.type.elements // channels
    return plan_window(core, node, _rows_as_pixels(rows, depth, channels)) if rows > 1 else plan_vector(core, node)


def plan_vector(core: str, node: Node) -> Kernel | Refusal:
    """QDense of one row of int8, to int8 or int16."""
    channels, depth = node.input(1).shape
    if node.output.type.elements != channels:
        return Refusal("it has more than one row")
    if node.optional_input(4) is not None:
        return Refusal("it adds a residual")
    if depth >= LONGEST:
        return Refusal("its depth does not fit 14 bits")
    rescaling = Rescaling.of(node)
    to = Requantization.of(node) if node.output.dtype == "int16" else None
    refusal = CORES[core].residual_numbers(rescaling)
    if isinstance(refusal, Refusal) and to is None:
        return refusal
    multiplier, clamp = (rescaling.multiplier, rescaling.clamp) if to is None else (node.input(3).data, (0, 0, 0))
    shape = _Shape.of(channels, depth)
    weights, entries, ends = _within_limits(node.input(1).data)
    entry = -shape.words % CORES[core].dot_unrolled * CORES[core].dot_step_bytes
    numbers = (depth, channels, shape.parts, shape.pieces, shape.words, WORD_BYTES * shape.words, entry)
    return Kernel(
        template=dense,
        spec=DenseSpec(core, to),
        name=f"dense_{core}",
        arguments=(
            InputArgument(0),
            ConstantArgument("weight", _pack(shape, weights)),
            ConstantArgument("correction", entries),
            ConstantArgument("bias", np.pad(rescaling.bias, (0, -channels % CHANNELS)).astype(np.int32)),
            ConstantArgument("multiplier", multiplier.astype(np.int32)),
            ConstantArgument("parameters", np.array([*numbers, *clamp, *ends], np.int64).astype(np.int32)),
            ScratchArgument(WORD_BYTES * shape.words + 4 * min(PART_CHANNELS, channels + -channels % CHANNELS), 4),
            OutputArgument(0),
        ),
        intrinsics=(NAKED, PACK, CORES[core].dot, CORRECT, *((CORES[core].finish,) if to is None else ())),
        overlaps=(Overlap(0, None, None),) if shape.parts == 1 else (),
    )


def _rows_as_pixels(rows: int, depth: int, channels: int) -> Window:
    return Window((1, rows), (1, rows), (1, 1), (1, 1), (0, 0), (1, 1), depth, channels)


def _within_limits(weights: Array) -> tuple[Array, Array, list[int]]:
    """Weights cut so that four neighbours stay within `LARGEST_GROUP`, int32 entries of what was cut, where each part's
    entries end."""
    channels, depth = weights.shape
    cut = np.pad(weights.astype(np.int32), ((0, 0), (0, -depth % PLACES)))
    groups = cut.reshape(channels, -1, PLACES)
    entries: list[int] = []
    ends = [0]
    for part in range(0, channels, PART_CHANNELS):
        part_groups = np.abs(groups[part : part + PART_CHANNELS]).sum(axis=2)
        for channel, group in np.argwhere(part_groups > LARGEST_GROUP).tolist():
            for place, missing in _cut_group(groups[part + channel, group]):
                entries.append((PLACES * group + place) | channel << 16 | missing << 24)
        ends.append(len(entries))
    return cut, np.array(entries or [0], np.int64).astype(np.int32), ends


def _cut_group(group: Array) -> list[tuple[int, int]]:
    """Make the largest weights smaller, in place, until the group keeps its limit: (place, what was cut)."""
    found: list[tuple[int, int]] = []
    while (excess := int(np.abs(group).sum()) - LARGEST_GROUP) > 0:
        place = int(np.abs(group).argmax())
        missing = int(np.sign(group[place])) * min(excess, int(abs(group[place])), 127)
        group[place] -= missing
        found.append((place, missing))
    return found


def _pack(shape: _Shape, weights: Array) -> Array:
    """uint8 in the order of reading: part, piece, group of four channels, word, channel, place."""
    filled = np.pad(
        weights + 128,
        (
            (0, -shape.channels % CHANNELS),
            (0, shape.pieces * shape.words * PLACES - weights.shape[1]),
        ),
        constant_values=128,
    ).astype(np.uint8)
    parts: list[Array] = []
    for part in range(0, len(filled), PART_CHANNELS):
        of_part = filled[part : part + PART_CHANNELS]
        sorted_ = of_part.reshape(-1, CHANNELS, shape.pieces, shape.words, PLACES).transpose(2, 0, 3, 1, 4)
        parts.append(sorted_.reshape(-1))
    return np.concatenate(parts).view(np.int32)


def dense(spec: DenseSpec) -> PrimFunc:
    """Part by part of the channels: all pieces of the depth, what the weights lack, and the rescaling."""
    core = CORES[spec.core]
    kernel = KernelBuilder("dense")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        weights = kernel.buffer("weights", "int32", ANY_SIZE)
        entries = kernel.buffer("entries", "int32", ANY_SIZE)
        bias = kernel.buffer("bias", "int32", ANY_SIZE)
        multipliers = kernel.buffer("multipliers", "int32", ANY_SIZE)
        numbers = kernel.buffer("numbers", "int32", ANY_SIZE)
        scratch = kernel.buffer("scratch", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8" if spec.to is None else spec.to.dtype, ANY_SIZE)
        of = {name: kernel.let(numbers[place]) for place, name in enumerate(_NUMBERS)}
        sums = kernel.let(of["words"] * 3)  # behind the packed activations
        weight = kernel.local("int32", 1)
        weight[0] = 0
        with kernel.loop(of["parts"]) as part:
            first = kernel.let(part * PART_CHANNELS)
            count = kernel.let(minimum(PART_CHANNELS, of["channels"] - first))
            groups = kernel.let((count + (CHANNELS - 1)) >> 2)
            with kernel.loop(of["pieces"]) as piece:
                with kernel.when(part * (of["pieces"] - 1) + piece >= part):
                    _pack_piece(kernel, of, x, scratch, kernel.let(piece * of["words"]))
                operands = (scratch.address(0), weights.address(weight[0]))
                rest = (scratch.address(sums), numbers.address(len(_NUMBERS)), groups)
                with kernel.when_else(piece == 0) as (then, other):
                    with then:
                        kernel.run(core.dot, *operands, bias.address(first), *rest)
                    with other:
                        kernel.run(core.dot, *operands, scratch.address(sums), *rest)
                weight[0] = weight[0] + groups * of["words"] * CHANNELS
            ends = [numbers[len(_NUMBERS) + 5 + part + i] for i in range(2)]
            kernel.run(CORRECT, x.address(0), *(entries.address(end) for end in ends), scratch.address(sums))
            if spec.to is None:
                to = numbers.address(len(_NUMBERS) + 2)
                kernel.run(core.finish, scratch.address(sums), multipliers.address(first), y.address(first), to, count)
            else:
                with kernel.loop(count) as i:
                    level = requantize(scratch[sums + i], multipliers[first + i], spec.to)
                    y[first + i] = cast(level, spec.to.dtype)
    return kernel.finish()


def _pack_piece(kernel: KernelBuilder, of: dict[str, Expr], x: Buffer, packed: Buffer, first: Expr) -> None:
    """The words of a piece; first: its first word. Places behind the depth are zero."""
    whole = kernel.let(maximum(minimum((of["depth"] >> 2) - first, of["words"]), 0))
    with kernel.when(whole > 0):
        kernel.run(PACK, x.address(first * PLACES), packed.address(0), whole)
    rest = kernel.local("int8", PLACES)
    with kernel.loop(of["words"] - whole) as behind:
        place = kernel.let((first + whole + behind) * PLACES)
        for i in range(PLACES):
            rest[i] = cast(0, "int8")
            with kernel.when(place + i < of["depth"]):
                rest[i] = x[place + i]
        kernel.run(PACK, rest.address(0), packed.address((whole + behind) * 3), 1)
