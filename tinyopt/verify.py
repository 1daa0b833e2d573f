"""The verifier: the rules that every graph obeys between passes."""

from __future__ import annotations

from tinyopt.errors import TinyoptError, VerifierError
from tinyopt.ir import Graph, Node, TensorType, Value
from tinyopt.ops import OPERATORS


def verify(graph: Graph, after: str) -> None:
    """Check the rules of the IR.

    Nodes run in order; names are unique; every operator is known; recorded types are what the shape rules say;
    constants have their recorded type; an int8 value that is an activation carries a quantization.

    Raises VerifierError that names the pass `after` which the graph is checked, the node and the rule.
    """
    available: set[int] = {id(value) for value in graph.inputs}
    names: set[str] = set()
    for node in graph.nodes:
        _verify_node(node, available, names, after)
        available.update(id(output) for output in node.outputs)
    _verify_value_names(graph, after)
    for output in graph.outputs:
        if id(output) not in available and not output.is_constant:
            raise _broken(after, f"graph output '{output.name}' is produced by no node")


def _verify_node(node: Node, available: set[int], names: set[str], after: str) -> None:
    where = f"{node.op} '{node.name}'"
    if node.op not in OPERATORS:
        raise _broken(after, f"{where} is no known operator")
    if node.name in names:
        raise _broken(after, f"two nodes are named '{node.name}'")
    names.add(node.name)
    for value in node.present_inputs:
        if not value.is_constant and id(value) not in available:
            raise _broken(after, f"{where} reads '{value.name}' before it is produced")
        if value.is_constant and TensorType.of(value.data) != value.type:
            raise _broken(
                after, f"constant '{value.name}' of {where} is {TensorType.of(value.data)}, recorded as {value.type}"
            )
    try:
        types = OPERATORS[node.op].infer(node)
    except TinyoptError as error:
        raise _broken(after, str(error)) from error
    recorded = [output.type for output in node.outputs]
    if types != recorded:
        raise _broken(after, f"{where} gives {types}, recorded as {recorded}")


def _verify_value_names(graph: Graph, after: str) -> None:
    seen: dict[str, Value] = {}
    for value in graph.values():
        if seen.setdefault(value.name, value) is not value:
            raise _broken(after, f"two values are named '{value.name}'")


def _broken(after: str, what: str) -> VerifierError:
    return VerifierError(f"after {after}: {what} (a defect of that pass; please report it)")
