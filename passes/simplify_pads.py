"""Simplification rules for Pad: the padding becomes that of the convolution or pool that reads it.

The cells that an operator pads by itself hold 0 (Conv, AveragePool) or less than anything (MaxPool): a Pad that writes
the same value is taken over. Before integers are dequantized, 0 is their zero point.
"""

from __future__ import annotations

import math

from tinyopt.ir import DTYPES, Node, TensorType, Value
from tinyopt.ops.pool import lowest_value
from tinyopt.passes.rewriting import Rewriter, Rule
from tinyopt.passes.simplify_arithmetic import clamp_of

_PLANE = {"NCHW": (2, 3), "NHWC": (1, 2)}


def merge_pad(rewriter: Rewriter, node: Node) -> bool:
    """Conv, AveragePool or MaxPool of Pad(x) -> the same of x with larger pads."""
    if node.op not in ("Conv", "AveragePool", "MaxPool"):
        return False
    producer = rewriter.producer(node.input(0))
    dequantize = producer if producer is not None and producer.op == "DequantizeLinear" else None
    pad = producer if dequantize is None else rewriter.producer(dequantize.input(0))
    if pad is None or pad.op != "Pad":
        return False
    reason = _refusal(rewriter, node, pad)
    if reason is not None:
        return rewriter.decline(f"Pad '{pad.name}' is not merged into {node.op} '{node.name}': {reason}", node, pad)
    _merge(rewriter, node, pad, dequantize)
    return True


def _refusal(rewriter: Rewriter, node: Node, pad: Node) -> str | None:
    if pad.str("mode") != "constant":
        return f"its mode is {pad.str('mode')}"
    plane = _PLANE[node.str("layout")]
    pads = pad.ints("pads")
    if any(pads[i] for i in range(8) if i % 4 not in plane):
        return "it pads more than height and width"
    if node.op == "MaxPool":
        return None if _is_below_all(rewriter, node, pad) else "the pooled values may lie below its value"
    quantization = pad.output.quantization
    zero = 0 if quantization is None or pad.output.dtype == "float32" else quantization.zero_point[0]
    return None if pad.float("value") == zero else f"its value {pad.float('value'):g} is not zero"


def _is_below_all(rewriter: Rewriter, pool: Node, pad: Node) -> bool:
    """Whether no element of what is pooled lies below the pad's value, and no window sees padding alone."""
    value = pad.float("value")
    if value == lowest_value(pad.output.dtype):
        return True
    return DTYPES[pad.output.dtype].kind == "f" and value <= _lower_bound(rewriter, pad.input(0)) and _reach(pool, pad)


def _lower_bound(rewriter: Rewriter, value: Value) -> float:
    node = rewriter.producer(value)
    if node is None:
        return -math.inf
    clamp = clamp_of(node)
    if clamp is not None:
        return clamp[0]
    if node.op in ("Sigmoid", "HardSigmoid", "Softmax"):
        return 0.0
    return node.float("clamp_low") if "clamp_low" in node.attributes else -math.inf


def _reach(pool: Node, pad: Node) -> bool:
    """Whether every window of `pool` over the padded image has a cell of the image in it."""
    plane = _PLANE[pool.str("layout")]
    kernel, strides, dilations = pool.ints("kernel"), pool.ints("strides"), pool.ints("dilations")
    for i, axis in enumerate(plane):
        before = pool.ints("pads")[i] + pad.ints("pads")[axis]
        size = pad.input(0).shape[axis]
        for output in range(pool.output.shape[axis]):
            start = output * strides[i] - before
            if not any(0 <= start + tap * dilations[i] < size for tap in range(kernel[i])):
                return False
    return True


def _merge(rewriter: Rewriter, node: Node, pad: Node, dequantize: Node | None) -> None:
    top, left = (pad.ints("pads")[axis] for axis in _PLANE[node.str("layout")])
    bottom, right = (pad.ints("pads")[axis + 4] for axis in _PLANE[node.str("layout")])
    added = (top, left, bottom, right)
    attributes = dict(node.attributes)
    for key in ("pads", "counted_pads"):
        if key in attributes:
            attributes[key] = tuple(own + more for own, more in zip(node.ints(key), added, strict=True))
    source, before = pad.input(0), list[Node]()
    if dequantize is not None:
        source = rewriter.new_value(f"{source.name}_float", TensorType("float32", source.shape))
        name = rewriter.unique_name(f"{dequantize.name}_unpadded")
        before = [
            Node("DequantizeLinear", name, [pad.input(0)], [source], dict(dequantize.attributes), dequantize.origins)
        ]
    merged = Node(node.op, node.name, [source, *node.inputs[1:]], node.outputs, attributes, pad.origins)
    message = f"{node.op} '{node.name}' pads by itself what Pad '{pad.name}' padded"
    rewriter.replace([node], [merged], message, operands=before)


RULES: tuple[Rule, ...] = (merge_pad,)
