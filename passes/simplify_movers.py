"""Simplification rules for operators that move data: those that do nothing, chains of them, and cheaper equivalents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tinyopt.ir import Node, TensorType, Value, merged_origins
from tinyopt.ops import OPERATORS
from tinyopt.ops.reduce import SAME_OF_ONE
from tinyopt.passes.rewriting import Rewriter, Rule, is_unclamped
from tinyopt.passes.simplify_arithmetic import bypass_or_decline


def drop_idle_node(rewriter: Rewriter, node: Node) -> bool:
    """A Reshape to the same shape; a Transpose, Pad, Slice, Resize, Concat, Split or pool of nothing -> nothing."""
    is_idle = _IDLE.get(node.op)
    if is_idle is None or not is_idle(node):
        return False
    source = node.input(0)
    if source.type != node.output.type or source.quantization != node.output.quantization:
        return False
    return bypass_or_decline(rewriter, node, source, f"{node.op} '{node.name}' does nothing")


def merge_reshapes(rewriter: Rewriter, node: Node) -> bool:
    """Reshape(Reshape(x)) -> Reshape(x)."""
    inner = rewriter.producer(node.input(0)) if node.op == "Reshape" else None
    if inner is None or inner.op != "Reshape":
        return False
    new = Node("Reshape", node.name, [inner.input(0)], [node.output], dict(node.attributes), inner.origins)
    rewriter.replace([node], [new], f"Reshape '{inner.name}' and Reshape '{node.name}' are one")
    return True


def merge_transposes(rewriter: Rewriter, node: Node) -> bool:
    """Transpose(Transpose(x)) -> Transpose(x), or x where the two cancel out."""
    inner = rewriter.producer(node.input(0)) if node.op == "Transpose" else None
    if inner is None or inner.op != "Transpose":
        return False
    perm = composed_perm(inner.ints("perm"), node.ints("perm"))
    if is_identity_perm(perm) and rewriter.can_bypass(node, inner.input(0)):
        node.origins = merged_origins(inner, node)
        rewriter.bypass(node, inner.input(0), f"Transpose '{inner.name}' and Transpose '{node.name}' cancel out")
        return True
    new = Node("Transpose", node.name, [inner.input(0)], [node.output], {"perm": perm}, inner.origins)
    rewriter.replace([node], [new], f"Transpose '{inner.name}' and Transpose '{node.name}' are one")
    return True


def reshape_for_transpose(rewriter: Rewriter, node: Node) -> bool:
    """A Transpose that changes the place of dimensions of size 1 alone -> Reshape."""
    if node.op != "Transpose":
        return False
    shape, perm = node.input(0).shape, node.ints("perm")
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved != sorted(moved) or is_identity_perm(perm):
        return False
    new = Node("Reshape", node.name, [node.input(0)], [node.output], {"shape": node.output.shape})
    rewriter.replace([node], [new], f"Transpose '{node.name}' moves dimensions of size 1 alone: a Reshape")
    return True


def reshape_for_reduction(rewriter: Rewriter, node: Node) -> bool:
    """A sum, a mean, a product or an extreme over axes of size 1 -> Reshape."""
    if node.op not in SAME_OF_ONE or any(node.input(0).shape[axis] != 1 for axis in node.ints("axes")):
        return False
    new = Node("Reshape", node.name, [node.input(0)], [node.output], {"shape": node.output.shape})
    rewriter.replace([node], [new], f"{node.op} '{node.name}' reduces axes of size 1: a Reshape")
    return True


def move_before_dequantize(rewriter: Rewriter, node: Node) -> bool:
    """Reshape or Transpose after DequantizeLinear -> before it, on the integers."""
    if node.op not in ("Reshape", "Transpose"):
        return False
    dequantize = rewriter.owned_producer(node.input(0), "DequantizeLinear")
    if dequantize is None:
        return False
    source = dequantize.input(0)
    if source.is_constant or source.quantization is None or not source.quantization.is_per_tensor:
        return False
    moved = rewriter.new_value(
        f"{node.output.name}_int", TensorType(source.dtype, node.output.shape), source.quantization
    )
    new = [
        Node(node.op, node.name, [source], [moved], dict(node.attributes), node.origins),
        Node("DequantizeLinear", dequantize.name, [moved], [node.output], dict(dequantize.attributes)),
    ]
    rewriter.replace(
        [dequantize, node], new, f"{node.op} '{node.name}' moves the integers before '{dequantize.name}' makes floats"
    )
    return True


def sink_unit_reshape(rewriter: Rewriter, node: Node) -> bool:
    """[N, C, 1, W] -> Reshape [N, C, W] -> elementwise or BatchNormalization: the Reshape goes below.

    It is what a 1-D convolution leaves behind; with it out of the way the next operators meet the convolution.
    """
    if not _works_on_either_rank(node):
        return False
    variables = node.variable_inputs
    reshapes = [rewriter.owned_producer(value, "Reshape") for value in variables]
    if not reshapes or any(reshape is None or not _drops_height(reshape) for reshape in reshapes):
        return False
    found = [reshape for reshape in reshapes if reshape is not None]
    if node.output.shape != found[0].output.shape or any(r.input(0).shape != found[0].input(0).shape for r in found):
        return False
    shape = found[0].input(0).shape
    sources = {reshape.output: reshape.input(0) for reshape in found}
    inputs: list[Value | None] = [
        _with_height(rewriter, value) if value.is_constant else sources[value] for value in node.present_inputs
    ]
    lifted = rewriter.new_value(
        f"{node.output.name}_2d", TensorType(node.output.dtype, shape), node.output.quantization
    )
    new = [
        Node(node.op, node.name, inputs, [lifted], dict(node.attributes), node.origins),
        Node("Reshape", found[0].name, [lifted], [node.output], {"shape": node.output.shape}, found[0].origins),
    ]
    rewriter.replace([*found, node], new, f"Reshape '{found[0].name}' moves below {node.op} '{node.name}'")
    return True


def composed_perm(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The permutation that does what `second` does after `first`."""
    return tuple(first[axis] for axis in second)


def is_identity_perm(perm: Sequence[int]) -> bool:
    """Whether a Transpose by `perm` moves nothing."""
    return list(perm) == list(range(len(perm)))


def _drops_height(reshape: Node) -> bool:
    """Whether a Reshape is [N, C, 1, W] to [N, C, W]."""
    shape = reshape.input(0).shape
    return len(shape) == 4 and shape[2] == 1 and reshape.output.shape == (*shape[:2], shape[3])


def _works_on_either_rank(node: Node) -> bool:
    """Whether a node does on [N, C, 1, W] what it does on [N, C, W]."""
    if node.op == "BatchNormalization":
        return node.int("axis") == 1
    return OPERATORS[node.op].is_elementwise and node.op not in ("Identity", "DequantizeLinear", "PRelu")


def _with_height(rewriter: Rewriter, constant: Value) -> Value:
    """A constant that broadcasts over [N, C, W], made to broadcast over [N, C, 1, W]."""
    shape = constant.shape
    if len(shape) < 2:
        return constant
    return rewriter.new_constant(
        f"{constant.name}_2d", constant.data.reshape(*shape[:-1], 1, shape[-1]), constant.quantization
    )


def _is_unit_window(node: Node) -> bool:
    ones = (1, 1)
    is_plain = node.ints("kernel") == ones and node.ints("strides") == ones and not any(node.ints("pads"))
    return is_plain and is_unclamped(node)


def _is_unscaled(node: Node) -> bool:
    scales = node.attributes["scales"]
    assert isinstance(scales, tuple)
    return all(scale == 1 for scale in scales) and node.str("coordinate_mode") != "tf_half_pixel_for_nn"


def _takes_everything(node: Node) -> bool:
    return node.ints("sizes") == node.input(0).shape and not any(node.ints("starts"))


def _is_same_shape(node: Node) -> bool:
    return node.ints("shape") == node.input(0).shape


def _is_identity_transpose(node: Node) -> bool:
    return is_identity_perm(node.ints("perm"))


def _has_no_pads(node: Node) -> bool:
    return not any(node.ints("pads"))


def _has_one_input(node: Node) -> bool:
    return len(node.inputs) == 1


def _has_one_output(node: Node) -> bool:
    return len(node.outputs) == 1


def _reduces_unit_axes(node: Node) -> bool:
    return math.prod(node.input(0).shape[axis] for axis in node.ints("axes")) == 1


_IDLE: dict[str, Callable[[Node], bool]] = {
    "Reshape": _is_same_shape,
    "Transpose": _is_identity_transpose,
    "Pad": _has_no_pads,
    "Slice": _takes_everything,
    "Resize": _is_unscaled,
    "Concat": _has_one_input,
    "Split": _has_one_output,
    "MaxPool": _is_unit_window,
    "AveragePool": _is_unit_window,
    "ReduceMean": _reduces_unit_axes,
    "ReduceSum": _reduces_unit_axes,
    "ReduceMax": _reduces_unit_axes,
}

SHAPE_RULES: tuple[Rule, ...] = (
    drop_idle_node,
    merge_reshapes,
    merge_transposes,
    reshape_for_transpose,
)
"""What the layout pass runs as well, to make the Transposes that it adds cancel out."""

RULES: tuple[Rule, ...] = (*SHAPE_RULES, reshape_for_reduction, move_before_dequantize, sink_unit_reshape)
