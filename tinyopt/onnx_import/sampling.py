"""GridSample, and MaxUnpool, which puts elements where indices say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import DTYPES, Attribute, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.tabulated import check_table
from tinyopt.ops.grid_sample import GRID_MODES, GRID_PADDINGS
from tinyopt.ops.indexing import INDEX_DTYPES

_OLD_MODES = {"bilinear": "linear", "bicubic": "cubic"}  # as opset 16 calls them


def _grid_sample(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, grid = node.value(0), node.value(1)
    mode = node.text("mode", "linear")
    mode, padding = _OLD_MODES.get(mode, mode), node.text("padding_mode", "zeros")
    for what, chosen, known in (("mode", mode, tuple(GRID_MODES)), ("padding_mode", padding, GRID_PADDINGS)):
        if chosen not in known:
            raise Refusal(f"{what} '{chosen}'; tinyopt takes {', '.join(known)}")
    if (mode, padding) == ("cubic", "border"):
        raise Refusal("mode 'cubic' with padding_mode 'border': ONNX, onnxruntime and PyTorch give different numbers")
    dims = x.type.rank - 2
    if grid.type.rank != dims + 2 or grid.shape[-1] != dims or grid.shape[0] != x.shape[0]:
        raise node.invalid(f"a grid of shape {grid.shape} does not fit an image of shape {x.shape}")
    if dims not in (2, 3) or (mode == "cubic" and dims != 2):
        raise Refusal(f"mode '{mode}' of images of {dims} dimensions")
    is_aligned = bool(node.integer("align_corners", 0))
    attributes: dict[str, Attribute] = {"mode": mode, "padding": padding, "align_corners": int(is_aligned)}
    return [builder.emit("GridSample", [x, grid], attributes)]


def _max_unpool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Elements at their places among zeros; indices count all elements of the output that the window gives."""
    x, indices = node.value(0), node.value(1)
    kernel = tuple(int(size) for size in node.required("kernel_shape"))
    dims = len(kernel)
    strides, pads = node.integers("strides", (1,) * dims), node.integers("pads", (0,) * (2 * dims))
    if x.type.rank != dims + 2 or len(strides) != dims or len(pads) != 2 * dims or indices.shape != x.shape:
        raise node.invalid(f"kernel {kernel}, strides {strides} and pads {pads} do not fit shape {x.shape}")
    if indices.dtype not in INDEX_DTYPES or x in builder.unsigned:
        raise Refusal(f"indices of type {indices.dtype} and data of type {builder.dtype(x)}")
    plane = [(x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[dims + i] + kernel[i] for i in range(dims)]
    shape = (*x.shape[:2], *plane)
    wanted = shape if node.optional(2) is None else node.integers_of(2, "output shape")
    if len(wanted) != len(shape) or min(plane) < 1 or any(a < b for a, b in zip(wanted, shape, strict=True)):
        raise node.invalid(f"its output of shape {wanted} does not hold the {shape} that its window gives")
    check_table(math.prod(shape), f"an output of shape {shape}")
    zeros = builder.constant(np.zeros(math.prod(shape), DTYPES[x.dtype]), "zeros")
    flat = [builder.reshape(value, (value.type.elements,)) for value in (indices, x)]
    placed = builder.emit("ScatterElements", [zeros, *flat], {"axis": 0, "reduction": "none"})
    result = builder.reshape(placed, shape)
    ends = tuple(a - b for a, b in zip(wanted, shape, strict=True))
    if not any(ends):
        return [result]
    return [builder.emit("Pad", [result], {"pads": (*(0,) * len(ends), *ends), "mode": "constant", "value": 0.0})]


SAMPLING_RULES: dict[tuple[str, str], Rule] = {("", "GridSample"): _grid_sample, ("", "MaxUnpool"): _max_unpool}
