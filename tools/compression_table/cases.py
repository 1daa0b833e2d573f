"""The rows of the table: what is asked of the compiler in each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tinyopt.options import CompileOptions

FLOAT, PLAIN = "float", "int8"


@dataclass(frozen=True)
class Case:
    """One row. prune: the share of the instructions of a run that pruning is asked to save; cluster: values a layer."""

    name: str
    prune: float = 0.0
    recover: Literal["none", "normalization", "refit", "distill"] = "refit"
    cluster: int = 0
    is_quick: bool = False

    def options(self, common: CompileOptions) -> CompileOptions:
        """`common` with what this row asks for."""
        return replace(common, prune=self.prune, recover=self.recover, cluster=self.cluster)


CASES = (
    Case(PLAIN, is_quick=True),
    Case("prune 0.1", 0.1),
    Case("prune 0.2, not recovered", 0.2, "none"),
    Case("prune 0.2, normalization", 0.2, "normalization"),
    Case("prune 0.2", 0.2, is_quick=True),
    Case("prune 0.3", 0.3),
    Case("prune 0.2, distill", 0.2, "distill"),
    Case("prune 0.3, distill", 0.3, "distill"),
    Case("cluster 64", cluster=64),
    Case("cluster 32", cluster=32, is_quick=True),
    Case("cluster 16", cluster=16),
    Case("prune 0.2, cluster 32", 0.2, cluster=32, is_quick=True),
)


def case_named(name: str) -> Case:
    """One of the table."""
    return next(case for case in CASES if case.name == name)
