"""Dense layer on one vector: several channels at a time over the whole depth.

Four neighbouring weights of a channel lie in one word, the words of the channels computed together side by side:
[group of channels][quad of the depth][channel][4]. SXTB16 and SXTB16 with ROR #8 widen a word of the input and one of
each channel alike, into the pairs (0, 2) and (1, 3). Clustered weights are looked up in the same place, for each is
used but once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node, Value
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Refusal,
    ScalarArgument,
)
from tinyopt.targets.kernels.dsp.decoding import WORDS_AT_ONCE, cluster_arguments, decode_words, index_bits
from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, SMLAD, SXTB16, SXTB16_ROR8, multiply_rows
from tinyopt.targets.kernels.dsp.layer import residual_overlap
from tinyopt.targets.kernels.dsp.packing import as_words
from tinyopt.targets.kernels.dsp.pointwise import plan_rows
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, RESIDUAL_INTRINSICS, Residual, finish
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR_INTRINSICS, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, call, cast, read

CHANNELS = 4  # computed together

DENSE_INTRINSICS: tuple[Intrinsic, ...] = (LOAD_WORD, SXTB16, SXTB16_ROR8, SMLAD, *SMMLAR_INTRINSICS)


@dataclass(frozen=True)
class DenseSpec:
    """depth: input elements. groups: full ones. rest: channels beyond them. bits: of an index, 0 for plain weights."""

    depth: int
    groups: int
    rest: int
    to: Requantization
    has_residual: bool
    bits: int

    @property
    def quads(self) -> int:
        return -(-self.depth // 4)

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        sizes = [channels for channels, groups in ((CHANNELS, self.groups), (self.rest, self.rest)) if groups]
        rows = [] if self.bits else [multiply_rows(channels) for channels in sizes]
        return (*DENSE_INTRINSICS, *rows, *(RESIDUAL_INTRINSICS if self.has_residual else ()))

    @property
    def rest_words(self) -> int:
        """Words of the last group for each quad; indices are decoded two words at a time."""
        return self.rest + self.rest % WORDS_AT_ONCE if self.bits else self.rest


def plan_dense(node: Node) -> Kernel | Refusal:
    """QDense; over more than one row of the input it is a pointwise convolution."""
    x, weight = node.input(0), node.input(1)
    channels, depth = weight.shape
    if x.type.elements != depth:
        return plan_rows(node)
    has_residual = node.optional_input(4) is not None
    groups, rest = divmod(channels, CHANNELS)
    spec = DenseSpec(depth, groups, rest, Requantization.of(node), has_residual, index_bits(weight))
    arguments: list[Argument] = [
        InputArgument(0),
        *_weight_arguments(weight, spec),
        ConstantArgument("bias", node.input(2).data),
        ConstantArgument("multiplier", node.input(3).data),
        OutputArgument(0),
    ]
    if has_residual:
        numbers = zero_point_of(node, node.input(4)), node.int("residual_multiplier")
        arguments += [InputArgument(4), *(ScalarArgument(number) for number in numbers)]
    return Kernel(
        template=dense,
        spec=spec,
        name="dense_clustered_smlad" if spec.bits else "dense_smlad",
        arguments=tuple(arguments),
        intrinsics=spec.intrinsics,
        overlaps=residual_overlap(node),
    )


def _weight_arguments(weight: Value, spec: DenseSpec) -> list[Argument]:
    if not spec.bits:
        return [ConstantArgument("weight", as_words(_packed(weight.data, spec)))]
    assert weight.clusters is not None
    return cluster_arguments(weight, _packed(weight.clusters.indices, spec), spec.bits)


def _packed(weights: Array, spec: DenseSpec) -> Array:
    """[channels, depth] -> the bytes of all groups, one group behind the other."""
    missing = spec.rest_words - spec.rest
    padded = np.pad(weights, ((0, missing), (0, 4 * spec.quads - spec.depth)))
    whole = spec.groups * CHANNELS
    return np.concatenate([_interleaved(padded[:whole], CHANNELS), _interleaved(padded[whole:], spec.rest_words)])


def _interleaved(weights: Array, channels: int) -> Array:
    """[groups * channels, 4 * quads] -> [group, quad, channel, 4], flat."""
    if not len(weights):
        return weights.reshape(-1)
    return weights.reshape(-1, channels, weights.shape[1] // 4, 4).transpose(0, 2, 1, 3).reshape(-1)


@dataclass(frozen=True)
class _Parameters:
    x: Buffer
    weights: Buffer
    codebook: Buffer | None
    bias: Buffer
    multiplier: Buffer
    y: Buffer
    residual: Residual | None


def dense(spec: DenseSpec) -> PrimFunc:
    """The layer in groups of CHANNELS outputs, and the rest of them."""
    kernel = KernelBuilder("dense")
    with kernel.function():
        parameters = _declare(kernel, spec)
        if spec.groups:
            with kernel.loop(spec.groups) as group:
                _group(kernel, spec, parameters, CHANNELS, CHANNELS, group * CHANNELS)
        if spec.rest:
            _group(kernel, spec, parameters, spec.rest, spec.rest_words, spec.groups * CHANNELS)
    return kernel.finish()


def _declare(kernel: KernelBuilder, spec: DenseSpec) -> _Parameters:
    channels = spec.groups * CHANNELS + spec.rest
    x = kernel.buffer("x", "int8", spec.depth)
    codebook = None
    if spec.bits:
        weights = kernel.buffer("packed", "uint8", ANY_SIZE)
        codebook = kernel.buffer("codebook", "uint8", 256)
    else:
        weights = kernel.buffer("weights", "int32", spec.quads * channels)
    bias, multiplier = (kernel.buffer(name, "int32", channels) for name in ("bias", "multiplier"))
    y = kernel.buffer("y", "int8", channels)
    residual = None
    if spec.has_residual:
        values = kernel.buffer("residual", "int8", channels)
        residual = Residual(values, kernel.scalar("residual_zero_point"), kernel.scalar("residual_multiplier"))
    return _Parameters(x, weights, codebook, bias, multiplier, y, residual)


def _group(
    kernel: KernelBuilder, spec: DenseSpec, parameters: _Parameters, channels: int, words: int, first: Expr
) -> None:
    """`channels` channels from `first` on, whose weights take `words` words for each quad."""
    acc = kernel.local("int32", channels)
    for n in range(channels):
        acc[n] = parameters.bias[first + n]
    start = kernel.let(first * spec.quads)
    whole = spec.depth // 4
    unrolled = next(steps for steps in (4, 3, 2, 1) if whole % steps == 0)
    if spec.bits:
        unrolled = 1
    with kernel.loop(whole // unrolled) as outer:
        for inner in range(unrolled):
            quad = outer * unrolled + inner
            x = kernel.let(read(LOAD_WORD, parameters.x.address(4 * quad)))
            _step(kernel, spec, parameters, acc, x, start + quad * words, channels, words)
    if spec.depth % 4:
        x = kernel.let(_last_word(parameters.x, 4 * whole, spec.depth % 4))
        _step(kernel, spec, parameters, acc, x, start + whole * words, channels, words)
    for n in range(channels):
        level = finish(acc[n], parameters.multiplier[first + n], spec.to, parameters.residual, first + n)
        parameters.y[first + n] = cast(level, "int8")


def _last_word(x: Buffer, start: int, length: int) -> Expr:
    """The bytes behind the last quad, with zeros for what is missing."""
    word = cast(x[start], "int32") & 0xFF
    for place in range(1, length):
        word = word | ((cast(x[start + place], "int32") & 0xFF) << 8 * place)
    return word


def _step(
    kernel: KernelBuilder,
    spec: DenseSpec,
    parameters: _Parameters,
    acc: Buffer,
    x: Expr,
    first_word: Expr,
    channels: int,
    words: int,
) -> None:
    """Four elements of the input times four weights of each channel."""
    if parameters.codebook is None:
        kernel.run(multiply_rows(channels), acc.address(), parameters.weights.address(first_word), x)
        return
    even, odd = kernel.let(call(SXTB16, x)), kernel.let(call(SXTB16_ROR8, x))
    pairs = first_word // WORDS_AT_ONCE
    weights: list[Expr] = []
    for pair in range(words // WORDS_AT_ONCE):
        weights += decode_words(kernel, parameters.weights, parameters.codebook, spec.bits, pairs + pair)
    for n in range(channels):
        word = kernel.let(weights[n])
        acc[n] = call(SMLAD, call(SXTB16, word), even, acc[n])
        acc[n] = call(SMLAD, call(SXTB16_ROR8, word), odd, acc[n])
