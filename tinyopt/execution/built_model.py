"""An output folder of `tinyopt compile`, read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.graph_file import load_graph
from tinyopt.ir import Graph
from tinyopt.targets import target_named
from tinyopt.targets.target import Target


@dataclass(frozen=True)
class BuiltModel:
    """A compiled model on disk. `layers` are the report's entries, in running order.

    regions: the names of its memory regions, none where it takes one arena.
    variants: where the library picks its kernels at run time, for each set of them by name what differs in `layers`.
    """

    folder: Path
    prefix: str
    target: Target
    graph: Graph  # as it was lowered: the reference of every byte
    layers: tuple[dict[str, Any], ...]
    regions: tuple[str, ...]
    variants: Mapping[str, tuple[dict[str, Any], ...]]

    def layers_of(self, variant: str | None) -> tuple[dict[str, Any], ...]:
        """The layers with the kernels of one variant; None where there is only one."""
        if variant is None:
            return self.layers
        return tuple(layer | own for layer, own in zip(self.layers, self.variants[variant], strict=True))


def load_built_model(folder: Path) -> BuiltModel:
    """Raises UsageError where `folder` is not what `tinyopt compile` wrote, InvalidModelError where it is damaged."""
    report = folder / "report.json"
    if not report.is_file():
        raise UsageError(f"{folder} is not an output folder of tinyopt compile: it has no report.json")
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        prefix, target, layers = str(content["prefix"]), str(content["target"]["name"]), tuple(content["layers"])
        regions = tuple(str(region["name"]) for region in content["regions"])
        variants = {str(variant["name"]): tuple(variant["layers"]) for variant in content["variants"]}
        described = [(layer["name"], layer["dtype"], tuple(layer["shape"])) for layer in layers]
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidModelError(f"{report} is not a report of tinyopt compile: {error!r}; compile again") from error
    for name in (prefix, *regions, *variants):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise InvalidModelError(f"{report} is damaged: '{name}' is no C identifier; compile again")
    graph = load_graph(folder / f"{prefix}.graph.npz")
    built = BuiltModel(folder, prefix, target_named(target), graph, layers, regions, variants)
    _check_layers(built, described)
    for name in _needed_files(built):
        if not (folder / name).is_file():
            raise InvalidModelError(f"{folder} is damaged: it has no {name}; compile again")
    return built


def _check_layers(built: BuiltModel, described: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
    """The report and the graph speak of the same layers."""
    if any(len(own) != len(built.layers) for own in built.variants.values()):
        raise InvalidModelError(f"{built.folder} is damaged: its report's variants have not the same layers")
    nodes = {node.name: node for node in built.graph.nodes}
    for name, dtype, shape in described:
        if name not in nodes or (nodes[name].outputs[0].dtype, nodes[name].outputs[0].shape) != (dtype, shape):
            raise InvalidModelError(f"{built.folder} is damaged: its graph has no layer '{name}' such as its report's")


def _needed_files(built: BuiltModel) -> tuple[str, ...]:
    weights = f"{built.prefix}_weights.c" if built.target.code == "c" else f"lib{built.prefix}.a"
    return f"{built.prefix}.h", f"{built.prefix}.c", weights
