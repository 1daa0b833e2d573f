"""What pruning took and what recovery gave back: the section `compression` of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinyopt.ir import Graph, Node
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Unpruned
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups
from tinyopt.passes.channel_links import WeightUse, weight_use
from tinyopt.pipeline import PipelineStep, measure_drift, real_outputs
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

LADDER_SAMPLES = 32  # a second for the models of a microcontroller
_PRUNING = ("drop-idle-branches", "prune-channels")
_LADDER = (*_PRUNING, "refit-weights", "reestimate-normalization", "distill", "cluster-weights")

Progress: TypeAlias = Callable[[str, int, int], None]
Figures: TypeAlias = dict[str, Any]
Instructions: TypeAlias = Callable[[Node], float]


def compression_section(
    steps: Sequence[PipelineStep], samples: Sequence[Sample], instructions: Instructions, on_progress: Progress
) -> Figures | None:
    """As docs/report-schema.md says; None where nothing was pruned.

    samples: of the calibration; the ladder takes an evenly spaced part. instructions: of a node as it will be run.
    """
    pruned = [step for step in steps if step.record.pass_name in _PRUNING and step.record.is_changed]
    if not pruned or pruned[-1].unpruned is None:
        return None
    unpruned, after = pruned[-1].unpruned, pruned[-1].record.graph
    groups = find_channel_groups(unpruned.graph)
    chosen = [samples[index] for index in evenly_spaced(samples, LADDER_SAMPLES)] if samples else []
    return {
        "instructions": _instructions(unpruned.graph.nodes, after.nodes, instructions),
        "macs": _pair(_macs(unpruned.graph.nodes), _macs(after.nodes)),
        "groups": [_group(group, unpruned, after) for group in groups],
        "layers": _layers(unpruned, after, groups, instructions),
        "samples": len(chosen),
        "ladder": _ladder(unpruned.graph, steps, chosen, on_progress),
    }


def _pair(before: float, after: float) -> Figures:
    return {"before": before, "after": after}


def _macs(nodes: Sequence[Node]) -> int:
    return sum(OPERATORS[node.op].macs(node) for node in nodes)


def _instructions(before: Sequence[Node], after: Sequence[Node], instructions: Instructions) -> Figures:
    return _pair(*(round(sum(map(instructions, nodes))) for nodes in (before, after)))


def _layers(
    unpruned: Unpruned, after: Graph, groups: Sequence[ChannelGroup], instructions: Instructions
) -> list[Figures]:
    """Each layer with weights, in running order; one that was removed whole is all zero afterwards."""
    left = {node.name: node for node in after.nodes}
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        for use in (*group.producers, *group.depthwise):
            members.setdefault(use.node.name, []).append(number)
    found: list[Figures] = []
    for node in unpruned.graph.nodes:
        if (layer := weight_use(node)) is not None:
            numbers = members.get(node.name, [])
            found.append(
                _layer(layer, left.get(node.name), unpruned.kept.get(node.name), instructions) | {"groups": numbers}
            )
    return found


def _layer(use: WeightUse, after: Node | None, kept: Any, instructions: Instructions) -> Figures:
    node, nodes = use.node, [] if after is None else [after]
    channels = node.output.shape[use.channel_axis]
    remaining = 0 if after is None else after.output.shape[use.channel_axis]
    stays = range(remaining) if kept is None else kept
    return {
        "name": node.name,
        "op": node.op,
        "origins": list(node.origins),
        "channels": _pair(channels, remaining),
        "kept": [int(channel) for channel in stays] if len(stays) == remaining else None,
        "macs": _pair(_macs([node]), _macs(nodes)),
        "instructions": _instructions([node], nodes, instructions),
        "parameters": _pair(_parameters([node]), _parameters(nodes)),
    }


def _parameters(nodes: Sequence[Node]) -> int:
    """Weights, and biases where there are some, that are constants or come from a DequantizeLinear."""
    return sum(
        value.type.elements for node in nodes for value in (node.optional_input(1), node.optional_input(2)) if value
    )


def _group(group: ChannelGroup, unpruned: Unpruned, after: Graph) -> Figures:
    return {
        "label": group.label,
        "layers": [use.node.name for use in (*group.producers, *group.depthwise)],
        "channels": _pair(group.size, _remaining(group, unpruned, {node.name: node for node in after.nodes})),
        "blocked": group.blocked,
    }


def _remaining(group: ChannelGroup, unpruned: Unpruned, left: Mapping[str, Node]) -> int:
    """How many units stay: as many as a producer that is still there has; none where all are gone."""
    for use in group.producers:
        if use.node.name not in left:
            continue
        kept = unpruned.kept.get(use.node.name)
        if kept is None:
            return group.size
        places = group.member(use.weights, use.output_axis).places
        return int(np.isin(places, kept).all(axis=1).sum())
    return 0


def _ladder(
    reference: Graph, steps: Sequence[PipelineStep], samples: Sequence[Sample], on_progress: Progress
) -> list[Figures]:
    """After each compression pass that changed the graph: the outputs beside those before pruning."""
    if not samples:
        return []
    rungs = [step for step in steps if step.record.pass_name in _LADDER and step.record.is_changed]
    wanted = real_outputs(reference, samples)
    best = [int(np.argmax(outputs[0])) for outputs in wanted]
    has_classes = reference.outputs[0].type.elements > 1
    found: list[Figures] = []
    for number, step in enumerate(rungs, start=1):
        outputs = real_outputs(step.record.graph, samples)
        differing = sum(int(np.argmax(arrays[0])) != index for arrays, index in zip(outputs, best, strict=True))
        found.append(
            {
                "pass": step.record.pass_name,
                "snr_db": measure_drift(wanted, outputs).snr_db,
                "differing": differing if has_classes else None,
            }
        )
        on_progress("outputs after each compression", number, len(rungs))
    return found
