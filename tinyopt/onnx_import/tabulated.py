"""Operators that are a linear function with constant coefficients: DFT, STFT, AffineGrid and Col2Im.

They become a product with a matrix, or, where most of that would be zero, sums by a table (Interpolate).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.limits import LARGEST_TABLE_ELEMENTS
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal

_MOST_CELLS = 2**14  # of a block of Col2Im
_FIRST_DFT_AXIS_INPUT = 20  # before this opset the axis is an attribute


def check_table(elements: int, what: str) -> None:
    """Raise Refusal where a table made of the shapes of a node is too large."""
    if elements > LARGEST_TABLE_ELEMENTS:
        raise Refusal(f"{what} would take {elements:,} coefficients; tinyopt takes up to {LARGEST_TABLE_ELEMENTS:,}")


def _dft(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    rank = x.type.rank
    axis = node.axis(_dft_axis(node), rank)
    if rank < 2 or axis == rank - 1 or x.shape[-1] not in (1, 2):
        raise node.invalid(f"axis {axis} of shape {x.shape} does not hold numbers, real or complex")
    is_inverse, is_onesided = bool(node.integer("inverse", 0)), bool(node.integer("onesided", 0))
    size, parts = x.shape[axis], x.shape[-1]
    if is_onesided and parts == (1 if is_inverse else 2):
        raise node.invalid(f"a onesided transform of shape {x.shape}: its real side has one part, the other two")
    given = node.scalar_of(1, "length")
    length = (2 * (size - 1) if is_inverse and is_onesided else size) if given is None else int(given)
    if length < 1:
        raise node.invalid(f"its length is {length}")
    used = min(size, length // 2 + 1 if is_inverse and is_onesided else length)
    count = length // 2 + 1 if is_onesided and not is_inverse else length
    check_table(used * parts * count * 2, f"a transform of length {length}")
    matrix = (
        _inverse_real_matrix(used, length)
        if is_inverse and is_onesided
        else _matrix(used, count, length, parts, is_inverse)
    )
    return [_transformed(builder, x, axis, matrix)]


def _dft_axis(node: OnnxNode) -> int:
    if node.opset < _FIRST_DFT_AXIS_INPUT:
        return node.integer("axis", 1)
    given = node.scalar_of(2, "axis")
    return -2 if given is None else int(given)


def _matrix(used: int, count: int, length: int, parts: int, is_inverse: bool) -> Array:
    """float64 [used, parts, count, 2]: what each part of each number adds to each part of each coefficient."""
    turns = np.outer(np.arange(used), np.arange(count)) % length  # exact, where a float product would not be
    angle = turns * (2 * np.pi / length) * (1 if is_inverse else -1)
    cosine, sine = np.cos(angle), np.sin(angle)
    of_real = np.stack([cosine, sine], axis=-1)
    of_imaginary = np.stack([-sine, cosine], axis=-1)
    matrix = np.stack([of_real, of_imaginary][:parts], axis=1)
    return matrix / length if is_inverse else matrix


def _inverse_real_matrix(used: int, length: int) -> Array:
    """float64 [used, 2, length, 1]: from one half of a spectrum; the other half is its conjugate."""
    turns = np.outer(np.arange(used), np.arange(length)) % length
    angle = turns * (2 * np.pi / length)
    k = np.arange(used)
    twice = np.where((k == 0) | (2 * k == length), 1.0, 2.0)[:, None] / length
    return np.stack([np.cos(angle) * twice, -np.sin(angle) * twice], axis=1)[..., None]


def _transformed(builder: Builder, x: Value, axis: int, matrix: Array) -> Value:
    """x [..., numbers along `axis`, ..., parts] times matrix [numbers, parts, count, parts], along the same axis."""
    used, parts, count, parts_out = matrix.shape
    if used < x.shape[axis]:
        starts, steps = (0,) * x.type.rank, (1,) * x.type.rank
        sizes = tuple(used if i == axis else size for i, size in enumerate(x.shape))
        x = builder.emit("Slice", [x], {"starts": starts, "steps": steps, "sizes": sizes})
    others = [i for i in range(x.type.rank - 1) if i != axis]
    perm = (*others, axis, x.type.rank - 1)
    outer = tuple(x.shape[i] for i in others)
    moved = x if perm == tuple(range(x.type.rank)) else builder.emit("Transpose", [x], {"perm": perm})
    rows = builder.reshape(moved, (math.prod(outer), used * parts))
    weights = builder.constant(matrix.reshape(used * parts, -1).astype(np.float32), "transform")
    wide = builder.reshape(builder.emit("MatMul", [rows, weights]), (*outer, count, parts_out))
    back = tuple(perm.index(i) for i in range(len(perm)))
    return wide if back == tuple(range(len(back))) else builder.emit("Transpose", [wide], {"perm": back})


def _stft(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    signal, step, window = node.value(0), node.scalar_of(1, "frame step"), node.optional_constant(2, "window")
    if signal.type.rank == 2:
        signal = builder.reshape(signal, (*signal.shape, 1))
    if signal.type.rank != 3 or signal.shape[2] not in (1, 2):
        raise node.invalid(f"signal '{signal.name}' of shape {signal.shape} does not hold numbers, real or complex")
    given = node.scalar_of(3, "frame length")
    length = int(given) if given is not None else 0 if window is None else window.size
    batch, samples, parts = signal.shape
    if step is None or step < 1 or not 1 <= length <= samples or (window is not None and window.shape != (length,)):
        raise node.invalid(f"frames of {length} samples in steps of {step} do not fit {samples} samples")
    is_onesided = bool(node.integer("onesided", 1))
    if is_onesided and parts == 2:
        raise node.invalid("a onesided transform of complex numbers")
    frames = 1 + (samples - length) // int(step)
    count = length // 2 + 1 if is_onesided else length
    check_table(max(length * parts * count * 2, frames * length), f"a transform of {frames} frames of {length} samples")
    places = np.arange(frames)[:, None] * int(step) + np.arange(length)
    framed = builder.emit("Gather", [signal, builder.constant(places.astype(np.int64), "frames")], {"axis": 1})
    matrix = _matrix(length, count, length, parts, is_inverse=False)
    if window is not None:
        matrix = matrix * window.astype(np.float64)[:, None, None, None]
    return [builder.reshape(_transformed(builder, framed, 2, matrix), (batch, frames, count, 2))]


def _affine_grid(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    theta, size = node.value(0), node.integers_of(1, "size")
    dims = len(size) - 2
    if dims not in (2, 3) or theta.shape != (size[0], dims, dims + 1) or min(size) < 1:
        raise node.invalid(f"size {size} does not fit '{theta.name}' of shape {theta.shape}")
    plane, is_aligned = size[2:], bool(node.integer("align_corners", 0))
    if is_aligned and 1 in plane:
        raise Refusal(f"align_corners with a dimension of 1 in {plane}, for which ONNX defines nothing")
    check_table(math.prod(plane) * (dims + 1), f"a grid of {plane}")
    axes = [np.linspace(-1, 1, n) if is_aligned else (2 * np.arange(n) + 1) / n - 1 for n in plane]
    grids = [*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(plane)]  # x, y, (z,) 1
    points = np.stack(grids, axis=-1).reshape(1, -1, dims + 1).astype(np.float32)
    turned = builder.emit("Transpose", [theta], {"perm": (0, 2, 1)})
    grid = builder.emit("MatMul", [builder.constant(points, "grid"), turned])
    return [builder.reshape(grid, (size[0], *plane, dims))]


def _col2im(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Each pixel is a sum of a few elements; one zero behind all elements stands for those that it does not have."""
    x, image, block = node.value(0), node.integers_of(1, "image shape"), node.integers_of(2, "block shape")
    dims, cells = len(image), math.prod(block)
    ones = (1,) * dims
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    pads = node.integers("pads", (0,) * (2 * dims))
    if not len(block) == len(strides) == len(dilations) == len(pads) // 2 == dims or x.type.rank != 3:
        raise node.invalid(f"image {image}, block {block}, strides {strides}, pads {pads} do not fit shape {x.shape}")
    if min((*image, *block, *strides, *dilations), default=0) < 1 or min(pads) < 0:
        raise node.invalid(f"image {image}, block {block}, strides {strides}, dilations {dilations} must be positive")
    steps = [
        (image[i] + pads[i] + pads[i + dims] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(dims)
    ]
    batch, rows, columns = x.shape
    if min(steps) < 1 or math.prod(steps) != columns or rows % cells:
        raise node.invalid(
            f"image {image} in blocks of {block} has not the {rows} rows and {columns} columns of {x.shape}"
        )
    if cells > _MOST_CELLS:
        raise Refusal(f"blocks of {block} have {cells:,} elements; tinyopt takes up to {_MOST_CELLS:,}")
    check_table(math.prod(image) * cells, f"an image of {image} in blocks of {block}")
    table = _col2im_table(image, block, strides, dilations, pads[:dims], steps)
    flat = builder.reshape(x, (batch * rows // cells, cells * columns))
    padded = builder.emit("Pad", [flat], {"pads": (0, 0, 0, 1), "mode": "constant", "value": 0.0})
    weights = builder.constant(np.ones(table.shape, np.float32), "weights")
    summed = builder.emit("Interpolate", [padded, builder.constant(table, "indices"), weights], {"axis": 1})
    return [builder.reshape(summed, (batch, rows // cells, *image))]


def _col2im_table(
    image: Sequence[int],
    block: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    begins: Sequence[int],
    steps: Sequence[int],
) -> Array:
    """int64 [pixels, taps]: the elements [cell, step] that are added for each pixel, beyond the last where none."""
    columns, nothing = math.prod(steps), math.prod(block) * math.prod(steps)
    found: list[Array] = []
    for number, cell in enumerate(itertools.product(*map(range, block))):
        place, is_hit = np.zeros(image, np.int64), np.ones(image, bool)
        for axis, tap in enumerate(cell):
            shape = [-1 if i == axis else 1 for i in range(len(image))]
            begin = np.arange(image[axis]) + begins[axis] - tap * dilations[axis]
            step = begin // strides[axis]
            is_step = (begin >= 0) & (begin % strides[axis] == 0) & (step < steps[axis])
            place, is_hit = place * steps[axis] + step.reshape(shape), is_hit & is_step.reshape(shape)
        found.append(np.where(is_hit, number * columns + place, nothing).ravel())
    table = np.sort(np.stack(found, axis=1), axis=1)
    return table[:, : max(1, int((table < nothing).sum(axis=1).max()))]


TABULATED_RULES: dict[tuple[str, str], Rule] = {
    ("", "DFT"): _dft,
    ("", "STFT"): _stft,
    ("", "AffineGrid"): _affine_grid,
    ("", "Col2Im"): _col2im,
}
