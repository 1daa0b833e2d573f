"""What every operator takes and refuses, kept as text: its facts, and what its shape rule says of nodes gone wrong.

For each operator a line of facts, one of the cases as they are and of the changes that its shape rule takes (inputs of
other sizes, ranks and types, other attributes, other outputs), and for the others the refusals with how many they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from tests.indexing_cases import indexing_cases
from tests.integer_cases import MIXED_CASES
from tests.kernel_cases import all_cases
from tests.test_ops_contract import changed_arrays, is_along_an_axis, with_input
from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Attribute, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS

MOST_CASES = 12  # of one operator
PLANES = {"strides", "pads", "dilations", "kernel", "output_padding", "counted_pads"}  # as long as the importer says
QUANTIZATIONS = (None, Quantization.per_tensor(0.1, 0), Quantization.per_channel([0.1], [0], 0))


def cases() -> dict[str, list[tuple[Node, tuple[Array | None, ...]]]]:
    """Nodes of each operator, with arrays for their inputs."""
    found: dict[str, list[tuple[Node, tuple[Array | None, ...]]]] = {}
    for case in [*all_cases(), *indexing_cases()]:
        found.setdefault(case.node.op, []).append((case.node, case.arrays))
    for graph in MIXED_CASES.values():
        (node,) = graph.nodes
        arrays = [None if v is None else np.zeros(v.shape, v.dtype) for v in node.inputs]
        found.setdefault(node.op, []).append((node, tuple(arrays)))
    return {op: nodes[:MOST_CASES] for op, nodes in found.items()}


def other_values(key: str, value: Attribute) -> Iterator[Attribute]:
    """What an attribute might be instead."""
    if isinstance(value, str):
        yield "other"
    elif isinstance(value, tuple):
        if key not in PLANES:
            yield from (value[:-1], (*value, 1))
        for place, item in enumerate(value):
            yield from ((*value[:place], item + step, *value[place + 1 :]) for step in (-1, 1))
    else:
        yield from (value - 1, value + 1, 0, -1, 1 << 31)


def copied(node: Node, attributes: dict[str, Attribute], outputs: list[Value]) -> Node:
    return Node(node.op, node.name, list(node.inputs), outputs, {**node.attributes, **attributes}, node.origins)


def changes(node: Node, arrays: tuple[Array | None, ...]) -> Iterator[Node]:
    """The node with one thing changed, in every way."""
    for index, array in enumerate(arrays):
        if array is not None and not is_along_an_axis(node, index):
            yield from (with_input(node, index, other) for other in changed_arrays(array))
            yield from (with_quantization(node, index, other) for other in QUANTIZATIONS)
    for key, value in node.attributes.items():
        yield from (copied(node, {key: other}, node.outputs) for other in other_values(key, value))
    for dtype in ("float32", "int8", "int16", "int32"):
        for quantization in QUANTIZATIONS:
            types = [TensorType(dtype, value.shape) for value in node.outputs]
            yield copied(node, {}, [Value("y", each, None, quantization) for each in types])


def with_quantization(node: Node, index: int, quantization: Quantization | None) -> Node:
    old = node.input(index)
    other = Value(old.name, old.type, old.constant, quantization)
    changed = copied(node, {}, node.outputs)
    changed.inputs = [other if place == index else each for place, each in enumerate(node.inputs)]
    return changed


def refusal(node: Node) -> str | None:
    """Why the shape rule does not take the node, without its name and without numbers; None where it takes it."""
    try:
        OPERATORS[node.op].infer(node)
    except InvalidModelError as error:
        start, _, message = str(error).partition(": ")
        return without_numbers(message) if start == f"{node.op} '{node.name}'" else f"(does not name the node) {error}"
    return None


def told(op: str, nodes: list[tuple[Node, tuple[Array | None, ...]]]) -> str:
    """The paragraph of an operator."""
    operator = OPERATORS[op]
    changed = [other for node, arrays in nodes for other in changes(node, arrays)]
    reasons = [refusal(node) for node in changed]
    taken = [node for node, reason in zip(changed, reasons, strict=True) if reason is None]
    elements = sum(each.elements for node in taken for each in operator.infer(node))
    refused = Counter(reason for reason in reasons if reason is not None)
    elementwise = ", elementwise" if operator.is_elementwise else ""
    macs = sum(operator.macs(node) for node, _ in nodes)
    lines = [
        f"{operator.name}: {operator.channels.name}, {operator.quantization.name}{elementwise}",
        f"    {len(nodes)} cases, {macs} MACs; {len(taken)} changes of {elements} elements taken, others refused:",
        *(f"    {count:4d}  {message}" for message, count in sorted(refused.items())),
    ]
    return "\n".join(lines) + "\n"


def without_numbers(message: str) -> str:
    message = re.sub(r"[(\[](-?[\d.]+(e[-+]?\d+)?(, ?)?)*[)\]]", "(..)", message)
    return re.sub(r"(?<![\w.])-?\d[\d,.]*\d|(?<![\w.])-?\d", "#", message)


def test_every_operator_takes_and_refuses_what_it_did(golden: Callable[[str, str], None]) -> None:
    golden("operators", "\n".join(told(op, nodes) for op, nodes in sorted(cases().items())))
