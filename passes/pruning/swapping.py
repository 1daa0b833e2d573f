"""Which units leave, by trial: those that only just left for those that only just stayed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyopt.passes.channel_groups import ChannelGroup
from tinyopt.passes.pruning.elimination import Order
from tinyopt.passes.pruning.trials import Gone

_MARGIN = 3  # units on either side of the line that are tried
_ROUNDS = 2
_LEAST_GAIN = 0.005  # of the harm: less is noise


def swap(gone: Gone, orders: dict[ChannelGroup, Order], harm: Callable[[Gone], float], most_trials: int) -> Gone:
    """The units of `gone`, some swapped for others of their group where the outputs move less for it.

    orders: all units of each group, the first to leave first.
    """
    best, trials = harm(gone), 1
    for _ in range(_ROUNDS):
        before = best
        for group in gone:
            for unit in gone[group][-_MARGIN:][::-1]:
                staying = [other for other in orders[group] if other not in gone[group]][:_MARGIN]
                proposals = [{**gone, group: _swapped(gone[group], unit, other)} for other in staying]
                if trials + len(proposals) > most_trials:
                    return gone
                harms = [harm(proposal) for proposal in proposals]
                trials += len(proposals)
                place = int(np.argmin(harms)) if harms else 0
                if harms and harms[place] < best * (1 - _LEAST_GAIN):
                    best, gone = harms[place], proposals[place]
        if best == before:
            break
    return gone


def _swapped(units: Order, unit: int, other: int) -> Order:
    return np.where(units == unit, other, units)
