"""Simplification rules for arithmetic: neutral operands, chains of clamps, and HardSwish spelled out."""

from __future__ import annotations

import math

from tinyopt.ir import Attribute, Node, Value, merged_origins
from tinyopt.passes.rewriting import Rewriter, Rule, is_unclamped, scalar_constant

_NEUTRAL_RIGHT = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_COMMUTATIVE = ("Add", "Mul")
_SIXTH = 1.0 / 6.0


def drop_identity(rewriter: Rewriter, node: Node) -> bool:
    """Identity -> nothing, unless it reads one quantization as another."""
    if node.op != "Identity":
        return False
    source = node.input(0)
    if source.quantization != node.output.quantization:
        return rewriter.decline(f"Identity '{node.name}' stays: the quantizations of its input and output differ", node)
    return bypass_or_decline(rewriter, node, source, f"Identity '{node.name}' does nothing")


def drop_neutral_operand(rewriter: Rewriter, node: Node) -> bool:
    """x + 0, x - 0, x * 1, x / 1 -> x."""
    if node.op not in _NEUTRAL_RIGHT or not is_unclamped(node):
        return False
    for kept, constant in ((0, 1), (1, 0)):
        if constant == 0 and node.op not in _COMMUTATIVE:
            continue
        source = node.input(kept)
        is_neutral = scalar_constant(node.input(constant)) == _NEUTRAL_RIGHT[node.op]
        if is_neutral and not source.is_constant and source.type == node.output.type:
            message = f"{node.op} '{node.name}' with the neutral constant {_NEUTRAL_RIGHT[node.op]:g} does nothing"
            return bypass_or_decline(rewriter, node, source, message)
    return False


def merge_clamps(rewriter: Rewriter, node: Node) -> bool:
    """Clip(Clip(x)), Relu(Clip(x)), ... -> one of them; a Clip without limits -> nothing."""
    limits = clamp_of(node)
    if limits is None:
        return False
    if limits == (-math.inf, math.inf):
        return bypass_or_decline(rewriter, node, node.input(0), f"Clip '{node.name}' has no limits")
    inner = rewriter.owned_producer(node.input(0), "Relu", "Clip")
    inner_limits = None if inner is None else clamp_of(inner)
    if inner is None or inner_limits is None:
        return False
    merged = composed_clamp(inner_limits, limits)
    new = Node(*_clamp_operator(merged, node.name), inner.inputs[:1], [node.output], _clamp_attributes(merged))
    rewriter.replace([inner, node], [new], f"{inner.op} '{inner.name}' and {node.op} '{node.name}' are one clamp")
    return True


def drop_requantization(rewriter: Rewriter, node: Node) -> bool:
    """QuantizeLinear(DequantizeLinear(q)) with the same parameters -> q."""
    if node.op != "QuantizeLinear":
        return False
    dequantize = rewriter.producer(node.input(0))
    if dequantize is None or dequantize.op != "DequantizeLinear":
        return False
    source = dequantize.input(0)
    if source.quantization != node.output.quantization or source.type != node.output.type or source.is_constant:
        return False
    node.origins = merged_origins(dequantize, node)
    message = f"DequantizeLinear '{dequantize.name}' and QuantizeLinear '{node.name}' of equal parameters cancel out"
    return bypass_or_decline(rewriter, node, source, message)


def recognize_hard_swish(rewriter: Rewriter, node: Node) -> bool:
    """x * Clip(x + 3, 0, 6) / 6, in any order of the factors, and x * HardSigmoid(x, 1/6, 1/2) -> HardSwish(x)."""
    if node.op not in ("Mul", "Div") or not is_unclamped(node):
        return False
    product = _hard_product(rewriter, node.output)
    if product is None:
        return False
    source, factor, nodes = product
    if not math.isclose(factor, _SIXTH, rel_tol=1e-5) or source.type != node.output.type:
        return False
    swish = Node("HardSwish", node.name, [source], [node.output], {}, merged_origins(*nodes))
    rewriter.replace([node], [swish], f"{len(nodes)} nodes around '{node.name}' spell HardSwish")
    return True


def bypass_or_decline(rewriter: Rewriter, node: Node, source: Value, message: str) -> bool:
    """Bypass `node`, unless it is what gives a graph output its name."""
    if not rewriter.can_bypass(node, source):
        return rewriter.decline(
            f"{message}, but it makes the graph output '{node.output.name}' of '{source.name}'", node
        )
    rewriter.bypass(node, source, message)
    return True


def clamp_of(node: Node) -> tuple[float, float] | None:
    """The limits of a Relu or Clip; None for anything else."""
    if node.op == "Relu":
        return 0.0, math.inf
    return (node.float("low"), node.float("high")) if node.op == "Clip" else None


def composed_clamp(inner: tuple[float, float], outer: tuple[float, float]) -> tuple[float, float]:
    """Limits of the one clamp that does what `outer` does after `inner`."""
    low, high = outer
    return min(max(inner[0], low), high), min(max(inner[1], low), high)


def _clamp_operator(limits: tuple[float, float], name: str) -> tuple[str, str]:
    return ("Relu" if limits == (0.0, math.inf) else "Clip"), name


def _clamp_attributes(
    limits: tuple[float, float],
) -> dict[str, Attribute]:
    return {} if limits == (0.0, math.inf) else {"low": limits[0], "high": limits[1]}


_Product = tuple[Value, float, list[Node]]  # x, the factor before, and the nodes that compute it


def _hard_product(rewriter: Rewriter, value: Value) -> _Product | None:
    """`value` as factor * x * Clip(x + 3, 0, 6)."""
    node = rewriter.producer(value)
    if node is None or node.op not in ("Mul", "Div") or not is_unclamped(node):
        return None
    scaled = _scaling(node)
    if scaled is not None:
        inner = _hard_product(rewriter, scaled[0])
        return None if inner is None else (inner[0], inner[1] * scaled[1], [*inner[2], node])
    if node.op == "Div":
        return None
    for gate_index in (0, 1):
        gate = _gate(rewriter, node.input(gate_index))
        if gate is not None and gate[0] is node.input(1 - gate_index):
            return gate[0], gate[1], [*gate[2], node]
    return None


def _gate(rewriter: Rewriter, value: Value) -> _Product | None:
    """`value` as factor * Clip(x + 3, 0, 6)."""
    node = rewriter.producer(value)
    if node is None:
        return None
    if node.op == "HardSigmoid":
        is_ours = math.isclose(node.float("alpha"), _SIXTH, rel_tol=1e-5) and node.float("beta") == 0.5
        return (node.input(0), _SIXTH, [node]) if is_ours else None
    if clamp_of(node) == (0.0, 6.0):
        return _plus_three(rewriter, node)
    scaled = _scaling(node) if is_unclamped(node) else None
    inner = None if scaled is None else _gate(rewriter, scaled[0])
    return None if inner is None or scaled is None else (inner[0], inner[1] * scaled[1], [*inner[2], node])


def _plus_three(rewriter: Rewriter, clip: Node) -> _Product | None:
    add = rewriter.producer(clip.input(0))
    if add is None or add.op != "Add" or not is_unclamped(add):
        return None
    for index in (0, 1):
        if scalar_constant(add.input(index)) == 3.0:
            return add.input(1 - index), 1.0, [add, clip]
    return None


def _scaling(node: Node) -> tuple[Value, float] | None:
    """A Mul or Div by a constant as (x, factor)."""
    if node.op not in ("Mul", "Div"):
        return None
    right = scalar_constant(node.input(1))
    if right is not None and right != 0.0:
        return node.input(0), right if node.op == "Mul" else 1.0 / right
    left = scalar_constant(node.input(0))
    return (node.input(1), left) if left is not None and node.op == "Mul" else None


RULES: tuple[Rule, ...] = (
    drop_identity,
    drop_neutral_operand,
    recognize_hard_swish,
    merge_clamps,
    drop_requantization,
)
