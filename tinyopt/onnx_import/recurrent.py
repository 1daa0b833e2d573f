"""LSTM, GRU and RNN: one Dense layer for all inputs, then one operator that loops over time, for each direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tinyopt.ir import Array, Attribute, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops.recurrent import ACTIVATION_COUNTS, ACTIVATIONS, GATES

_DEFAULT_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
_INITIAL_STATES = (5, 6)  # inputs [D, B, H], or [B, D, H] with layout 1
_DIRECTIONS: Mapping[str, tuple[bool, ...]] = {  # of each direction, whether it runs backwards
    "forward": (False,),
    "reverse": (True,),
    "bidirectional": (False, True),
}


@dataclass(frozen=True)
class _Site:
    """The node under import. x: [T, B, I] whatever the node's layout."""

    builder: Builder
    node: OnnxNode
    x: Value
    cells: int
    directions: int

    def part(self, index: int, number: int, shape: tuple[int, ...]) -> Value | None:
        """Direction `number` of input `index`, without that dimension, in `shape`; None where it is absent."""
        value = self.node.optional(index)
        if value is None:
            return None
        if index in _INITIAL_STATES and self.node.integer("layout", 0):
            value = self.builder.emit("Transpose", [value], {"perm": (1, 0, 2)})
        if value.shape != (self.directions, *shape):
            raise self.node.invalid(f"input '{value.name}' has shape {value.shape}, not {(self.directions, *shape)}")
        return self.changed(value, lambda array: array[number], lambda v: self._sliced(v, number, shape))

    def changed(
        self, value: Value, of_array: Callable[[Array], Array], of_value: Callable[[Value], Value]
    ) -> Value:  # fmt: skip
        """The value changed: at once where it is a constant, else by nodes."""
        if value.constant is not None:
            return self.builder.constant(np.ascontiguousarray(of_array(value.constant)), value.name)
        return of_value(value)

    def _sliced(self, value: Value, number: int, shape: tuple[int, ...]) -> Value:
        if self.directions > 1:
            rest = len(shape)
            attributes: dict[str, Attribute] = {
                "starts": (number, *(0,) * rest),
                "steps": (1,) * (rest + 1),
                "sizes": (1, *shape),
            }
            value = self.builder.emit("Slice", [value], attributes)
        return self.builder.reshape(value, shape)

    def transposed(self, value: Value) -> Value:
        return self.changed(value, np.transpose, lambda v: self.builder.emit("Transpose", [v], {"perm": (1, 0)}))

    def span(self, value: Value, start: int, size: int) -> Value:
        """`size` elements from `start` on of a vector."""
        attributes: dict[str, Attribute] = {"starts": (start,), "steps": (1,), "sizes": (size,)}
        return self.changed(
            value, lambda array: array[start : start + size], lambda v: self.builder.emit("Slice", [v], attributes)
        )

    def sum(self, a: Value, b: Value) -> Value:
        if a.constant is not None and b.constant is not None:
            return self.builder.constant(a.constant + b.constant, a.name)
        return self.builder.emit("Add", [a, b], UNCLAMPED)


def _recurrent(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    node = builder.with_constants(node)
    direction = node.text("direction", "forward")
    if direction not in _DIRECTIONS:
        raise node.invalid(f"direction is '{direction}'")
    x, is_batch_first = node.value(0), bool(node.integer("layout", 0))
    weights, recurrent = node.value(1), node.value(2)
    if x.type.rank != 3 or weights.type.rank != 3 or recurrent.type.rank != 3:
        raise node.invalid(f"inputs of shapes {x.shape}, {weights.shape} and {recurrent.shape}; they are 3-D")
    if is_batch_first:
        x = builder.emit("Transpose", [x], {"perm": (1, 0, 2)})
    cells = node.integer("hidden_size", recurrent.shape[2])
    site = _Site(builder, node, x, cells, len(_DIRECTIONS[direction]))
    results = [_one_direction(op, site, number, back) for number, back in enumerate(_DIRECTIONS[direction])]
    ys = [builder.reshape(result[0], _with_direction(result[0], 1)) for result in results]
    joined = [_joined(builder, ys, 1)]
    for output in range(1, len(results[0])):
        states = [builder.reshape(result[output], _with_direction(result[output], 0)) for result in results]
        joined.append(_joined(builder, states, 0))
    if is_batch_first:
        joined = [
            builder.emit("Transpose", [value], {"perm": (2, 0, 1, 3) if value.type.rank == 4 else (1, 0, 2)})
            for value in joined
        ]
    return joined


def _with_direction(value: Value, axis: int) -> tuple[int, ...]:
    return (*value.shape[:axis], 1, *value.shape[axis:])


def _joined(builder: Builder, values: Sequence[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else builder.emit("Concat", values, {"axis": axis})


def _one_direction(op: str, site: _Site, number: int, is_reverse: bool) -> list[Value]:
    builder, node, cells, gates = site.builder, site.node, site.cells, GATES[op]
    batch, width = site.x.shape[1], gates * site.cells
    weights = site.part(1, number, (width, site.x.shape[2]))
    recurrent = site.part(2, number, (width, cells))
    assert weights is not None
    assert recurrent is not None
    bias, late_bias = _biases(op, site, number)
    lengths = node.optional(4)
    if lengths is not None and lengths.dtype != "int32":
        raise node.invalid(f"sequence_lens '{lengths.name}' is {lengths.dtype}, not int32")
    states = site.part(5, number, (batch, cells))
    inputs = [_input_products(site, weights, bias), site.transposed(recurrent), states, lengths]
    attributes: dict[str, Attribute] = {
        "reverse": int(is_reverse),
        "clip": node.real("clip", math.inf) or math.inf,
        **_activations(op, site, number),
    }
    if op == "LSTM":
        inputs += [site.part(6, number, (batch, cells)), site.part(7, number, (3 * cells,))]
        attributes["input_forget"] = node.integer("input_forget", 0)
    elif op == "GRU":
        inputs.append(late_bias)
        attributes["linear_before_reset"] = int(bool(node.integer("linear_before_reset", 0)))
    return builder.emit_many(op, inputs, attributes, 3 if op == "LSTM" else 2)


def _biases(op: str, site: _Site, number: int) -> tuple[Value | None, Value | None]:
    """The biases that are added before the loop, and the one that the reset gate of a GRU is multiplied with."""
    cells, width = site.cells, GATES[op] * site.cells
    both = site.part(3, number, (2 * width,))
    if both is None:
        return None, None
    first, second = site.span(both, 0, width), site.span(both, width, width)
    if op != "GRU" or not site.node.integer("linear_before_reset", 0):
        return site.sum(first, second), None
    gates = site.sum(site.span(first, 0, 2 * cells), site.span(second, 0, 2 * cells))
    last = site.span(first, 2 * cells, cells)
    late = site.span(second, 2 * cells, cells)
    if gates.constant is not None and last.constant is not None:
        return site.builder.constant(np.concatenate([gates.constant, last.constant]), gates.name), late
    return site.builder.emit("Concat", [gates, last], {"axis": 0}), late


def _input_products(site: _Site, weights: Value, bias: Value | None) -> Value:
    """x times the weights, plus the bias: a Dense layer, or a product where the weights are computed."""
    builder = site.builder
    if weights.constant is not None and (bias is None or bias.constant is not None):
        return builder.emit("Dense", [site.x, weights, bias, None], UNCLAMPED)
    product = builder.emit("MatMul", [site.x, site.transposed(weights)])
    return product if bias is None else builder.emit("Add", [product, bias], UNCLAMPED)


def _activations(op: str, site: _Site, number: int) -> dict[str, Attribute]:
    """The activations of a direction; parameters given for some are taken up in order by those that have them."""
    node, count = site.node, ACTIVATION_COUNTS[op]
    spelling = {name.lower(): name for name in ACTIVATIONS}
    given = node.attributes.get("activations") or _DEFAULT_ACTIVATIONS[op] * site.directions
    names = [str(name.decode() if isinstance(name, bytes) else name) for name in given]
    if len(names) != count * site.directions:
        raise node.invalid(f"it has {len(names)} activations, not {count * site.directions}")
    for name in names:
        if name.lower() not in spelling:
            raise Refusal(f"its activation is '{name}'; tinyopt takes {', '.join(ACTIVATIONS)}")
    names = [spelling[name.lower()] for name in names]
    chosen = slice(number * count, (number + 1) * count)
    alphas = _parameters(node, names, "activation_alpha", [ACTIVATIONS[name].alpha for name in names])
    betas = _parameters(node, names, "activation_beta", [ACTIVATIONS[name].beta for name in names])
    return {"activations": " ".join(names[chosen]), "alphas": tuple(alphas[chosen]), "betas": tuple(betas[chosen])}


def _parameters(
    node: OnnxNode, names: Sequence[str], attribute: str, defaults: Sequence[float | None]
) -> list[float]:  # fmt: skip
    given = [float(item) for item in node.attributes.get(attribute) or ()]
    if len(given) > len(names):
        raise node.invalid(f"{attribute} has {len(given)} numbers for {len(names)} activations")
    remaining = iter(given)
    return [0.0 if default is None else next(remaining, default) for default in defaults]


RECURRENT_RULES: dict[tuple[str, str], Rule] = {("", op): partial(_recurrent, op) for op in GATES}
