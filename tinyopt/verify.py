"""The verifier: the rules that every graph obeys between passes."""

from __future__ import annotations

from tinyopt.errors import TinyoptError, VerifierError
from tinyopt.ir import DTYPES, Graph, Node, TensorType, Value
from tinyopt.ops import OPERATORS


def verify(graph: Graph, after: str) -> None:
    """Check the rules of the IR.

    Nodes run in order; names are unique; every operator is known; recorded types are what the shape rules say;
    constants have their recorded type; each value is produced once; scales along an axis are as many as it is long.

    Raises VerifierError that names the pass `after` which the graph is checked, the node and the rule.
    """
    available: set[int] = {id(value) for value in graph.inputs}
    names: set[str] = set()
    for node in graph.nodes:
        _verify_node(node, available, names, after)
        _verify_outputs(node, available, after)
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
        if value.is_constant and (value.data.dtype, value.data.shape) != (DTYPES[value.dtype], value.shape):
            raise _broken(
                after, f"constant '{value.name}' of {where} is {TensorType.of(value.data)}, recorded as {value.type}"
            )
    try:
        types = OPERATORS[node.op].infer(node)
    except TinyoptError as error:
        raise _broken(after, str(error)) from error
    except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise _broken(after, f"{where} has impossible inputs or attributes ({error!r})") from error
    recorded = [output.type for output in node.outputs]
    if types != recorded:
        raise _broken(after, f"{where} gives {types}, recorded as {recorded}")


def _verify_outputs(node: Node, available: set[int], after: str) -> None:
    """Each output is new, and is then there for the nodes behind."""
    for output in node.outputs:
        if output.is_constant or id(output) in available:
            what = "a constant" if output.is_constant else "there already"
            raise _broken(after, f"{node.op} '{node.name}' produces '{output.name}', which is {what}")
        available.add(id(output))


def _verify_quantization(value: Value, after: str) -> None:
    q = value.quantization
    if q is None or q.axis is None:
        return
    if not 0 <= q.axis < value.type.rank or len(q.scale) != value.shape[q.axis]:
        raise _broken(
            after, f"'{value.name}' of shape {list(value.shape)} has {len(q.scale)} scales along axis {q.axis}"
        )


def _verify_value_names(graph: Graph, after: str) -> None:
    seen: dict[str, Value] = {}
    for value in graph.values():
        _verify_quantization(value, after)
        if seen.setdefault(value.name, value) is not value:
            raise _broken(after, f"two values are named '{value.name}'")


def _broken(after: str, what: str) -> VerifierError:
    return VerifierError(f"after {after}: {what} (a defect of that pass; please report it)")
