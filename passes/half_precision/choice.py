"""Which operators may compute in float16: those that the kernels take, where the numbers stay within its range."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

import numpy as np

from tinyopt.ir import Node, Value

FLOAT16 = "float16"
LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
HEADROOM = 4.0  # how far beyond what was seen in calibration activations may reach: Winograd adds four of them
LEAST_CHANNELS = 4  # half a vector


def why_float32(node: Node, half: Set[Value], reaches: Mapping[Value, float]) -> str | None:
    """Why `node` must stay float32; None where it may compute in float16.

    half: the values that are made in float16. reaches: the largest magnitudes that were seen of activations.
    """
    if node.op not in _RULES:
        return "it has no float16 kernel"
    if any(value.dtype != "float32" for value in _numbers(node)):
        return "it reads other types"
    if node.op not in _LAYERS and not all(value in half for value in node.variable_inputs):
        return "what it reads is float32"
    return _RULES[node.op](node) or _out_of_range(node, reaches)


def _numbers(node: Node) -> list[Value]:
    """The inputs that are no indices."""
    return node.present_inputs[:1] if node.op == "Gather" else node.present_inputs


def _out_of_range(node: Node, reaches: Mapping[Value, float]) -> str | None:
    for value in (*_numbers(node), *node.outputs):
        if value.is_constant:
            largest = float(np.max(np.abs(value.data), initial=0.0))
            if not largest <= LARGEST:
                return f"'{value.name}' reaches {largest:.4g}, float16 {LARGEST:g}"
        elif not HEADROOM * reaches.get(value, 0.0) <= LARGEST:
            return f"'{value.name}' reached {reaches[value]:.4g} in calibration, and float16 ends at {LARGEST:g}"
    return None


def _layer(node: Node) -> str | None:
    """Conv, Dense."""
    weights, bias = node.input(1), node.optional_input(2)
    if not weights.is_constant or not (bias is None or bias.is_constant):
        return "its weights are no constants"
    if weights.clusters is not None:
        return "its weights are clustered"
    largest = float(np.max(np.abs(weights.data), initial=0.0))
    return f"all its weights lie below {SMALLEST_NORMAL:.2g}" if 0 < largest < SMALLEST_NORMAL else None


def _convolution(node: Node) -> str | None:
    group, channels = node.int("group"), node.input(0).shape[-1]
    if reason := _image(node):
        return reason
    if group != 1 and not group == channels == node.output.shape[-1] >= LEAST_CHANNELS:
        return f"{group} groups of {channels} channels"
    return _layer(node)


def _image(node: Node) -> str | None:
    if node.str("layout") != "NHWC" or node.input(0).shape[0] != 1:
        return "it does not work on one NHWC image"
    return "its pads are negative" if min(node.ints("pads")) < 0 else None


def _pool(node: Node) -> str | None:
    channels = node.output.shape[-1]
    return _image(node) or (f"{channels} channels are too few" if channels < LEAST_CHANNELS else None)


def _binary(node: Node) -> str | None:
    return None if node.input(0).shape == node.input(1).shape else "its operands differ in shape"


def _pad(node: Node) -> str | None:
    return "it pads with other numbers than 0" if node.str("mode") == "constant" and node.float("value") else None


def _always(node: Node) -> str | None:
    del node
    return None


_LAYERS = frozenset({"Conv", "Dense"})  # worth the Casts around them; the others follow what they read
_RULES: Mapping[str, Callable[[Node], str | None]] = {
    "Conv": _convolution,
    "Dense": _layer,
    "MaxPool": _pool,
    "AveragePool": _pool,
    **dict.fromkeys(("Add", "Sub", "Mul"), _binary),
    "Pad": _pad,
    **dict.fromkeys(
        ("Relu", "Clip", "Reshape", "Transpose", "Concat", "Split", "Slice", "Gather", "Identity"), _always
    ),
}
