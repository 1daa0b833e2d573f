"""How far the outputs move when a plan is carried out and the layers are refitted: the dearest judgement, and the best.

In a trial, the layers that read lost units make up for them. A rehearsal does all that refit-weights will do, by one
half of the samples, and judges by the other half, both ways round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Graph
from tinyopt.pass_manager import PassContext, TargetFacts, Unpruned
from tinyopt.passes.pruning.cutting import Kept, cut_copy, kept_channels
from tinyopt.passes.pruning.trials import Gone, Judge, Outputs, outputs_of
from tinyopt.passes.refit_weights import RefitWeights
from tinyopt.samples import Sample


class Rehearsals:
    """Measures the harm of plans on samples.

    folds: two halves of the samples. on_step: called before each rehearsal. most: how many are worth the time.
    """

    def __init__(
        self,
        graph: Graph,
        facts: TargetFacts,
        folds: Sequence[Sequence[Sample]],
        on_step: Callable[[], None],
        most: int,
    ) -> None:
        self._graph = graph
        self._facts = facts
        self._folds = folds
        self._judge = Judge.of(graph)
        self._exact = [outputs_of(graph, self._judge.values, fold) for fold in folds]
        self._on_step = on_step
        self.most = most

    def harm(self, gone: Gone) -> float:
        """The mean over all samples, each judged by weights that it had no part in."""
        self._on_step()
        kept = {group: np.setdiff1d(np.arange(group.size), units).tolist() for group, units in gone.items()}
        harms = [
            self._judge.harm(exact, self._refitted_outputs(kept, used, judged))
            for exact, used, judged in zip(self._exact, reversed(self._folds), self._folds, strict=True)
        ]
        return float(np.concatenate(harms).mean())

    def _refitted_outputs(self, kept: Kept, used: Sequence[Sample], judged: Sequence[Sample]) -> Outputs:
        graph = cut_copy(self._graph, kept)
        unpruned = Unpruned(self._graph, kept_channels(self._graph, kept))
        RefitWeights().run(graph, PassContext(self._facts, used, unpruned=unpruned))
        return outputs_of(graph, Judge.of(graph).values, judged)
