"""The reference interpreter: runs a graph with the numpy definitions of its operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.ir import DTYPES, Array, Graph, Node, TensorType, Value
from tinyopt.ops import OPERATORS


def evaluate(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's outputs by name.

    Raises InvalidModelError where `inputs` does not fit the graph's inputs.
    """
    arrays = evaluate_all(graph, inputs)
    return {output.name: arrays[output] for output in graph.outputs}


def evaluate_all(graph: Graph, inputs: Mapping[str, Array]) -> dict[Value, Array]:
    """Every value of the graph, constants included.

    Raises InvalidModelError where `inputs` does not fit the graph's inputs.
    """
    arrays = {value: value.data for value in graph.constants()}
    arrays.update(zip(graph.inputs, checked_inputs(graph, inputs).values(), strict=True))
    with np.errstate(all="ignore"):  # overflow to infinity is what float32 defines, not a defect
        for node in graph.nodes:
            results = _evaluate_node(node, [None if value is None else arrays[value] for value in node.inputs])
            arrays.update(zip(node.outputs, results, strict=True))
    return arrays


def checked_inputs(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """`inputs` in the graph's order and types.

    Arrays are cast where no value changes but for float rounding.
    Raises InvalidModelError that names the input which is missing, unknown, or of another shape or type.
    """
    known = {value.name: value for value in graph.inputs}
    if surplus := [name for name in inputs if name not in known]:
        raise InvalidModelError(f"graph '{graph.name}' has no input '{surplus[0]}'; its inputs: {', '.join(known)}")
    if missing := [name for name in known if name not in inputs]:
        raise InvalidModelError(f"no data for input '{missing[0]}' of graph '{graph.name}'")
    return {name: _as_type(name, np.asarray(inputs[name]), value.type) for name, value in known.items()}


def _as_type(name: str, array: Array, wanted: TensorType) -> Array:
    if array.shape != wanted.shape:
        raise InvalidModelError(f"input '{name}' has shape {list(array.shape)}; the model takes {list(wanted.shape)}")
    dtype = DTYPES[wanted.dtype]
    if array.dtype == dtype:
        return array
    is_float_for_float = dtype.kind == "f" and array.dtype.kind in "fiub"
    is_number_for_integer = dtype.kind in "iub" and array.dtype.kind in "iub"
    if is_float_for_float or (is_number_for_integer and np.array_equal(array.astype(dtype), array)):
        return array.astype(dtype)
    raise InvalidModelError(f"input '{name}' holds {array.dtype.name}; the model takes {wanted.dtype}")


def _evaluate_node(node: Node, inputs: list[Array | None]) -> list[Array]:
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise UnsupportedOperatorError(f"{node.op} (node '{node.name}') is no known operator")
    results = operator.evaluate(node, inputs)
    for result, output in zip(results, node.outputs, strict=True):
        assert TensorType.of(result) == output.type, (
            f"{node.op} '{node.name}' gave {TensorType.of(result)}, not {output.type}"
        )
    return results
