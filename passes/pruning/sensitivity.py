"""How a graph's outputs suffer when groups give up units: measured where there are calibration samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tinyopt.ir import Graph, Node
from tinyopt.ops.facts import graph_macs
from tinyopt.pass_manager import TargetFacts
from tinyopt.passes.calibration_samples import FEWEST_SAMPLES
from tinyopt.passes.channel_groups import ChannelGroup
from tinyopt.passes.pruning.allotment import Curve, levels
from tinyopt.passes.pruning.cutting import Kept
from tinyopt.passes.pruning.importance import (
    Ranking,
    merged,
    rank_by_elimination,
    rank_by_energy,
    rank_by_normalization,
    rank_by_weights,
)
from tinyopt.passes.pruning.readers import InputMoments, Reader, measure_inputs, reader_of
from tinyopt.passes.pruning.rehearsal import Rehearsals
from tinyopt.passes.pruning.request import Importance
from tinyopt.passes.pruning.trials import Gone, Trials
from tinyopt.passes.pruning.widths import Counts
from tinyopt.samples import Sample

_SMALLEST_SHARE = 0.25  # of its units that a group keeps where nothing was measured: a narrower layer starves the rest
_MOST_LEVELS = 32  # of a group; wide ones take larger steps
_HOPELESS = 0.4  # how far outputs may move on the way: deeper levels are not measured
_TRIAL_MACS = 640e9  # for all trials: about a minute
_EXCHANGES = (4, 48)  # trials of whole plans
_SWAPS = (0, 72)  # trials of other units
_TRIAL_SAMPLES = (16, 320)
_FEWEST_REHEARSALS, _MOST_REHEARSALS = 3, 16
_REHEARSAL_MACS = 40e6  # of one run of the model, for all rehearsals: about a minute
_SAMPLE_BYTES = 64 << 20  # of samples that are held
_FEWEST_LEVELS = 3  # that are measured of a group, however large the graph


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What is known of the groups: in which order units leave, and what it does to the outputs.

    harm: measures how far outputs move when units leave; None where nothing was measured. exchanges, swaps: how often.
    rehearsals: measure it with refitted layers, which takes longer; None where it would take too long.
    """

    groups: tuple[ChannelGroup, ...]
    rankings: tuple[Ranking, ...]
    curves: tuple[Curve, ...]
    harm: Callable[[Gone], float] | None = None
    exchanges: int = 0
    swaps: int = 0
    rehearsals: Rehearsals | None = None

    def kept(self, plan: Counts) -> Kept:
        """The units that stay by a plan, of the groups that lose some."""
        together = zip(self.groups, self.rankings, plan, strict=True)
        return {group: ranking.kept(count) for group, ranking, count in together if count < group.size}

    def gone(self, plan: Counts) -> Gone:
        """The units that leave by a plan."""
        together = zip(self.groups, self.rankings, plan, strict=True)
        return {group: ranking.gone(count) for group, ranking, count in together if count < group.size}


def from_weights(
    graph: Graph, groups: Sequence[ChannelGroup], importance: Importance, original: Graph | None, lane: int
) -> Sensitivity:
    """What the weights alone say."""
    rankings = tuple(_rank_without_samples(group, graph, importance, original) for group in groups)
    curves: list[Curve] = []
    for group, ranking in zip(groups, rankings, strict=True):
        counts = _levels(group, lane, math.ceil(_SMALLEST_SHARE * group.size))
        curves.append(Curve(counts, tuple(float(ranking.lost[group.size - count]) for count in counts)))
    return Sensitivity(tuple(groups), rankings, tuple(curves))


def measured(
    graph: Graph,
    groups: Sequence[ChannelGroup],
    importance: Importance,
    original: Graph | None,
    facts: TargetFacts,
    samples: Sequence[Sample],
    on_progress: Callable[[int, int], None],
) -> Sensitivity:
    """What trials on samples say, for units in the order of their importance."""
    lane = facts.channel_multiple
    counts = [_levels(group, lane, lane) for group in groups]
    macs = max(graph_macs(graph), 1)
    affordable = _TRIAL_MACS / macs / _TRIAL_SAMPLES[0]
    exchanges, swaps = (int(np.clip(affordable / 8, *bounds)) for bounds in (_EXCHANGES, _SWAPS))
    most = (int(affordable) - exchanges - swaps) // max(len(groups), 1)
    measured_counts = [_thinned(each, most) for each in counts]
    trials = sum(len(each) - 1 for each in measured_counts) + exchanges + swaps
    folds = _folds(samples, int(np.clip(_TRIAL_MACS / macs / trials, *_TRIAL_SAMPLES)))
    rehearsed = min(_MOST_REHEARSALS, int(_REHEARSAL_MACS / macs)) if len(folds[0]) >= FEWEST_SAMPLES else 0
    total, done = trials + rehearsed + sum(map(len, folds)), 0

    def step() -> None:
        nonlocal done
        done += 1
        on_progress(min(done, total), total)

    producers = graph.producers()
    readers = {use.node: reader_of(use, producers) for group in groups for use in group.consumers}
    moments = measure_inputs(graph, list(readers.values()), folds, len(folds[0]), step)
    known = merged(moments)
    rankings = [_rank(group, graph, importance, original, readers, known, min(lane, group.size)) for group in groups]
    on_trials = Trials(graph, list(readers.values()), folds, moments)

    def harm(gone: Gone) -> float:
        step()
        return float(on_trials.harm(gone).mean())

    def alone(group: ChannelGroup, ranking: Ranking, count: int) -> float:
        return harm({group: ranking.gone(count)})

    curves = [
        _curve(each, partial(alone, group, ranking))
        for group, ranking, each in zip(groups, rankings, measured_counts, strict=True)
    ]
    finer = tuple(_finer(each, curve) for each, curve in zip(counts, curves, strict=True))
    swaps = swaps if importance == "obs" else 0  # who names another ranking gets it
    rehearsals = Rehearsals(graph, facts, folds, step, rehearsed) if rehearsed >= _FEWEST_REHEARSALS else None
    return Sensitivity(tuple(groups), tuple(rankings), finer, harm, exchanges, swaps, rehearsals)


def _finer(counts: Counts, curve: Curve) -> Curve:
    """The curve at all levels down to the last that was measured."""
    reached = tuple(count for count in counts if count >= curve.counts[-1])
    return Curve(reached, tuple(curve.harm(count) for count in reached))


def _curve(counts: Counts, harm: Callable[[int], float]) -> Curve:
    """Measured level by level, until there is no hope. Squares add up where outputs are moved in unlike directions."""
    moved = [0.0]
    for count in counts[1:]:
        moved.append(max(moved[-1], harm(count)))
        if not moved[-1] < _HOPELESS:
            break
    return Curve(counts[: len(moved)], tuple(each**2 for each in moved))


def _levels(group: ChannelGroup, lane: int, fewest: int) -> Counts:
    coarse = lane * max(1, group.size // (_MOST_LEVELS * lane))
    return levels(group.size, coarse, fewest)


def _thinned(counts: Counts, most: int) -> Counts:
    """At most so many of the levels besides the first, the last among them."""
    wanted = max(most, _FEWEST_LEVELS)
    if len(counts) - 1 <= wanted:
        return counts
    places = np.linspace(1, len(counts) - 1, wanted).round().astype(int)
    return (counts[0], *(counts[place] for place in dict.fromkeys(places.tolist())))


def _folds(samples: Sequence[Sample], wanted: int) -> list[list[Sample]]:
    """Two halves of evenly spaced samples, held in memory."""
    size = max(sum(array.nbytes for array in samples[0].values()), 1)
    count = max(min(len(samples), wanted, _SAMPLE_BYTES // size), 2)
    chosen = [samples[index * len(samples) // count] for index in range(count // 2 * 2)]
    return [chosen[0::2], chosen[1::2]]


def _rank(
    group: ChannelGroup,
    graph: Graph,
    importance: Importance,
    original: Graph | None,
    readers: dict[Node, Reader],
    moments: dict[Node, InputMoments],
    fewest: int,
) -> Ranking:
    match importance:
        case "obs":
            return rank_by_elimination(group, readers, moments, fewest)
        case "fisher":
            return rank_by_energy(group, readers, moments)
        case _:
            return _rank_without_samples(group, graph, importance, original)


def _rank_without_samples(group: ChannelGroup, graph: Graph, importance: Importance, original: Graph | None) -> Ranking:
    if importance == "bn-scale":
        return rank_by_normalization(group, graph, original)
    return rank_by_weights(group, graph, 1 if importance == "l1" else 2)
