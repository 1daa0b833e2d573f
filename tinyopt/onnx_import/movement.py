"""Operators that keep a tensor's elements: Reshape and its relatives, Transpose, Concat, Cast, Constant, Shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from tinyopt.ir import Array, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal


def _reshape(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    target = list(node.integers_of(1, "shape"))
    if not node.integer("allowzero", 0):
        target = [x.shape[i] if size == 0 and i < x.type.rank else size for i, size in enumerate(target)]
    if target.count(-1) > 1 or any(size < -1 for size in target):
        raise node.invalid(f"shape {target} has more than one unknown size")
    known = math.prod(size for size in target if size != -1)
    if -1 in target:
        if not known or x.type.elements % known:
            raise node.invalid(f"{x.type.elements} elements of shape {x.shape} do not fit shape {target}")
        target[target.index(-1)] = x.type.elements // known
    return [builder.emit("Reshape", [x], {"shape": tuple(target)})]


def _flatten(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, axis = node.value(0), node.integer("axis", 1)
    if not -x.type.rank <= axis <= x.type.rank:
        raise node.invalid(f"axis {axis} is not in shape {x.shape}")
    axis = axis + x.type.rank if axis < 0 else axis
    return [builder.emit("Reshape", [x], {"shape": (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))})]


def _axes(node: OnnxNode) -> tuple[int, ...] | None:
    """The axes of a Squeeze or Unsqueeze: an input since opset 13, an attribute before."""
    if node.optional(1) is not None:
        return node.integers_of(1, "axes")
    return node.integers("axes", ()) if node.has("axes") else None


def _squeeze(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, given = node.value(0), _axes(node)
    axes = {i for i, size in enumerate(x.shape) if size == 1}
    if given is not None:
        chosen = {node.axis(axis, x.type.rank) for axis in given}
        if not chosen <= axes:
            raise node.invalid(f"axes {tuple(sorted(chosen - axes))} of shape {x.shape} are not of size 1")
        axes = chosen
    shape = tuple(size for i, size in enumerate(x.shape) if i not in axes)
    return [builder.emit("Reshape", [x], {"shape": shape})]


def _unsqueeze(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, given = node.value(0), _axes(node)
    if given is None:
        raise node.invalid("axes are missing")
    rank = x.type.rank + len(given)
    axes = {node.axis(axis, rank) for axis in given}
    if len(axes) != len(given):
        raise node.invalid(f"axes {given} name a dimension twice")
    sizes = iter(x.shape)
    shape = tuple(1 if i in axes else next(sizes) for i in range(rank))
    return [builder.emit("Reshape", [x], {"shape": shape})]


def _transpose(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    perm = tuple(node.integers("perm", tuple(reversed(range(x.type.rank)))))
    if sorted(perm) != list(range(x.type.rank)):
        raise node.invalid(f"perm {perm} does not fit shape {x.shape}")
    if builder.is_fixed(x):  # weights behind a DequantizeLinear: transpose the integers
        return [builder.rearranged(x, lambda array: array.transpose(perm), [perm.index(i) for i in range(len(perm))])]
    return [builder.emit("Transpose", [x], {"perm": perm})]


def _concat(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    values = [node.value(index) for index in range(len(node.inputs))]
    axis = node.axis(int(node.required("axis")), values[0].type.rank)
    if not all(value.type.elements for value in values):  # a part without elements adds nothing
        values = [value for value in values if value.type.elements] or values[:1]
    return [builder.emit("Concat", values, {"axis": axis})]


def _expand(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, wanted = node.value(0), node.integers_of(1, "shape")
    try:
        shape = tuple(int(size) for size in np.broadcast_shapes(x.shape, wanted))
    except ValueError:
        raise node.invalid(f"shape {x.shape} does not expand to {wanted}") from None
    return [expanded(builder, x, shape)]


def expanded(builder: Builder, x: Value, shape: Sequence[int]) -> Value:
    """`x` repeated along dimensions of size 1; a view where only such dimensions are added."""
    if math.prod(shape) == x.type.elements:
        return builder.reshape(x, shape)
    return builder.emit("Expand", [x], {"shape": tuple(shape)})


def _tile(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """[a, b] repeated (m, n) times: [1, a, 1, b] expanded to [m, a, n, b], seen as [m * a, n * b]."""
    x, repeats = node.value(0), node.integers_of(1, "repeats")
    if len(repeats) != x.type.rank:
        raise node.invalid(f"repeats {repeats} do not fit shape {x.shape}")
    if min(repeats, default=1) < 1:
        raise Refusal(f"repeats {repeats} give a tensor without elements")
    apart: list[int] = []
    wanted: list[int] = []
    for size, count in zip(x.shape, repeats, strict=True):
        apart += [size] if count == 1 else [1, size]
        wanted += [size] if count == 1 else [count, size]
    wide = expanded(builder, builder.reshape(x, apart), wanted)
    whole = tuple(size * count for size, count in zip(x.shape, repeats, strict=True))
    return [builder.emit("Reshape", [wide], {"shape": whole})]


def _identity(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.emit("Identity", [node.value(0)])]


_CONSTANT_DTYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _constant(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if isinstance(node.attributes.get("value"), gs.Constant):
        array: Array = np.asarray(node.attributes["value"].values)
    else:
        key = next((key for key in _CONSTANT_DTYPES if node.has(key)), None)
        if key is None:
            raise Refusal("its value is no dense tensor of numbers")
        array = np.array(node.attributes[key], _CONSTANT_DTYPES[key])
    return [builder.constant(array, node.name)]


def _shape(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    sizes = node.value(0).shape
    start, end = node.integer("start", 0), node.integer("end", len(sizes))
    return [builder.constant(np.array(sizes[start:end], np.int64), node.name)]


def _size(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.constant(np.array(node.value(0).type.elements, np.int64), node.name)]


def _depth_to_space(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, block = node.value(0), int(node.required("blocksize"))
    batch, channels, height, width = _image_shape(node, x)
    if block < 1 or channels % (block * block):
        raise node.invalid(f"blocksize {block} does not divide the {channels} channels")
    depth = channels // (block * block)
    is_crd = _is_crd(node)
    split = (batch, depth, block, block, height, width) if is_crd else (batch, block, block, depth, height, width)
    perm = (0, 1, 4, 2, 5, 3) if is_crd else (0, 3, 4, 1, 5, 2)
    moved = builder.emit("Transpose", [builder.emit("Reshape", [x], {"shape": split})], {"perm": perm})
    return [builder.emit("Reshape", [moved], {"shape": (batch, depth, height * block, width * block)})]


def _space_to_depth(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, block = node.value(0), int(node.required("blocksize"))
    batch, channels, height, width = _image_shape(node, x)
    if block < 1 or height % block or width % block:
        raise node.invalid(f"blocksize {block} does not divide the image of {height} x {width}")
    split = (batch, channels, height // block, block, width // block, block)
    perm = (0, 1, 3, 5, 2, 4) if _is_crd(node) else (0, 3, 5, 1, 2, 4)
    moved = builder.emit("Transpose", [builder.emit("Reshape", [x], {"shape": split})], {"perm": perm})
    shape = (batch, channels * block * block, height // block, width // block)
    return [builder.emit("Reshape", [moved], {"shape": shape})]


def _is_crd(node: OnnxNode) -> bool:
    """Whether the channel counts more than the place in the block; SpaceToDepth knows this since opset 28."""
    mode = node.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise node.invalid(f"mode '{mode}' is neither DCR nor CRD")
    return mode == "CRD"


def _image_shape(node: OnnxNode, x: Value) -> tuple[int, int, int, int]:
    if x.type.rank != 4:
        raise node.invalid(f"input '{x.name}' of shape {x.shape} is no image")
    batch, channels, height, width = x.shape
    return batch, channels, height, width


MOVEMENT_RULES: dict[tuple[str, str], Rule] = {
    ("", "Reshape"): _reshape,
    ("", "Flatten"): _flatten,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Transpose"): _transpose,
    ("", "Concat"): _concat,
    ("", "Expand"): _expand,
    ("", "Tile"): _tile,
    ("", "Identity"): _identity,
    ("", "Constant"): _constant,
    ("", "Shape"): _shape,
    ("", "Size"): _size,
    ("", "DepthToSpace"): _depth_to_space,
    ("", "SpaceToDepth"): _space_to_depth,
}
