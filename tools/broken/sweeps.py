"""Every operator that tinyopt has a rule for, with attributes of a wrong type, and without those that it must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from onnx import AttributeProto, defs, helper

from tools.broken.case import OPSET, Case, model_of, of_model

_WRONG: Mapping[int, Any] = {
    AttributeProto.INT: "text",
    AttributeProto.INTS: 1.5,
    AttributeProto.FLOAT: [1, 2],
    AttributeProto.FLOATS: "text",
    AttributeProto.STRING: 7,
    AttributeProto.STRINGS: [1.5],
    AttributeProto.TENSOR: [1, 2],
    AttributeProto.GRAPH: 3,
}


def sweep_cases() -> Iterator[Case]:
    """About 100 cases; what they read is an image, whatever the operator would like."""
    from tinyopt.onnx_import import supported_operators

    for op in supported_operators():
        if "." in op or not defs.has(op, OPSET, ""):
            continue
        schema = defs.get_schema(op, OPSET, "")
        attributes = cast("Mapping[str, Any]", schema.attributes)
        wrong = {n: _WRONG[a.type.value] for n, a in attributes.items() if a.type.value in _WRONG}
        if wrong:
            yield _case(f"sweep-types-{op}", op, schema.min_input, wrong)
        required = [name for name, attribute in attributes.items() if attribute.required]
        if required:
            yield _case(f"sweep-without-{required[0]}-{op}", op, schema.min_input, {})


def _case(name: str, op: str, inputs: int, attributes: Mapping[str, Any]) -> Case:
    made = helper.make_node(op, ["x"] * max(inputs, 1), ["y"], name=op.lower())
    made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return of_model(name, model_of([made], {"x": (1, 3, 8, 8)}))
