"""A shape rule takes nothing that the reference cannot compute, and gives the types of the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.indexing_cases import indexing_cases
from tests.kernel_cases import Case, all_cases
from tinyopt.errors import TinyoptError
from tinyopt.ir import DTYPES, Array, Node, TensorType, Value
from tinyopt.ops import OPERATORS

CASES = [*all_cases(), *indexing_cases()]
OTHER_DTYPES = {"float32": ("float16", "int64"), "int8": ("float32",), "int64": ("float32",), "int32": ("int8",)}


def changed_arrays(array: Array) -> Iterator[Array]:
    """The array as others would be beside what a node says of it: sizes, ranks, and element types."""
    for axis in range(array.ndim):
        yield np.concatenate([array, array.take([0], axis)], axis)
        if array.shape[axis] > 1:
            yield array.take(range(array.shape[axis] - 1), axis)
    if array.ndim:
        yield array[0]
    yield array[None]
    for dtype in OTHER_DTYPES.get(str(array.dtype), ()):
        with np.errstate(all="ignore"):
            yield array.astype(DTYPES[dtype])


def with_input(node: Node, index: int, array: Array) -> Node:
    """The node with another input of the same kind: constant or not, quantized as the present one."""
    old = node.input(index)
    kept = array if old.is_constant else None
    value = Value(old.name, TensorType.of(array), kept, old.quantization)
    inputs = [value if place == index else each for place, each in enumerate(node.inputs)]
    outputs = [Value(each.name, each.type, None, each.quantization) for each in node.outputs]
    return Node(node.op, node.name, inputs, outputs, dict(node.attributes), node.origins)


def is_along_an_axis(node: Node, index: int) -> bool:
    """Whether scales go with the input's size, or with that of an output of its size: the verifier compares these."""
    beside = [node.input(index), *(node.outputs if node.op == "QuantizeLinear" else ())]
    return any(value.quantization is not None and value.quantization.axis is not None for value in beside)


def contradiction(node: Node, arrays: Sequence[Array | None]) -> str | None:
    """What is wrong where the shape rule takes the node; None where it refuses it, or all is well."""
    operator = OPERATORS[node.op]
    try:
        types = operator.infer(node)
    except TinyoptError:
        return None
    for value, inferred in zip(node.outputs, types, strict=True):
        value.type = inferred
    with np.errstate(all="ignore"):
        results = operator.evaluate(node, arrays)
    given = [TensorType.of(result) for result in results]
    return None if given == types else f"{types} was said, {given} came"


@pytest.mark.parametrize("op", sorted({case.node.op for case in CASES}))
def test_what_a_shape_rule_takes_the_reference_computes_and_gives_the_types_that_were_said(op: str) -> None:
    seen: set[tuple[object, ...]] = set()
    wrong: list[str] = []
    for case in (case for case in CASES if case.node.op == op):
        others = [None if each is None else (each.ndim, each.dtype) for each in case.arrays]
        for index, array in enumerate(case.arrays):
            if array is None or is_along_an_axis(case.node, index):
                continue
            for other in changed_arrays(array):
                change = tuple(np.subtract(other.shape, array.shape)) if other.ndim == array.ndim else None
                key = (index, *others, other.dtype, other.ndim, change)
                if key not in seen:
                    seen.add(key)
                    wrong += judged(case, index, other)
    assert not wrong


def judged(case: Case, index: int, other: Array) -> list[str]:
    """What is wrong with the case where an input is another."""
    node = with_input(case.node, index, other)
    arrays = [other if place == index else array for place, array in enumerate(case.arrays)]
    try:
        found = contradiction(node, arrays)
    except Exception as error:  # whatever it is, it should have been a refusal
        found = f"{type(error).__name__}: {error}"
    title = f"{case.id} with input {index} of {other.dtype}{list(other.shape)}"
    return [] if found is None else [f"{title}: {found}"]
