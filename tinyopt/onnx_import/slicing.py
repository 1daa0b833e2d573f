"""Operators that take parts of a tensor or put something around it: Slice, Split, Pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import DTYPES, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops.movement import PAD_MODES

_LARGEST_EXACT = 2**53  # integers up to here are numbers of float64


def _slice(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    rank = x.type.rank
    if node.opset < 10:
        begins, ends = node.integers("starts", ()), node.integers("ends", ())
        axes = node.integers("axes", tuple(range(len(begins))))
        strides = (1,) * len(begins)
    else:
        begins, ends = node.integers_of(1, "starts"), node.integers_of(2, "ends")
        axes = tuple(range(len(begins))) if node.optional(3) is None else node.integers_of(3, "axes")
        strides = (1,) * len(begins) if node.optional(4) is None else node.integers_of(4, "steps")
    if not len(begins) == len(ends) == len(axes) == len(strides):
        raise node.invalid(f"starts {begins}, ends {ends}, axes {axes} and steps {strides} differ in length")
    starts, steps, sizes = [0] * rank, [1] * rank, list(x.shape)
    for begin, end, axis, step in zip(begins, ends, axes, strides, strict=True):
        axis = node.axis(axis, rank)
        if step == 0:
            raise node.invalid("a step is 0")
        size = x.shape[axis]
        if step < 0:  # ONNX counts a start before the first element as the first, Python as none
            begin, end_or_none = max(begin, -size), _backward_end(end, size)
        else:
            end_or_none = end
        taken = range(size)[slice(begin, end_or_none, step)]
        if not taken:
            raise Refusal(f"it takes nothing of axis {axis} of shape {x.shape}")
        starts[axis], steps[axis], sizes[axis] = taken[0], step, len(taken)
    return [builder.emit("Slice", [x], {"starts": tuple(starts), "steps": tuple(steps), "sizes": tuple(sizes)})]


def _backward_end(end: int, size: int) -> int | None:
    """Where a slice with a negative step ends: before the first element where `end` lies beyond it."""
    return end if end >= -size else None  # -1 would mean the last element


def _split(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    count, size = len(node.output_names), x.shape[axis]
    if node.optional(1) is not None:
        sizes = node.integers_of(1, "split")
    elif node.has("split"):
        sizes = node.integers("split", ())
    elif node.has("num_outputs"):
        chunk = -(-size // count)
        sizes = tuple(min(chunk, size - chunk * index) for index in range(count))
    elif size % count:
        raise node.invalid(f"axis {axis} of shape {x.shape} does not split into {count} equal parts")
    else:
        sizes = (size // count,) * count
    if not all(sizes) and sum(sizes) == x.shape[axis] and len(sizes) == count:
        return _with_empty_parts(builder, node, axis, sizes)
    return builder.emit_many("Split", [x], {"axis": axis, "sizes": sizes}, count)


def _with_empty_parts(builder: Builder, node: OnnxNode, axis: int, sizes: Sequence[int]) -> Sequence[Value]:
    """The parts of a Split of which some have no elements: these are constants."""
    x = node.value(0)
    filled = tuple(size for size in sizes if size)
    parts = iter(builder.emit_many("Split", [x], {"axis": axis, "sizes": filled}, len(filled)))
    empty = np.zeros((*x.shape[:axis], 0, *x.shape[axis + 1 :]), DTYPES[builder.dtype(x)])
    return [next(parts) if size else builder.constant(empty, node.name) for size in sizes]


def _pad(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, mode = node.value(0), node.text("mode", "constant")
    if mode not in PAD_MODES:
        raise Refusal(f"mode '{mode}'; tinyopt takes {', '.join(PAD_MODES)}")
    pads = _full_pads(node, x.type.rank)
    if min(pads, default=0) < 0 and mode != "constant":
        raise Refusal(f"negative pads in mode '{mode}'")
    value = _pad_value(builder.with_constants(node)) if mode == "constant" else 0.0
    if x in builder.unsigned and mode == "constant":
        value -= 128
    cropped = _cropped(builder, node, x, pads)
    grown = tuple(max(size, 0) for size in pads)
    if not any(grown) and cropped is not x:
        return [cropped]
    return [builder.emit("Pad", [cropped], {"pads": grown, "mode": mode, "value": value})]


def _full_pads(node: OnnxNode, rank: int) -> tuple[int, ...]:
    """Begins then ends for all `rank` dimensions."""
    given = node.integers("pads", ()) if node.opset < 11 else node.integers_of(1, "pads")
    axes = range(rank) if node.optional(3) is None else [node.axis(a, rank) for a in node.integers_of(3, "axes")]
    if len(given) != 2 * len(axes):
        raise node.invalid(f"pads {given} do not fit {len(axes)} dimensions")
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis], full[rank + axis] = given[position], given[len(axes) + position]
    return tuple(full)


def _pad_value(node: OnnxNode) -> float:
    if node.opset < 11:
        return node.real("value", 0.0)
    value = node.scalar_of(2, "padding value") or 0.0
    if abs(value) > _LARGEST_EXACT and node.value(0).dtype in ("int64", "uint64"):
        raise Refusal(f"it pads with {value:.0f}; tinyopt takes integers up to {_LARGEST_EXACT}")
    return value


def _cropped(builder: Builder, node: OnnxNode, x: Value, pads: tuple[int, ...]) -> Value:
    """`x` without the elements that negative pads take away."""
    if min(pads, default=0) >= 0:
        return x
    rank = x.type.rank
    starts = tuple(max(-pads[i], 0) for i in range(rank))
    sizes = tuple(x.shape[i] - starts[i] - max(-pads[i + rank], 0) for i in range(rank))
    if min(sizes) < 1:
        raise node.invalid(f"pads {pads} leave nothing of shape {x.shape}")
    return builder.emit("Slice", [x], {"starts": starts, "steps": (1,) * rank, "sizes": sizes})


def _center_crop_pad(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, wanted = node.value(0), node.integers_of(1, "shape")
    rank = x.type.rank
    axes = [node.axis(axis, rank) for axis in node.integers("axes", tuple(range(rank)))]
    if len(axes) != len(wanted) or len(set(axes)) != len(axes) or min(wanted, default=1) < 1:
        raise node.invalid(f"shape {wanted} does not fit axes {axes} of shape {x.shape}")
    starts, sizes, begins, ends = [0] * rank, list(x.shape), [0] * rank, [0] * rank
    for axis, size in zip(axes, wanted, strict=True):
        missing = size - x.shape[axis]
        starts[axis], sizes[axis] = max(-missing, 0) // 2, min(size, x.shape[axis])
        begins[axis] = max(missing, 0) // 2
        ends[axis] = max(missing, 0) - begins[axis]
    cropped = builder.emit("Slice", [x], {"starts": tuple(starts), "steps": (1,) * rank, "sizes": tuple(sizes)})
    if not any((*begins, *ends)):
        return [cropped]
    value = -128.0 if x in builder.unsigned else 0.0
    return [builder.emit("Pad", [cropped], {"pads": (*begins, *ends), "mode": "constant", "value": value})]


SLICING_RULES: dict[tuple[str, str], Rule] = {
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Pad"): _pad,
    ("", "CenterCropPad"): _center_crop_pad,
}
