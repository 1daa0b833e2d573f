"""How many values each layer's weights share, so that the library fits its flash and the outputs suffer least.

For each layer and each number of values the layer alone is clustered so, and the error of the model's outputs measured
on samples held out. From int8 weights on, the step that costs least error for each byte it saves is taken, until the
library fits. Errors of layers are taken to add up; what the steps save is measured anew on the target's own costs.

Source: Dong et al., HAWQ-V2, arXiv:1911.03852, section 3 (sensitivities that add up, chosen under a budget), here
measured instead of by second derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.passes.clustering.codebooks import packed_bytes
from tinyopt.passes.clustering.fitting import Fit
from tinyopt.passes.clustering.layers import Layer
from tinyopt.samples import Sample

LADDER = (64, 32, 16, 8, 4)  # numbers of values that are tried
_CORRECTIONS = 5  # of what has to be saved, by what the target says of the result
_CHANNEL_BYTES = 8  # bias and multiplier
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Rung:
    """A layer with so many values: 0 for int8 weights. harm: relative squared error of the model's outputs."""

    clusters: int
    bytes: int
    harm: float


@dataclass(frozen=True, eq=False)
class Ladder:
    """A layer's rungs, from int8 weights down, each smaller than the one before; fits: of all but the first."""

    layer: Layer
    rungs: tuple[Rung, ...]
    fits: Mapping[int, Fit]


def measure_ladder(layer: Layer, fits: Mapping[int, Fit], judge: Judge) -> Ladder:
    """The harm of each of the fits, by their number of values, descending."""
    elements, harm = layer.weights.type.elements, 0.0
    rungs = [Rung(0, elements, 0.0)]
    for clusters, fit in fits.items():
        size = packed_bytes(elements, len(fit.codebook))
        harm = max(harm, judge.harm(layer, fit))  # fewer values are no better: what seems so is chance
        if size < rungs[-1].bytes:
            rungs.append(Rung(clusters, size, harm))
    return Ladder(layer, tuple(rungs), fits)


class Judge:
    """Compares the outputs of a float graph with those it has when one layer is clustered."""

    def __init__(self, graph: Graph, samples: Sequence[Sample]) -> None:
        self._graph = _before_softmax(graph)
        self._samples = samples
        self._exact = self._outputs()
        self._signal = sum(float(np.sum((array - array.mean()) ** 2)) for array in self._exact)

    def harm(self, layer: Layer, fit: Fit) -> float:
        """The squared error of the outputs, relative to how much they vary."""
        value = next(value for value in self._graph.constants() if value.name == layer.weights.name)
        present = value.constant, value.clusters
        layer.store_in(value, fit, math.inf)
        found = self._outputs()
        value.constant, value.clusters = present
        noise = sum(float(np.sum((a - b) ** 2)) for a, b in zip(found, self._exact, strict=True))
        return noise / max(self._signal, _TINY)

    def _outputs(self) -> list[Array]:
        session = OnnxSession(self._graph)
        return [array.astype(np.float64) for sample in self._samples for array in session.run(sample).values()]


def _before_softmax(graph: Graph) -> Graph:
    """A copy that gives what goes into a last Softmax: near certainty hides how far scores have moved."""
    copy = graph.copy()
    producers = copy.producers()
    for index, output in enumerate(copy.outputs):
        node = producers.get(output)
        if node is not None and node.op == "Softmax" and not node.input(0).is_constant:
            copy.outputs[index] = node.input(0)
    copy.remove_unused()
    return copy


@dataclass(frozen=True, eq=False)
class Allotment:
    """clusters: for each node. harm: of all layers. flash_bytes: of the library then."""

    clusters: Mapping[Node, int]
    harm: float
    flash_bytes: int


def allot(
    ladders: Sequence[Ladder], max_flash: int, flash_of: Callable[[Mapping[Node, int]], int]
) -> tuple[Allotment, bool]:
    """The allotment of least harm that fits, or the smallest there is; and whether it fits.

    flash_of: bytes of the library for numbers of values by node. Every width of an index has kernels of its own, whose
    code counts, too: so the same number of values in all layers, two numbers, and any are compared.
    """
    search = _Search(max_flash, flash_of)
    above: list[Ladder] = []
    for clusters in (0, *LADDER):
        level = [_cut(ladder, clusters) for ladder in ladders]
        if search.measure(level, [len(ladder.rungs) - 1 for ladder in level]).flash_bytes <= max_flash:
            break
        above = level
    else:
        search.step_down(ladders)
        return search.best()
    if above:
        pairs = zip(above, level, strict=True)
        search.step_down([replace(low, rungs=_joined(high.rungs[-1], low.rungs[-1])) for high, low in pairs])
        search.step_down(ladders)
    return search.best()


def _cut(ladder: Ladder, fewest: int) -> Ladder:
    """The ladder down to its rung of `fewest` values, or to the last above it; 0: int8 alone."""
    rungs = [rung for rung in ladder.rungs if rung.clusters == 0 or 0 < fewest <= rung.clusters]
    return replace(ladder, rungs=tuple(rungs) or ladder.rungs[:1])


def _joined(high: Rung, low: Rung) -> tuple[Rung, ...]:
    return (high, low) if low.bytes < high.bytes else (high,)


class _Search:
    """Measures allotments and keeps them."""

    def __init__(self, max_flash: int, flash_of: Callable[[Mapping[Node, int]], int]) -> None:
        self._max_flash = max_flash
        self._flash_of = flash_of
        self._found: list[Allotment] = []

    def measure(self, ladders: Sequence[Ladder], places: Sequence[int]) -> Allotment:
        """With each layer on one of its rungs."""
        rungs = [ladder.rungs[place] for ladder, place in zip(ladders, places, strict=True)]
        clusters = {ladder.layer.node: rung.clusters for ladder, rung in zip(ladders, rungs, strict=True)}
        known = next((each for each in self._found if each.clusters == clusters), None)
        if known is None:
            known = Allotment(clusters, sum(rung.harm for rung in rungs), self._flash_of(clusters))
            self._found.append(known)
        return known

    def step_down(self, ladders: Sequence[Ladder]) -> None:
        """From the first rungs on, until the library fits as measured or no step is left."""
        most = sum(ladder.rungs[0].bytes - ladder.rungs[-1].bytes for ladder in ladders)
        wanted = self.measure(ladders, [0] * len(ladders)).flash_bytes - self._max_flash
        for _ in range(_CORRECTIONS):
            found = self.measure(ladders, _steps_down(ladders, min(wanted, most)))
            if found.flash_bytes <= self._max_flash or wanted >= most:
                return
            wanted += found.flash_bytes - self._max_flash

    def best(self) -> tuple[Allotment, bool]:
        """Of least harm among those that fit, else the smallest; and whether it fits."""
        fitting = [each for each in self._found if each.flash_bytes <= self._max_flash]
        if fitting:
            return min(fitting, key=lambda each: (each.harm, each.flash_bytes)), True
        return min(self._found, key=lambda each: each.flash_bytes), False


def _steps_down(ladders: Sequence[Ladder], wanted: int) -> list[int]:
    """Steps of least harm for each byte until `wanted` bytes are saved or no step is left; the rung of each layer."""
    places = [0] * len(ladders)
    saved = 0
    while saved < wanted:
        steps = [
            (_price(ladder.rungs[place], below), number, target)
            for number, (ladder, place) in enumerate(zip(ladders, places, strict=True))
            for target, below in enumerate(ladder.rungs[place + 1 :], start=place + 1)
        ]
        if not steps:
            break
        _, number, target = min(steps)
        rungs = ladders[number].rungs
        saved += rungs[places[number]].bytes - rungs[target].bytes
        places[number] = target
    return places


def _price(present: Rung, below: Rung) -> float:
    return (below.harm - present.harm) / (present.bytes - below.bytes)


def constant_bytes(graph: Graph) -> int:
    """About the constants in flash, where no target says what they take: weights, biases and multipliers."""
    return sum(_bytes_of(value) for value in graph.constants())


def _bytes_of(value: Value) -> int:
    if value.clusters is not None:
        return packed_bytes(value.type.elements, len(value.clusters.codebook))
    return value.type.elements if value.type.rank > 1 else _CHANNEL_BYTES * value.type.elements
