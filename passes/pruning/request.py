"""What is asked of pruning, read from options that are text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.passes.channel_links import matches

Importance: TypeAlias = Literal["obs", "fisher", "bn-scale", "l2", "l1"]
Quantity: TypeAlias = Literal["macs", "cycles", "flash", "ram"]

_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20}
_NAMED = 5  # layers that a message lists
_NUMBERS = {"": 1, "K": 1_000, "M": 1_000_000}


@dataclass(frozen=True)
class Budget:
    """A size to prune down to."""

    quantity: Quantity
    limit: float
    text: str  # as the user gave it


def parse_importance(text: str) -> Importance:
    """Raises UsageError for what ranks nothing."""
    match text:
        case "obs" | "fisher" | "bn-scale" | "l2" | "l1":
            return text
        case _:
            pass
    raise UsageError(f"prune-channels.importance is one of {', '.join(get_args(Importance))}, not '{text}'")


def parse_budget(text: str) -> Budget | None:
    """`flash=64K`; None for no text. K and M are powers of 1,024 for bytes and of 1,000 for what is counted.

    Raises UsageError for anything else.

    >>> parse_budget("cycles=1.5M")
    Budget(quantity='cycles', limit=1500000.0, text='cycles=1.5M')
    """
    if not text:
        return None
    found = re.fullmatch(r"(macs|cycles|flash|ram)=(\d+(?:\.\d+)?)([KM]?)", text.strip())
    if not found or not float(found[2]):
        raise UsageError(f"prune to macs=2M, cycles=1.5M, flash=64K or ram=16K, not '{text}'")
    size = float(found[2])
    match found[1]:
        case "flash":
            return Budget("flash", size * _BYTES[found[3]], text)
        case "ram":
            return Budget("ram", size * _BYTES[found[3]], text)
        case "macs":
            return Budget("macs", size * _NUMBERS[found[3]], text)
        case _:
            return Budget("cycles", size * _NUMBERS[found[3]], text)


def parse_layer_shares(texts: Sequence[str]) -> dict[str, float]:
    """The share of channels to remove for each pattern of `PATTERN=SHARE`.

    Raises UsageError for anything else.

    >>> parse_layer_shares(["conv1*=0.5"])
    {'conv1*': 0.5}
    """
    shares: dict[str, float] = {}
    for text in texts:
        pattern, _, share = text.rpartition("=")
        if not pattern or not re.fullmatch(r"0?\.\d+|0|0\.0*", share):
            raise UsageError(f"a layer's share of channels is PATTERN=SHARE with a share below 1, not '{text}'")
        shares[pattern] = float(share)
    return shares


def check_patterns(graph: Graph, patterns: Iterable[str], what: str) -> None:
    """Raises UsageError for a pattern that matches no layer with weights."""
    layers = [node for node in graph.nodes if node.op in ("Conv", "ConvTranspose", "Dense")]
    names = [node.name for node in layers[:_NAMED]] + (["..."] if len(layers) > _NAMED else [])
    for pattern in patterns:
        if not any(matches(node, pattern) for node in layers):
            raise UsageError(f"{what}: no layer with weights is named '{pattern}'; there are {', '.join(names)}")
