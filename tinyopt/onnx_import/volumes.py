"""3-D convolutions and pools, made of 2-D ones.

A pool is separable: over (height, width), then over the depth. The divisor of an average is the product of how many
cells count along each axis, so that an average of averages is the average.

    [N, C, D, H, W] -> [N, C * D, H, W] -> pool -> [N, C, D, H' * W'] -> pool -> [N, C, D', H', W']

A convolution is a sum of 2-D ones, one for each plane of the kernel, on the planes of the input that it meets:

    y[d] = sum over k of conv2d(x[d * stride + k * dilation - pad], w[k])

Exact in real arithmetic; in float32 the order of the additions is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tinyopt.ir import Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.spatial import window_of, with_auto_pad

DEPTH_FIRST = (2, 0, 1, 3, 4)  # [D, N, C, H, W]
DEPTH_BACK = (1, 2, 0, 3, 4)

Pool = Callable[[OnnxNode, Value], Value]
Convolution = Callable[[OnnxNode, Value, Value, Value | None], Value]


def along(node: OnnxNode, axes: Sequence[int | None]) -> OnnxNode:
    """The node with the attributes of its window for some of its spatial axes; None is an axis that it leaves alone."""
    attributes = dict(node.attributes)
    rank = 3
    for key, idle in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        if key in attributes:
            values = node.integers(key, ())
            if len(values) != rank:
                raise node.invalid(f"{key} {values} does not fit {rank} spatial dimensions")
            attributes[key] = [idle if axis is None else values[axis] for axis in axes]
    if "pads" in attributes:
        pads = node.integers("pads", ())
        if len(pads) != 2 * rank:
            raise node.invalid(f"pads {pads} do not fit {rank} spatial dimensions")
        attributes["pads"] = [0 if axis is None else pads[axis + end] for end in (0, rank) for axis in axes]
    return replace(node, attributes=attributes)


def pool_volume(builder: Builder, node: OnnxNode, x: Value, pool: Pool) -> Value:
    """A pool of [N, C, D, H, W] by `pool`, which takes [N, C, H, W]."""
    batch, channels, depth, height, width = x.shape
    planes = pool(along(node, (1, 2)), builder.reshape(x, (batch, channels * depth, height, width)))
    height, width = planes.shape[2:]
    columns = pool(along(node, (0, None)), builder.reshape(planes, (batch, channels, depth, height * width)))
    return builder.reshape(columns, (batch, channels, columns.shape[2], height, width))


def convolve_volume(
    builder: Builder, node: OnnxNode, operands: tuple[Value, Value, Value | None], convolution: Convolution
) -> Value:
    """A Conv of x [N, C, D, H, W], w [O, C / group, KD, KH, KW] and a bias by `convolution`, which takes planes."""
    x, weights, bias = operands
    array = builder.fixed_array(weights)
    if array is None:
        raise Refusal(f"non-constant weights '{weights.name}'")
    if array.ndim != x.type.rank:
        raise node.invalid(f"weights {weights.shape} do not fit input '{x.name}' of shape {x.shape}")
    taps, batch = array.shape[2], x.shape[0]
    window = with_auto_pad(node, window_of(along(node, (0,)), (taps,)), (1, x.shape[2]))
    first, last = window.pads[1], window.pads[3]
    deep = _padded(builder, builder.emit("Transpose", [x], {"perm": DEPTH_FIRST}), first, last)
    positions = (deep.shape[0] - window.extent(1)) // window.strides[1] + 1
    if positions < 1:
        raise node.invalid(f"its kernel is deeper than input '{x.name}' of shape {x.shape}")
    total: Value | None = None
    for tap in range(taps):
        met = _every(builder, deep, tap * window.dilations[1], window.strides[1], positions)
        planes = builder.reshape(met, (positions * batch, *met.shape[2:]))
        plane_weights = builder.constant(array[:, :, tap], f"{weights.name}_{tap}")
        part = convolution(along(node, (1, 2)), planes, plane_weights, bias if tap == 0 else None)
        total = part if total is None else builder.emit("Add", [total, part], UNCLAMPED)
    assert total is not None
    apart = builder.reshape(total, (positions, batch, *total.shape[1:]))
    return builder.emit("Transpose", [apart], {"perm": DEPTH_BACK})


def _padded(builder: Builder, deep: Value, first: int, last: int) -> Value:
    if not first and not last:
        return deep
    pads = (first, 0, 0, 0, 0, last, 0, 0, 0, 0)
    return builder.emit("Pad", [deep], {"pads": pads, "mode": "constant", "value": 0.0})


def _every(builder: Builder, deep: Value, start: int, step: int, count: int) -> Value:
    """`count` of the planes from `start` on, `step` apart."""
    others = deep.shape[1:]
    attributes = {"starts": (start, 0, 0, 0, 0), "steps": (step, 1, 1, 1, 1), "sizes": (count, *others)}
    return builder.emit("Slice", [deep], attributes)
