"""A product with one constant for each channel, on quantized activations, as a depthwise convolution of one tap.

    x -> Mul(c) -> Add(d) -> clamp    =>    x -> Conv(w = c, bias = d, group = channels) -> clamp

Batch normalization that stands behind the rounding of its layer has this form. With a scale for each channel, int8
weights of one tap are exact: 127 or -127 times |c| / 127.
"""

from __future__ import annotations

import math

import numpy as np

from tinyopt.ir import Attribute, Node
from tinyopt.passes.linear_layers import per_channel
from tinyopt.passes.rewriting import Rewriter, is_unclamped, stored_constant

_CHANNEL_AXIS = 3
_WINDOW: dict[str, Attribute] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "layout": "NHWC"}
_CLAMP = ("clamp_low", "clamp_high")


def depthwise_from_scaling(rewriter: Rewriter, node: Node) -> bool:
    """A rewriting rule: Mul of a dequantized activation in NHWC, and the Add behind it, become one Conv."""
    if node.op != "Mul" or len(node.variable_inputs) != 1 or node.output.type.rank != _CHANNEL_AXIS + 1:
        return False
    x = node.variable_inputs[0]
    producer = rewriter.producer(x)
    if producer is None or producer.op != "DequantizeLinear" or x.shape != node.output.shape:
        return False
    factors = _constant(rewriter, node)
    if factors is None or np.all(factors == factors[0]):
        return False  # one factor for all is a table
    add = _shift_behind(rewriter, node)
    shift = None if add is None else _constant(rewriter, add)
    last = node if add is None or shift is None else add
    channels = node.output.shape[_CHANNEL_AXIS]
    weights = rewriter.new_constant(f"{node.name}_weights", factors.reshape(channels, 1, 1, 1))
    bias = None if shift is None else rewriter.new_constant(f"{node.name}_bias", shift)
    attributes = {**_WINDOW, "group": channels, **{key: last.attributes[key] for key in _CLAMP}}
    convolution = Node("Conv", node.name, [x, weights, bias, None], [last.output], attributes)
    old = [node] if last is node else [node, last]
    rewriter.replace(old, [convolution], f"Mul '{node.name}' by one constant for each channel is a depthwise Conv")
    return True


def _shift_behind(rewriter: Rewriter, node: Node) -> Node | None:
    """The Add of one constant for each channel that is the only reader of what `node` gives."""
    if not rewriter.has_one_reader(node.output) or not is_unclamped(node):
        return None
    (reader,) = rewriter.readers(node.output)
    if reader.op != "Add" or reader.output.shape != node.output.shape or _constant(rewriter, reader) is None:
        return None
    return reader


def _constant(rewriter: Rewriter, node: Node) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """The finite real numbers, one for each channel, that a Mul or Add reads beside its activation."""
    for value in node.present_inputs:
        stored = stored_constant(rewriter, value)
        if stored is None:
            continue
        quantization = stored.value.quantization
        real = stored.value.data if quantization is None else quantization.dequantize(stored.value.data)
        found = per_channel(real, node.output.shape, _CHANNEL_AXIS)
        is_usable = found is not None and math.isfinite(float(np.sum(np.abs(found))))
        return np.asarray(found, np.float32) if is_usable else None
    return None
