"""Check what an operator's definition demands of attributes and constants, whatever its rule makes of them.

ONNX's checker looks at neither: it takes strides of 2^62, pads below zero, scales of zero, and axes that stand twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.onnx_import.limits import LARGEST_WINDOW
from tinyopt.onnx_import.onnx_node import OnnxNode

_WINDOWED = frozenset(
    "Conv ConvTranspose ConvInteger QLinearConv MaxPool AveragePool LpPool QLinearAveragePool".split()
)
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"})
_AXES: Mapping[str, int] = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1}  # the input that holds the axes
_SCALES: Mapping[str, tuple[int, ...]] = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QLinearAdd": (1, 4, 6),
    "QLinearMul": (1, 4, 6),
    "QLinearAveragePool": (1, 3),
    "QLinearGlobalAveragePool": (1, 3),
    "QLinearSigmoid": (1, 3),
    "QLinearLeakyRelu": (1, 3),
}
_INTEGERS: Mapping[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QGemm"), ((0, 2), (3, 5))),
    **dict.fromkeys(
        ("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu"), ((0, 2),)
    ),
}
"""The inputs that hold integers of eight bits, each with that of its zero point."""
_NARROW = ("int8", "uint8")
_WIDE_OPSET = 21  # from which QuantizeLinear gives 16 bits, too


def check_node(node: OnnxNode, unsigned: Set[Value]) -> None:
    """Raises InvalidModelError where the node contradicts its operator's definition.

    unsigned: which int8 values stand for uint8 ones.
    """
    if node.op in _WINDOWED:
        _check_window(node)
    if node.op in _AXES or node.op.startswith("Reduce"):
        _check_axes(node)
    for index in _SCALES.get(node.op, ()):
        _check_scale(node, index)
    if node.op == "DequantizeLinear":
        _check_zero_point(node, 0, 2, unsigned)
    for data, zero_point in _INTEGERS.get(node.op, ()):
        _check_narrow(node, data, unsigned)
        _check_zero_point(node, data, zero_point, unsigned)
    if check := _OTHERS.get(node.op):
        check(node)


def _check_window(node: OnnxNode) -> None:
    for attribute in ("strides", "dilations", "kernel_shape"):
        sizes = node.integers(attribute, ())
        if any(not 1 <= size <= LARGEST_WINDOW for size in sizes):
            raise node.invalid(f"{attribute} {_shown(sizes)}; tinyopt takes 1 to {LARGEST_WINDOW:,}")
    pads, kernel = node.integers("pads", ()), node.integers("kernel_shape", ())
    if any(not 0 <= pad <= LARGEST_WINDOW for pad in pads):
        raise node.invalid(f"pads {_shown(pads)}; tinyopt takes 0 to {LARGEST_WINDOW:,}")
    dilations = node.integers("dilations", (1,) * len(kernel))
    if node.op in _POOLS and len(pads) == 2 * len(kernel) == 2 * len(dilations):
        reach = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)] * 2
        if any(pad > most for pad, most in zip(pads, reach, strict=True)):
            raise node.invalid(f"pads {_shown(pads)} are not smaller than the kernel {_shown(kernel)}")


def _check_axes(node: OnnxNode) -> None:
    value = node.optional(_AXES.get(node.op, 1))
    axes: Sequence[int] = node.integers("axes", ())
    if not axes and value is not None and value.constant is not None:
        axes = [int(axis) for axis in value.constant.reshape(-1)]
    first = node.optional(0)
    rank = first.type.rank if first is not None else 0
    if node.op == "Unsqueeze":
        rank += len(axes)
    if rank and len({axis % rank for axis in axes}) < len(axes):
        raise node.invalid(f"axes {_shown(axes)} of {rank} dimensions: one stands twice")


def _check_scale(node: OnnxNode, index: int) -> None:
    value = node.optional(index)
    scale = None if value is None else value.constant
    if scale is not None and scale.dtype.kind == "f" and not _is_positive(scale):
        assert value is not None
        raise node.invalid(f"scale '{value.name}' is not positive and finite")


def _is_positive(array: Array) -> bool:
    return bool((np.isfinite(array) & (array > 0)).all())


def _check_quantize(node: OnnxNode) -> None:
    zero_point = node.optional(2)
    taken = (*_NARROW, "int16", "uint16") if node.opset >= _WIDE_OPSET else _NARROW
    if zero_point is not None and zero_point.constant is not None and zero_point.dtype not in taken:
        raise node.invalid(f"zero point '{zero_point.name}' is {zero_point.dtype}, not {' or '.join(taken)}")


def _check_narrow(node: OnnxNode, index: int, unsigned: Set[Value]) -> None:
    data = node.optional(index)
    if data is not None and data not in unsigned and data.dtype not in _NARROW:
        raise node.invalid(f"'{data.name}' is {data.dtype}, not {' or '.join(_NARROW)}")


def _check_integer_convolution(node: OnnxNode) -> None:
    bias = node.optional(8)
    if bias is not None and (bias.dtype != "int32" or bias.type.rank != 1):
        raise node.invalid(
            f"its bias '{bias.name}' is {bias.dtype} of {bias.type.rank} dimensions, not a list of int32"
        )


def _check_zero_point(node: OnnxNode, index: int, zero_index: int, unsigned: Set[Value]) -> None:
    data, zero_point = node.optional(index), node.optional(zero_index)
    if data is None or zero_point is None or zero_point.constant is None:
        return
    dtype = "uint8" if data in unsigned else data.dtype
    if dtype != zero_point.dtype:
        raise node.invalid(f"'{data.name}' is {dtype} and its zero point '{zero_point.name}' {zero_point.dtype}")


def _check_normalization(node: OnnxNode) -> None:
    epsilon, variance = node.real("epsilon", 1e-5), node.optional(4)
    if not epsilon >= 0:
        raise node.invalid(f"epsilon {epsilon} is negative")
    if variance is not None and variance.constant is not None and (variance.constant + epsilon <= 0).any():
        raise node.invalid(f"variance '{variance.name}' is negative")


def _check_transposed(node: OnnxNode) -> None:
    padding = node.integers("output_padding", ())
    strides = node.integers("strides", (1,) * len(padding))
    dilations = node.integers("dilations", (1,) * len(padding))
    if not len(padding) == len(strides) == len(dilations):
        return  # the rule says so
    most = [max(pair) for pair in zip(strides, dilations, strict=True)]
    if any(not 0 <= size < limit for size, limit in zip(padding, most, strict=True)):
        raise node.invalid(f"output_padding {_shown(padding)} is not smaller than stride or dilation {_shown(most)}")


def _shown(sizes: Sequence[int]) -> str:
    text = ", ".join(map(str, sizes[:8]))
    return f"[{text}{', ...' if len(sizes) > 8 else ''}]"


_OTHERS: Mapping[str, Callable[[OnnxNode], None]] = {
    "QuantizeLinear": _check_quantize,
    "BatchNormalization": _check_normalization,
    "ConvTranspose": _check_transposed,
    "QLinearConv": _check_integer_convolution,
}
