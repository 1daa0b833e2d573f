"""Dense layer on one vector: widened to int16 once, then four channels at a time over the whole depth.

The words of weights of the channels computed together lie side by side: [group][pair of places][pair of channels].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.ops.integer_rules import level_limits
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.kernels.dsp.dense_micro_kernels import QUAD, WIDEN_ROW, Element, Rows
from tinyopt.targets.kernels.dsp.pointwise import plan_rows
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, RESIDUAL_INTRINSICS, Residual, finish
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.requantize import (
    INT8_LOW,
    SMMLAR_INTRINSICS,
    Requantization,
    zero_point_of,
)
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast

_SUM_LIMIT = 1 << 23  # of the second channel of a joined pair
_NUMBERS = tuple(
    "depth channels zero_point long_steps short_steps groups last_long_steps last_short_steps last".split()
)


@dataclass(frozen=True)
class DenseSpec:
    """body: the micro-kernel for groups of channels from the first on. last: for those at the end that they leave out.

    to: of the sums, where the micro-kernels do not do that themselves. dtype: the output's.
    """

    body: Rows | None
    last: Rows | None
    to: Requantization | None
    has_residual: bool
    dtype: str

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        rows = [rows.intrinsic for rows in (self.body, self.last) if rows is not None]
        rescaling = () if self.to is None else SMMLAR_INTRINSICS
        return (NAKED, WIDEN_ROW, *rows, *rescaling, *(RESIDUAL_INTRINSICS if self.has_residual else ()))


@dataclass(frozen=True)
class _Parts:
    """How the channels are cut. `last` ones at the end may have been computed in the body too."""

    at_once: int
    groups: int
    last: int

    @classmethod
    def of(cls, channels: int) -> _Parts:
        if channels < 4:
            return cls(2, channels // 2, 2 * (channels % 2))
        return cls(4, channels // 4, {0: 0, 1: 2, 2: 2, 3: 4}[channels % 4])

    def order(self, channels: int) -> list[int]:
        """The channels in the order in which they are computed; -1 for one that is not there."""
        if channels == 1:
            return [0, -1]
        return [*range(self.at_once * self.groups), *range(channels - self.last, channels)]


def plan_dense(node: Node) -> Kernel | Refusal:
    """QDense; over more than one row of the input it is a pointwise convolution."""
    x, depth = node.input(0), node.input(1).shape[1]
    return plan_rows(node) if x.type.elements != depth else plan_vector(node)


def plan_vector(node: Node) -> Kernel | Refusal:
    """QDense of one row of int8, to int8 or int16."""
    channels, depth = node.input(1).shape
    if node.input(0).type.elements != depth:
        return Refusal("it has more than one row")
    to, residual = Requantization.of(node), node.optional_input(4)
    is_raw = residual is not None or channels == 1 or (to.shift, to.low, to.high) != (32, *level_limits(to.dtype))
    parts = _Parts.of(channels)
    order = parts.order(channels)
    weights = np.pad(
        node.input(1).data[order] * (np.array(order) >= 0)[:, None].astype(np.int8), ((0, 0), (0, -depth % QUAD))
    )
    is_joined = _can_be_joined(weights)
    element: Element = "int32" if is_raw else "int16" if to.dtype == "int16" else "int8"
    body, last = (Rows(n, is_joined, element) if n else None for n in (parts.at_once * bool(parts.groups), parts.last))
    spec = DenseSpec(body, last, to if is_raw else None, residual is not None, to.dtype)
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", _by_group(_packed, parts, _joined(weights) if is_joined else weights)),
        ConstantArgument("bias", _by_group(_rescaling, parts, _biases_and_multipliers(node, order))),
        ConstantArgument("parameters", _numbers(node, spec, parts)),
        ScratchArgument(2 * weights.shape[1], 4),
        OutputArgument(0),
    ]
    if is_raw:
        arguments += [ConstantArgument("multiplier", node.input(3).data), ScratchArgument(4 * max(channels, 2), 4)]
    if residual is not None:
        numbers = zero_point_of(node, residual), node.int("residual_multiplier")
        arguments += [InputArgument(4), *(ScalarArgument(number) for number in numbers)]
    return Kernel(
        template=dense,
        spec=spec,
        name="dense_smlad",
        arguments=tuple(arguments),
        intrinsics=spec.intrinsics,
        overlaps=_overlaps(node),
    )


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    """All of the input has been read before the first output is written; a residual is read as they are.

    So an int8 residual must not lie where outputs of int16 are written.
    """
    residual = node.optional_input(4)
    if residual is None:
        return (Overlap(0, None, None),)
    in_place = (Overlap.in_place(4),) if residual.dtype == node.output.dtype else ()
    if residual is node.input(0):
        return (Overlap.in_place(0),) if in_place else ()
    return (Overlap(0, None, None), *in_place)


def _can_be_joined(weights: Array) -> bool:
    """Whether words of two channels can be multiplied as they are: see `dense_micro_kernels`."""
    second = weights[1::2].astype(np.int64)
    largest = np.abs(second).sum(axis=1).max(initial=0) * -INT8_LOW
    return bool(weights.min(initial=0) > INT8_LOW and largest < _SUM_LIMIT)


def _joined(weights: Array) -> Array:
    """The second channel of each pair lowered by one where the first is negative."""
    joined = weights.copy()
    joined[1::2] -= weights[0::2] < 0
    return joined


def _by_group(pack: Callable[[Array], Array], parts: _Parts, rows: Array) -> Array:
    """Each group of channels packed on its own, one behind the other."""
    whole = parts.at_once * parts.groups
    groups = [rows[start : start + parts.at_once] for start in range(0, whole, parts.at_once)]
    return np.concatenate([pack(group).reshape(-1) for group in (*groups, rows[whole:]) if len(group)])


def _packed(weights: Array) -> Array:
    """[channels, depth] -> [quad, word of the quad, pair of channels, place, channel]; a word holds two places."""
    channels, depth = weights.shape
    quads = weights.reshape(channels // 2, 2, depth // QUAD, 2, 2)  # pair, channel, quad, place, word
    return np.ascontiguousarray(quads.transpose(2, 4, 0, 3, 1))


def _biases_and_multipliers(node: Node, order: list[int]) -> Array:
    """[channels, 2] in the order of computation."""
    return np.stack([node.input(2).data, node.input(3).data], 1)[order]


def _rescaling(pairs: Array) -> Array:
    """[channels, 2] of a group -> biases of even channels, of odd ones, multipliers."""
    biases, multipliers = pairs[:, 0], pairs[:, 1]
    return np.concatenate([biases[0::2], biases[1::2], multipliers])


def _numbers(node: Node, spec: DenseSpec, parts: _Parts) -> Array:
    """What `_NUMBERS` names."""
    channels, depth = node.input(1).shape
    quads = -(-depth // QUAD)
    steps = [divmod(quads, rows.steps) if rows is not None else (0, 0) for rows in (spec.body, spec.last)]
    zero_point = 0 if spec.to is not None else zero_point_of(node, node.output)
    return np.array(
        [depth, channels, zero_point, *steps[0], parts.groups, *steps[1], max(channels - parts.last, 0)], np.int32
    )


@dataclass(frozen=True)
class _Parameters:
    x: Buffer
    weights: Buffer
    rescaling: Buffer
    numbers: Buffer
    pairs: Buffer
    y: Buffer
    multipliers: Buffer | None
    sums: Buffer | None
    residual: Residual | None

    def number(self, name: str) -> Expr:
        return self.numbers[_NUMBERS.index(name)]


def dense(spec: DenseSpec) -> PrimFunc:
    """The vector is widened; the channels that groups leave out come last."""
    kernel = KernelBuilder("dense")
    with kernel.function():
        parameters = _declare(kernel, spec)
        depth = kernel.let(parameters.number("depth"))
        kernel.run(WIDEN_ROW, parameters.x.address(), parameters.pairs.address(), depth)
        done: Expr = 0
        if spec.body is not None:
            groups = kernel.let(parameters.number("groups"))
            _run(kernel, spec.body, parameters, 0, 0, groups, "")
            done = kernel.let(groups * spec.body.channels)
        if spec.last is not None:
            _run(kernel, spec.last, parameters, done, parameters.number("last"), 1, "last_")
        if spec.to is not None:
            _finish(kernel, spec.to, parameters)
    return kernel.finish()


def _declare(kernel: KernelBuilder, spec: DenseSpec) -> _Parameters:
    x, weights = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("x", "weights"))
    rescaling, numbers, pairs = (
        kernel.buffer(name, "int32", ANY_SIZE) for name in ("rescaling", "parameters", "pairs")
    )
    y = kernel.buffer("y", spec.dtype, ANY_SIZE)
    multipliers = sums = None
    if spec.to is not None:
        multipliers, sums = (kernel.buffer(name, "int32", ANY_SIZE) for name in ("multipliers", "sums"))
    residual = None
    if spec.has_residual:
        values = kernel.buffer("residual", "int8", ANY_SIZE)
        residual = Residual(values, kernel.scalar("residual_zero_point"), kernel.scalar("residual_multiplier"))
    return _Parameters(x, weights, rescaling, numbers, pairs, y, multipliers, sums, residual)


def _run(
    kernel: KernelBuilder, rows: Rows, parameters: _Parameters, done: Expr, channel: Expr, groups: Expr, prefix: str
) -> None:
    """Groups of channels from `channel` on, whose weights lie behind those of `done` channels."""
    quads = (parameters.number("depth") + (QUAD - 1)) >> 2
    output = parameters.y if parameters.sums is None else parameters.sums
    kernel.run(
        rows.intrinsic,
        parameters.pairs.address(),
        parameters.weights.address(done * quads * QUAD),
        parameters.rescaling.address(2 * done),
        output.address(channel),
        parameters.number(f"{prefix}long_steps"),
        parameters.number(f"{prefix}short_steps"),
        groups,
        parameters.number("zero_point"),
    )


def _finish(kernel: KernelBuilder, to: Requantization, parameters: _Parameters) -> None:
    """The levels of the sums, one by one."""
    assert parameters.sums is not None
    assert parameters.multipliers is not None
    with kernel.loop(parameters.number("channels")) as channel:
        multiplier = kernel.let(parameters.multipliers[channel])
        level = finish(parameters.sums[channel], multiplier, to, parameters.residual, channel)
        parameters.y[channel] = cast(level, to.dtype)
