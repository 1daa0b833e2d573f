"""Einsum: two operands at a time, each step one MatMul between Transposes and Reshapes.

For operands a and b, every label is one of: batch (in both, and needed later), contracted (in both, and nowhere
else), own to a or to b. a becomes [batch, own a, contracted], b [batch, contracted, own b]; labels that one operand
alone has and nobody needs are summed before. Repeated labels of one operand (its diagonal) are gathered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.dense import product
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.pointwise import Rule, arithmetic

_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")
_ELLIPSIS = "0123456789"  # labels of the dimensions that `...` stands for, aligned at the last one


@dataclass(frozen=True)
class _Operand:
    """A value, and for each of its dimensions a label."""

    value: Value
    labels: str

    def sizes(self) -> dict[str, int]:
        return dict(zip(self.labels, self.value.shape, strict=True))


def _einsum(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    terms, result = _parsed(node)
    operands = [
        _without_diagonals(builder, node, _Operand(node.value(i), _labels(node, term, node.value(i))))
        for i, term in enumerate(terms)
    ]
    if result is None:
        result = _implied(operands)
    else:
        widest = max((operand.labels for operand in operands), key=lambda text: sum(c in _ELLIPSIS for c in text))
        result = result.replace("...", "".join(label for label in widest if label in _ELLIPSIS))
    known = set("".join(operand.labels for operand in operands))
    if len(set(result)) != len(result) or not set(result) <= known:
        raise node.invalid(f"equation '{node.text('equation', '')}' gives labels that are repeated or unknown")
    current = operands[0]
    for index, operand in enumerate(operands[1:], start=2):
        later = set(result).union(*(other.labels for other in operands[index:]))
        current = _joined(builder, node, current, operand, later)
    current = _summed(builder, current, set(result))
    return [_ordered(builder, current, result).value]


def _parsed(node: OnnxNode) -> tuple[list[str], str | None]:
    """The labels of each operand and of the result, None where it is implied."""
    equation = str(node.required("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs) or not all(_TERM.fullmatch(term) for term in (*terms, right)):
        raise node.invalid(f"equation '{equation}' does not fit {len(node.inputs)} operands")
    return terms, right if arrow else None


def _labels(node: OnnxNode, term: str, value: Value) -> str:
    """One label for each dimension, with those of `...` filled in."""
    hidden = value.type.rank - len(term.replace("...", ""))
    if hidden < 0 or (hidden and "..." not in term):
        raise node.invalid(f"labels '{term}' do not fit input '{value.name}' of shape {value.shape}")
    if hidden > len(_ELLIPSIS):
        raise Refusal(f"'...' stands for {hidden} dimensions; tinyopt takes up to {len(_ELLIPSIS)}")
    return term.replace("...", _ELLIPSIS[len(_ELLIPSIS) - hidden :])


def _implied(operands: Sequence[_Operand]) -> str:
    """Dimensions of `...`, then the labels that stand once, in alphabetical order."""
    every = "".join(operand.labels for operand in operands)
    hidden = sorted({label for label in every if label in _ELLIPSIS})
    return "".join([*hidden, *sorted(c for c in set(every) - set(_ELLIPSIS) if every.count(c) == 1)])


def _without_diagonals(builder: Builder, node: OnnxNode, operand: _Operand) -> _Operand:
    """Elements whose repeated labels are equal: every (size + 1)-th of the two dimensions seen as one."""
    for label in operand.labels:
        while operand.labels.count(label) > 1:
            first = operand.labels.index(label)
            second = operand.labels.index(label, first + 1)
            size = operand.value.shape[first]
            if operand.value.shape[second] != size:
                raise node.invalid(f"label '{label}' has sizes {size} and {operand.value.shape[second]}")
            rest = [i for i in range(len(operand.labels)) if i not in (first, second)]
            moved = _transposed(builder, operand.value, [*rest, first, second])
            flat = builder.reshape(moved, (*moved.shape[:-2], size * size))
            places = builder.constant(np.arange(size, dtype=np.int64) * (size + 1), "diagonal")
            value = builder.emit("Gather", [flat, places], {"axis": len(rest)})
            operand = _Operand(value, "".join(operand.labels[i] for i in rest) + label)
    return operand


def _joined(builder: Builder, node: OnnxNode, a: _Operand, b: _Operand, later: set[str]) -> _Operand:
    """One operand in place of two: their product, summed over what nobody needs later."""
    a = _summed(builder, a, later | set(b.labels))
    b = _summed(builder, b, later | set(a.labels))
    sizes = _common_sizes(node, a, b)
    shared = [label for label in a.labels if label in b.labels]
    a, b = _expanded(builder, a, sizes, shared), _expanded(builder, b, sizes, shared)
    batch = [label for label in shared if label in later]
    contracted = [label for label in shared if label not in later]
    own_a, own_b = ([label for label in x.labels if label not in shared] for x in (a, b))
    if not contracted:
        return _outer(builder, a, b, batch, own_a, own_b)
    left = _as_matrices(builder, a, (batch, own_a, contracted))
    right = _as_matrices(builder, b, (batch, contracted, own_b))
    labels = "".join([*batch, *own_a, *own_b])
    shape = tuple(sizes[label] for label in labels)
    return _Operand(builder.reshape(product(builder, left, right), shape), labels)


def _common_sizes(node: OnnxNode, a: _Operand, b: _Operand) -> dict[str, int]:
    """The size of each label; 1 gives way, as in broadcasting."""
    sizes = a.sizes()
    for label, size in b.sizes().items():
        other = sizes.get(label, 1)
        if 1 not in (size, other) and size != other:
            raise node.invalid(f"label '{label}' has sizes {other} and {size}")
        sizes[label] = max(size, other)
    return sizes


def _expanded(builder: Builder, operand: _Operand, sizes: dict[str, int], shared: Sequence[str]) -> _Operand:
    """Shared dimensions of size 1 as long as the other operand's."""
    wanted = tuple(sizes[label] if label in shared else size for label, size in operand.sizes().items())
    if wanted == operand.value.shape:
        return operand
    return _Operand(builder.emit("Expand", [operand.value], {"shape": wanted}), operand.labels)


def _outer(
    builder: Builder, a: _Operand, b: _Operand, batch: list[str], own_a: list[str], own_b: list[str]
) -> _Operand:  # fmt: skip
    """Nothing is summed: a product of elements, with dimensions of size 1 for the labels that one has not."""
    labels = "".join([*batch, *own_a, *own_b])
    values: list[Value] = []
    for operand in (a, b):
        ordered = _ordered(builder, operand, "".join(label for label in labels if label in operand.labels))
        sizes = operand.sizes()
        values.append(builder.reshape(ordered.value, tuple(sizes.get(label, 1) for label in labels)))
    return _Operand(arithmetic("Mul", builder, *values), labels)


def _as_matrices(builder: Builder, operand: _Operand, groups: Sequence[Sequence[str]]) -> Value:
    """The operand with the labels of each group as one dimension."""
    ordered = _ordered(builder, operand, "".join(label for group in groups for label in group))
    sizes = operand.sizes()
    return builder.reshape(ordered.value, tuple(math.prod(sizes[label] for label in group) for group in groups))


def _summed(builder: Builder, operand: _Operand, needed: set[str]) -> _Operand:
    axes = tuple(i for i, label in enumerate(operand.labels) if label not in needed)
    if not axes:
        return operand
    value = builder.emit("ReduceSum", [operand.value], {"axes": axes, "keepdims": 0})
    return _Operand(value, "".join(label for label in operand.labels if label in needed))


def _ordered(builder: Builder, operand: _Operand, labels: str) -> _Operand:
    return _Operand(_transposed(builder, operand.value, [operand.labels.index(label) for label in labels]), labels)


def _transposed(builder: Builder, value: Value, perm: Sequence[int]) -> Value:
    if list(perm) == list(range(len(perm))):
        return value
    return builder.emit("Transpose", [value], {"perm": tuple(perm)})


EINSUM_RULES: dict[tuple[str, str], Rule] = {("", "Einsum"): _einsum}
