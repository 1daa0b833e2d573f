"""The report as data: what report.json holds, and what every other form of the report is printed from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tinyopt import __version__
from tinyopt.ir import Graph, Value
from tinyopt.lowering.program import KernelCall, Program, Variant
from tinyopt.ops import OPERATORS
from tinyopt.pipeline import Drift, PipelineStep
from tinyopt.report.clustering import clustering
from tinyopt.report.figures import NO_CHANGES, buffers, node_changes, totals
from tinyopt.report.sources import layer_sources
from tinyopt.targets.target import Target

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Evaluation:
    """Top-1 on labelled samples, as shares of 1. `source` says what ran the compiled side."""

    samples: int
    float_top1: float
    compiled_top1: float
    agreement: float
    source: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_report(
    model_name: str,
    model_sha256: str,
    prefix: str,
    original: Graph,
    notes: Sequence[str],
    steps: Sequence[PipelineStep],
    program: Program,
    code_bytes: int | None,
    layer_facts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything that is known of a compilation and does not change from run to run: no times, no paths.

    layer_facts: what else is known of the layers, by the names of their nodes.
    """
    constants = sum(constant.array.nbytes for constant in program.constants)
    sources = layer_sources(original, [call.node for call in program.calls])
    return {
        "schema_version": SCHEMA_VERSION,
        "tinyopt": __version__,
        "prefix": prefix,
        "model": {"file": model_name, "sha256": model_sha256, "name": original.name, "notes": list(notes)},
        "target": {
            "name": program.target.name,
            "description": program.target.description,
            "feature": program.target.feature,
        },
        "inputs": [_boundary(value) for value in program.graph.inputs],
        "outputs": [_boundary(value) for value in program.graph.outputs],
        "before": totals(original, program.target),
        "after": totals(program.graph, program.target)
        | {
            "arena_bytes": program.arena_bytes,
            "arena_lower_bound_bytes": program.arena_lower_bound_bytes,
            "flash_constant_bytes": constants,
            "flash_code_bytes": code_bytes,
            "flash_bytes": None if code_bytes is None else code_bytes + constants,
        },
        "passes": _passes(original, steps, program.target),
        "layers": [
            _layer(call, program.target) | {"source": source} | dict(layer_facts.get(call.node.name, {}))
            for call, source in zip(program.calls, sources, strict=True)
        ],
        "variants": [_variant(variant) for variant in program.variants] if len(program.variants) > 1 else [],
        "threads": {"count": program.threads, "shared": sum(size > 1 for size in program.section_sizes)},
        "regions": [asdict(region) for region in program.regions],
        "buffers": buffers(program),
    }


def to_json(report: Any) -> str:
    """Sorted, indented, and strict JSON: infinities become null."""
    return f"{_strict_json(report, indent=1)}\n"


def to_compact_json(report: Any) -> str:
    """What `to_json` gives, without indentation and blanks, in a fraction of the time."""
    return _strict_json(report, separators=(",", ":"))


def _strict_json(report: Any, **form: Any) -> str:
    return json.dumps(_finite(report), sort_keys=True, ensure_ascii=False, allow_nan=False, default=str, **form)


def _finite(value: Any) -> Any:
    if isinstance(value, str | int):  # most are
        return value
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _boundary(value: Value) -> dict[str, Any]:
    quantization = value.quantization
    return {
        "name": value.name,
        "dtype": value.dtype,
        "shape": list(value.shape),
        "bytes": value.type.bytes,
        "scale": None if quantization is None else quantization.scale[0],
        "zero_point": None if quantization is None else quantization.zero_point[0],
    }


def _passes(original: Graph, steps: Sequence[PipelineStep], target: Target) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    graph, figures = original, totals(original, target)
    for step in steps:
        changes = NO_CHANGES
        if step.record.is_changed:
            changes = node_changes(graph, step.record.graph, step.record.remarks)
            graph, figures = step.record.graph, totals(step.record.graph, target)
        found.append(_pass(step, changes, figures))
    return found


def _pass(step: PipelineStep, changes: Mapping[str, int], figures: Mapping[str, Any]) -> dict[str, Any]:
    record = step.record
    return {
        "name": record.pass_name,
        "options": record.options,
        "is_changed": record.is_changed,
        "remarks": [asdict(remark) for remark in record.remarks],
        "drift": None if step.drift is None else _drift(step.drift),
        "nodes": dict(changes),
        "after": dict(figures),
    }


def _drift(drift: Drift) -> dict[str, Any]:
    return {"max_abs": drift.max_abs, "snr_db": drift.snr_db}


def _variant(variant: Variant) -> dict[str, Any]:
    """What of the layers is this variant's own; those in "layers" are the first variant's."""
    return {
        "name": variant.name,
        "feature": variant.feature,
        "layers": [
            {"kernel": call.kernel.name, "weight_bytes": call.weight_bytes, "refusals": list(call.refusals)}
            for call in variant.calls
        ],
    }


def _layer(call: KernelCall, target: Target) -> dict[str, Any]:
    output = call.node.outputs[0]
    return {
        "index": call.index,
        "name": call.node.name,
        "op": call.node.op,
        "kernel": call.kernel.name,
        "origins": list(call.node.origins),
        "dtype": output.dtype,
        "shape": list(output.shape),
        "macs": OPERATORS[call.node.op].macs(call.node),
        "weight_bytes": call.weight_bytes,
        "estimated_instructions": target.costs.instructions(call.node),
        "ideal_instructions_per_mac": target.costs.ideal_per_mac(output.dtype),
        "region": call.outputs[0].region,
        "offset": call.outputs[0].offset,
        "bytes": call.outputs[0].bytes,
        "refusals": list(call.refusals),
        "clusters": clustering(call),
    }
