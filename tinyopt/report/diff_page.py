"""Two models side by side as a page: the view of a pass in report.html, for any two ONNX files."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyopt.graph_diff import Difference, GraphDiff
from tinyopt.ir import DTYPES, Value
from tinyopt.outline import Operation, Outline, Tensor
from tinyopt.report.html.build import Stage, page_data, render
from tinyopt.report.html.pictures import GraphPicture, NodePicture, weight_facts
from tinyopt.report.html.views import Replacement
from tinyopt.report.outline_costs import outline_macs


def diff_page(old_name: str, new_name: str, old: Outline, new: Outline, diff: GraphDiff) -> str:
    """The page. Nodes that stand for the same in both models stand at the same place."""
    twins = {j: i for i, j in diff.pairs}
    changed = {name.position for item in diff.differences if item.kind == "changed" for name in item.new}
    first = _picture(old, [f"old {i}" for i in range(len(old.operations))], set())
    second = _picture(
        new, [f"old {twins[j]}" if j in twins else f"new {j}" for j in range(len(new.operations))], changed
    )
    replaced = [
        Replacement(
            tuple(f"old {name.position}" for name in item.old),
            tuple(f"new {name.position}" for name in item.new),
            _sentence(item, old, new),
        )
        for item in diff.differences
        if item.kind == "replaced"
    ]
    data = page_data(_report(old_name, new_name, old, new, diff), first, [Stage(second, replaced)])
    return render(data | {"first_name": old_name})


def _report(old_name: str, new_name: str, old: Outline, new: Outline, diff: GraphDiff) -> dict[str, Any]:
    """As much of a report as there is of two models."""
    remarks = [_remark("note", text, (), ()) for text in diff.model]
    for item in diff.differences:
        names = [outline.operations[name.position].label for outline, name in _sides(item, old, new)]
        remarks.append(_remark("did", _sentence(item, old, new), names[: len(item.old)], names[len(item.old) :]))
    counts = {
        "removed": sum(len(item.old) for item in diff.differences if item.kind in ("removed", "replaced")),
        "added": sum(len(item.new) for item in diff.differences if item.kind in ("added", "replaced")),
        "changed": diff.count("changed"),
        "fused": 0,
    }
    step = {
        "name": new_name,
        "is_changed": True,
        "options": {},
        "remarks": remarks,
        "nodes": counts,
        "drift": None,
        "after": {"nodes": len(new.operations)},
    }
    title = f"{old_name} → {new_name}"
    return {
        "model": {"file": title, "notes": []},
        "before": {"nodes": len(old.operations)},
        "passes": [step],
    }


def _remark(kind: str, message: str, before: Any, after: Any) -> dict[str, Any]:
    return {"kind": kind, "message": message, "before": list(before), "after": list(after)}


def _sides(item: Difference, old: Outline, new: Outline) -> list[tuple[Outline, Any]]:
    return [*((old, name) for name in item.old), *((new, name) for name in item.new)]


def _sentence(item: Difference, old: Outline, new: Outline) -> str:
    before, after = (
        " + ".join(f"{name.op} '{outline.operations[name.position].label}'" for name in names)
        for outline, names in ((old, item.old), (new, item.new))
    )
    if item.kind == "replaced":
        return f"{before} replaced by {after}"
    details = f": {'; '.join(item.details)}" if item.details else ""
    return f"{before or after} {item.kind}{details}"


# Pictures


def _picture(outline: Outline, keys: list[str], changed: set[int]) -> GraphPicture:
    macs = outline_macs(outline)
    return GraphPicture(
        tuple(
            NodePicture(
                key,
                operation.op,
                "changed" if position in changed else "same",
                tuple(tensor.name for tensor in operation.inputs if tensor is not None and tensor.array is None),
                tuple(tensor.name for tensor in operation.outputs),
                _facts(operation, macs[position]),
            )
            for position, (key, operation) in enumerate(zip(keys, outline.operations, strict=True))
        ),
        {tensor.name: tensor.type_text for tensor in outline.inputs},
        {tensor.name: tensor.type_text for tensor in outline.outputs},
    )


def _facts(operation: Operation, macs: int) -> dict[str, Any]:
    constants = [tensor for _, tensor in operation.constants]
    stored = [value for tensor in constants if (value := _as_value(tensor)) is not None]
    weights = max(stored, key=lambda value: value.type.elements, default=None)
    is_shown = weights is not None and weights.type.elements > 1
    return {
        "name": operation.label,
        "op": operation.op,
        "detail": "×".join(map(str, weights.shape)) if weights is not None and is_shown else "",
        "reads": [_tensor(t) for t in operation.inputs if t is not None and t.array is None],
        "gives": [_tensor(tensor) for tensor in operation.outputs],
        "attributes": {key: str(value) for key, value in operation.attributes.items()},
        "origins": [operation.name] if operation.name else [],
        "macs": macs,
        "weight_bytes": sum(tensor.array.nbytes for tensor in constants if tensor.array is not None),
        "estimated_instructions": None,
        "zeros": 1 - float(np.count_nonzero(weights.data)) / weights.type.elements if weights and is_shown else None,
        "weights": weight_facts(weights) if weights is not None and is_shown else None,
    }


def _as_value(tensor: Tensor) -> Value | None:
    is_numeric = tensor.array is not None and tensor.array.dtype.name in DTYPES and tensor.array.dtype.kind in "fiu"
    return Value.of(tensor.name, tensor.array) if is_numeric and tensor.array is not None else None


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.type_text, "bytes": None, "scale": None, "zero_point": None}
