"""Which branches and layers hardly change what passes them by, measured on samples.

A shortcut is a way round some layers: the other operand of a sum, or the input of a layer whose output looks like it.
Without these layers, and with the mean of what they add, the output would be

    clamp(source + shift),  shift[channel] = mean of what the layers add, clamp: that of the sum or of the layer

What is missing is its squared difference from the true output, as a share of how much the true output varies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.passes.calibration_samples import split
from tinyopt.passes.linear_layers import LAYERS_WITH_BIAS, RESIDUAL, has_residual
from tinyopt.passes.quantization.walk import Walk

Vector = NDArray[np.float64]

_FIRST_LOOK = 4  # samples
_FAR_OFF = 100  # times the share that is looked for: what misses it by so much on these is not looked at further
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A way round some layers.

    source: the index of the input of `node` that is left; None where the layer itself is left and its residual goes.
    freed: the nodes that nobody would read any more, in running order; `node` is one of them but where it is left.
    is_sum: whether `node` adds something to the source, before its clamp.
    """

    node: Node
    source: int | None
    freed: tuple[Node, ...]
    is_sum: bool

    @property
    def limits(self) -> tuple[float, float]:
        """The clamp behind the shortcut."""
        return self.node.float("clamp_low"), self.node.float("clamp_high")

    @property
    def layers(self) -> list[Node]:
        """The layers that would go."""
        return [node for node in self.freed if node.op in LAYERS_WITH_BIAS]

    @property
    def macs(self) -> int:
        """The multiply-accumulates of all that would go."""
        return sum(OPERATORS[node.op].macs(node) for node in self.freed)


@dataclass(frozen=True, eq=False)
class Finding:
    """What a shortcut would lose, as a share of the output's variance. shift: [channels], None where none is needed."""

    shortcut: Shortcut
    share: float
    shift: Vector | None


def find_shortcuts(graph: Graph) -> list[Shortcut]:
    """Every way round at least one layer, in running order."""
    return [found for node in graph.nodes for found in shortcuts_at(graph, node)]


def shortcuts_at(graph: Graph, node: Node) -> list[Shortcut]:
    """The ways round some layers that end at one node."""
    found: list[Shortcut] = []
    for source, is_sum in _ways(node):
        kept = node.present_inputs[:-1] if source is None else [node.input(source)]
        freed = _freed(graph, node, kept, is_node_kept=source is None)
        found.append(Shortcut(node, source, freed, is_sum))
    return [shortcut for shortcut in found if shortcut.layers]


def _ways(node: Node) -> list[tuple[int | None, bool]]:
    """For each way round: the input that is left, and whether the node is a sum."""
    if any(value.dtype != "float32" for value in (*node.present_inputs, *node.outputs)):
        return []
    if node.op == "Add" and node.input(0) is not node.input(1):
        return [(i, True) for i in (0, 1) if node.input(i).shape == node.output.shape and not node.input(i).is_constant]
    if has_residual(node):
        return [(RESIDUAL, True), (None, True)]
    is_plain = node.op in ("Conv", "Dense") and node.input(0).shape == node.output.shape
    return [(0, False)] if is_plain else []


def _freed(graph: Graph, node: Node, kept: Sequence[Value], *, is_node_kept: bool) -> tuple[Node, ...]:
    """The nodes that no output would depend on if `node` read nothing but `kept`."""
    needed = set(graph.outputs)
    freed: list[Node] = []
    for other in reversed(graph.nodes):
        is_needed = not needed.isdisjoint(other.outputs)
        if is_needed:
            needed.update(kept if other is node else other.present_inputs)
        if not is_needed or (other is node and not is_node_kept):
            freed.append(other)
    return tuple(reversed(freed))


@dataclass(frozen=True, eq=False)
class _Trial:
    """A shortcut on samples that a walk holds."""

    shortcut: Shortcut
    walk: Walk

    @cached_property
    def _layer(self) -> Callable[[int], Array]:
        """Runs the layer without its residual, and in a sum without its clamp, on one sample."""
        node, free = self.shortcut.node, {"clamp_low": -math.inf, "clamp_high": math.inf}
        inputs = [*node.inputs[:RESIDUAL], None]
        attributes = {**node.attributes, **free} if self.shortcut.is_sum else node.attributes
        alone = replace(node, inputs=inputs, attributes=attributes)
        read = list(dict.fromkeys(alone.variable_inputs))
        session = OnnxSession(Graph("layer", read, list(node.outputs), [alone]))
        return lambda index: session.run({v.name: self.walk.arrays(v)[index] for v in read})[node.output.name]

    def parts(self, index: int) -> tuple[Array, Array]:
        """What is left and what would go, for one sample: [..., channels]."""
        node, source = self.shortcut.node, self.shortcut.source
        if node.op == "Add":
            assert source is not None
            left, gone = (self.walk.arrays(node.input(i))[index] for i in (source, 1 - source))
            return left, np.broadcast_to(gone, left.shape)
        if not self.shortcut.is_sum:
            left = self.walk.arrays(node.input(0))[index]
            return left, self._layer(index) - left
        layer, residual = self._layer(index), self.walk.arrays(node.input(RESIDUAL))[index]
        return (layer, residual) if source is None else (residual, layer)

    def shift(self, samples: Sequence[int]) -> Vector:
        """The mean of what would go: [channels]."""
        means = [_rows(self.parts(index)[1]).mean(axis=0, dtype=np.float64) for index in samples]
        return np.asarray(np.mean(means, axis=0))

    def losses(self, shifts: Sequence[Vector], samples: Sequence[int]) -> list[float]:
        """For each shift, what is lost, as a share of how much the output varies."""
        low, high = self.shortcut.limits
        lost = np.zeros(len(shifts))
        sums, squares, count = 0.0, 0.0, 0
        for index in samples:
            left, gone = (_rows(part).astype(np.float64) for part in self.parts(index))
            true = np.clip(left + gone, low, high)
            lost += [float(np.sum((np.clip(left + shift, low, high) - true) ** 2)) for shift in shifts]
            sums, squares, count = sums + true.sum(axis=0), squares + np.square(true).sum(axis=0), count + len(true)
        variance = float(np.sum(squares - sums**2 / count))
        return [float(loss) / max(variance, _TINY) for loss in lost]


def measure_shortcut(shortcut: Shortcut, walk: Walk, count: int, share: float) -> Finding:
    """What the shortcut loses on a held-out fifth of `count` samples, its shift being measured on the others.

    The shift is left out where no more than `share` is lost without it.
    walk: about to run the shortcut's node.
    """
    trial = _Trial(shortcut, walk)
    fitted, held_out = split(count)
    first = held_out[:_FIRST_LOOK]
    none = np.zeros(1)
    quick = min(trial.losses([none, trial.shift(first)], first))
    if quick > _FAR_OFF * share:
        return Finding(shortcut, quick, None)
    shift = trial.shift(fitted)
    without, shifted = trial.losses([none, shift], held_out)
    return Finding(shortcut, without, None) if without <= share else Finding(shortcut, shifted, shift)


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])
