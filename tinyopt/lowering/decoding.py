"""Which layers look clustered weights up as they run: those that save most, while the model as a whole stays fast.

The limit of a codebook (`Clusters.cost_limit`) is one for the sum over the model: a layer may cost more, as long as
others cost less. The layers that save most flash for each further instruction come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.costs import InstructionCosts
from tinyopt.targets.kernel import Decoding, Kernel


@dataclass(frozen=True, eq=False)
class _Candidate:
    node: Node
    decoding: Decoding
    limit: float

    @property
    def further(self) -> int:
        """Instructions beyond those of int8 weights."""
        return self.decoding.instructions - self.decoding.int8_instructions

    @property
    def saved(self) -> int:
        """Bytes."""
        return self.decoding.int8_bytes - self.decoding.bytes


def too_slow(kernels: Mapping[Node, Kernel], costs: InstructionCosts) -> dict[Node, str]:
    """The nodes whose kernels had better take int8 weights, and why."""
    found = list(_candidates(kernels))
    if not found:
        return {}
    limit = min(candidate.limit for candidate in found)
    decoded = {candidate.node: candidate.decoding.int8_instructions for candidate in found}
    total = sum(decoded[node] if node in decoded else costs.instructions(node) for node in kernels)
    left = (limit - 1) * total
    refused: dict[Node, str] = {}
    for candidate in sorted(found, key=_price):
        if candidate.further <= left:
            left -= max(candidate.further, 0)
        else:
            refused[candidate.node] = _reason(candidate, limit)
    return refused


def _candidates(kernels: Mapping[Node, Kernel]) -> Iterable[_Candidate]:
    for node, kernel in kernels.items():
        clusters = None if kernel.decoding is None else node.input(1).clusters
        if kernel.decoding is not None and clusters is not None and math.isfinite(clusters.cost_limit):
            yield _Candidate(node, kernel.decoding, clusters.cost_limit)


def _price(candidate: _Candidate) -> float:
    """Instructions for each byte saved."""
    return candidate.further / max(candidate.saved, 1)


def _reason(candidate: _Candidate, limit: float) -> str:
    factor = candidate.decoding.instructions / max(candidate.decoding.int8_instructions, 1)
    return (
        f"decoding its weights would take {factor:.2f} times the instructions of int8 weights to save {candidate.saved}"
        f" bytes: other layers save more for what the whole model may take (the limit is {limit:g})"
    )
