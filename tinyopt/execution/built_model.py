"""An output folder of `tinyopt compile`, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyopt.errors import UsageError
from tinyopt.graph_file import load_graph
from tinyopt.ir import Graph
from tinyopt.targets import target_named
from tinyopt.targets.target import Target


@dataclass(frozen=True)
class BuiltModel:
    """A compiled model on disk. `layers` are the report's entries, in running order."""

    folder: Path
    prefix: str
    target: Target
    graph: Graph  # as it was lowered: the reference of every byte
    layers: tuple[dict[str, Any], ...]


def load_built_model(folder: Path) -> BuiltModel:
    """Raises UsageError where `folder` is not what `tinyopt compile` wrote."""
    report = folder / "report.json"
    if not report.is_file():
        raise UsageError(f"{folder} is not an output folder of tinyopt compile: it has no report.json")
    try:
        content = json.loads(report.read_text())
        prefix, target, layers = str(content["prefix"]), str(content["target"]["name"]), tuple(content["layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{report} is not a report of tinyopt compile: {error!r}") from error
    return BuiltModel(folder, prefix, target_named(target), load_graph(folder / f"{prefix}.graph.npz"), layers)
