"""The order in which units leave a group, so that what reads them changes least when the others make up for them.

Block OBS: with H the second moments of a layer's operands and W its weights, leaving out the columns u costs

    tr(W_u ([H^-1]_uu)^-1 W_u')

of its outputs' variance when all other columns make up for it as well as they can. The cheapest unit goes, the weights
and the inverse are updated, and so on. All readers of the group are taken together, each relative to its own variance.

Source: Hassibi and Stork, Second order derivatives for network pruning: optimal brain surgeon, NIPS 1992; in blocks:
Frantar and Alistarh, Optimal Brain Compression, arXiv:2208.11580, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.passes.pruning.readers import InputMoments
from tinyopt.passes.quantization.moments import Matrices

Order = NDArray[np.int64]  # units, the first to leave first
Harms = NDArray[np.float64]  # [units + 1]: the variance lost when the first so many are gone, in units of the whole


_TINY = 1e-300
_MOST_ROUNDS = 64  # of a wide group several units leave at once, as if they did not depend on each other


class Problem:
    """One reader of a group. rows: its weights, [parts, outputs, K]. columns: [units, so many] of each unit."""

    def __init__(self, rows: Matrices, moments: InputMoments, columns: NDArray[np.int64]) -> None:
        self._columns = columns
        self._rows = rows / np.sqrt(max(moments.energy(rows), _TINY))
        self._inverses = 1 / moments.covariance if moments.is_diagonal else np.linalg.inv(moments.covariance)

    def costs(self, alive: NDArray[np.int64]) -> NDArray[np.float64]:
        """What leaving out each of the units would cost."""
        columns = self._columns[alive]
        total = np.zeros(len(alive))
        for rows, inverse in zip(self._rows, self._inverses, strict=True):
            taken = rows[:, columns]  # outputs, units, so many
            if inverse.ndim == 1:
                total += np.sum(taken**2 / inverse[columns], axis=(0, 2))
            else:
                blocks = np.linalg.inv(inverse[columns[:, :, None], columns[:, None, :]])
                by_unit = taken.transpose(1, 0, 2)
                total += np.sum((by_unit @ blocks) * by_unit, axis=(1, 2))
        return total

    def leave_out(self, units: Sequence[int]) -> None:
        """Let the other columns make up for those of some units."""
        columns = self._columns[list(units)].reshape(-1)
        for part, inverse in enumerate(self._inverses):
            rows = self._rows[part]
            if inverse.ndim == 2:
                across = np.linalg.solve(inverse[np.ix_(columns, columns)], inverse[columns])
                rows -= rows[:, columns] @ across
                inverse -= inverse[:, columns] @ across
                inverse[columns, :] = 0.0
                inverse[:, columns] = 0.0
                inverse[columns, columns] = 1.0
            rows[:, columns] = 0.0


def eliminate(problems: Sequence[Problem], units: int, fewest: int) -> tuple[Order, Harms]:
    """The order of all units, and what it costs: greedy until `fewest` are left, which follow by their cost then."""
    at_once = max(1, units // _MOST_ROUNDS)
    alive = list(range(units))
    order: list[int] = []
    harms = [0.0]
    while len(alive) > fewest:
        costs = _costs(problems, alive)
        cheapest = np.argsort(costs, kind="stable")[: min(at_once, len(alive) - fewest)]
        harms += [harms[-1] + float(total) for total in np.cumsum(costs[cheapest])]
        leaving = [alive[place] for place in cheapest]
        order += leaving
        alive = [unit for unit in alive if unit not in leaving]
        for problem in problems:
            problem.leave_out(leaving)
    costs = _costs(problems, alive)
    rest = np.argsort(costs, kind="stable")
    harms += [harms[-1] + float(total) for total in np.cumsum(costs[rest])]
    return np.array([*order, *(alive[place] for place in rest)], np.int64), np.array(harms)


def _costs(problems: Sequence[Problem], alive: Sequence[int]) -> NDArray[np.float64]:
    costs = np.zeros(len(alive))
    for problem in problems:
        costs += problem.costs(np.array(alive, np.int64))
    return np.nan_to_num(costs, nan=np.inf)
