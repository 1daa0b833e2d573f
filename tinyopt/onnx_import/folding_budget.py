"""How large the constants may become that are computed while a model is imported: known before they are computed.

A file of 200 bytes can ask for terabytes of them, with ConstantOfShape, Expand, Tile, Range, OneHot, Resize, Pad, or
two vectors that are broadcast to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinyopt.onnx_import.limits import FOLDED_BYTES_PER_WEIGHT_BYTE, FREE_FOLDED_BYTES, LARGEST_RANK
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal

_BYTES_PER_ELEMENT = 8  # of the widest type

_REDUCED_OR_MOVED = frozenset(
    """
    Reshape Flatten Squeeze Unsqueeze Transpose Identity Slice Split Cast CumSum ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ArgMax ArgMin ScatterND
    ScatterElements Scatter Shape Size Trilu TopK Compress Unique DepthToSpace SpaceToDepth
    """.split()
)


class FoldingBudget:
    """How many bytes the constants may have that are computed while the model is imported, all of them together."""

    def __init__(self, weight_bytes: int) -> None:
        """weight_bytes: of the tensors that the model holds itself."""
        self._limit = FREE_FOLDED_BYTES + FOLDED_BYTES_PER_WEIGHT_BYTE * weight_bytes
        self._spent = 0

    def spend(self, node: OnnxNode) -> None:
        """Count what `node`, whose inputs are all constants, is about to give.

        Raises Refusal where it is too much, InvalidModelError where it has no size. Nothing is computed before.
        """
        try:
            size = _BYTES_PER_ELEMENT * folded_elements(node)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise node.invalid(f"its constants cannot be evaluated: {error}") from error
        if self._spent + size > self._limit:
            raise Refusal(
                f"its constants would grow to about {size:,} bytes, in all {self._spent + size:,}; tinyopt computes up "
                f"to {self._limit:,} bytes of constants for this model"
            )
        self._spent += size


def folded_elements(node: OnnxNode) -> int:
    """An upper bound of the elements that a node on constants gives.

    Raises ValueError, LookupError, TypeError or ArithmeticError where the inputs contradict the operator.
    """
    shapes = [value.shape for value in node.inputs if value is not None]
    read = sum(math.prod(shape) for shape in shapes)
    if node.op in _REDUCED_OR_MOVED:
        return read
    if node.op in _SIZES:
        return max(_SIZES[node.op](node), read)
    try:
        return max(math.prod(broadcast_shape(shapes)), read)
    except ValueError:  # either it is no elementwise operator, or numpy will say what is wrong
        return read


def broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What elementwise operators give, without making anything of that size. Raises ValueError where it is nothing."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True))
    for shape in padded:
        if any(size not in (1, whole) for size, whole in zip(shape, result, strict=True)):
            raise ValueError(f"shapes {' and '.join(str(list(each)) for each in shapes)} do not go together")
    return result


def _constant_of_shape(node: OnnxNode) -> int:
    return _product(node.integers_of(0, "shape"))


def _expand(node: OnnxNode) -> int:
    return math.prod(broadcast_shape([node.value(0).shape, node.integers_of(1, "shape")]))


def _tile(node: OnnxNode) -> int:
    return math.prod(node.value(0).shape) * _product(node.integers_of(1, "repeats"))


def _range(node: OnnxNode) -> int:
    start, limit, delta = (float(node.constant(index, "bound").reshape(-1)[0]) for index in range(3))
    if not (math.isfinite(start) and math.isfinite(limit) and math.isfinite(delta)) or delta == 0:
        raise ValueError(f"a range from {start} to {limit} in steps of {delta} has no end")
    return max(0, math.ceil((limit - start) / delta))


def _one_hot(node: OnnxNode) -> int:
    return math.prod(node.value(0).shape) * max(0, int(node.constant(1, "depth").reshape(-1)[0]))


def _window(node: OnnxNode) -> int:
    return max(0, int(node.constant(0, "size").reshape(-1)[0]))


def _mel_weights(node: OnnxNode) -> int:
    """The matrix; the reference fills each of its columns by loops over at most all of its rows."""
    bins, length, rate, low, high = (float(node.constant(i, "parameter").reshape(-1)[0]) for i in range(5))
    if not (bins >= 1 and length >= 1 and rate >= 1 and 0 <= low < high <= rate):
        raise ValueError(f"{bins} bins from {low} to {high} Hz at {rate} Hz in windows of {length}")
    return int(bins) * (int(length) // 2 + 1)


def _pad(node: OnnxNode) -> int:
    shape = node.value(0).shape
    pads = node.integers("pads", ()) if node.has("pads") else node.integers_of(1, "pads")
    half = len(pads) // 2
    added = [max(0, low) + max(0, high) for low, high in zip(pads[:half], pads[half:], strict=True)]
    if half == len(shape):
        return math.prod(size + more for size, more in zip(shape, added, strict=True))
    return math.prod(shape) * math.prod(1 + more for more in added)  # of some axes


def _gather(node: OnnxNode) -> int:
    data, indices = node.value(0).shape, math.prod(node.value(1).shape)
    axis = node.axis(node.integer("axis", 0), len(data))
    return math.prod(data[:axis] + data[axis + 1 :]) * indices


def _gather_nd(node: OnnxNode) -> int:
    data, indices = node.value(0).shape, node.value(1).shape
    used = indices[-1] + node.integer("batch_dims", 0)
    return math.prod(indices[:-1]) * math.prod(data[used:])


def _gather_elements(node: OnnxNode) -> int:
    return math.prod(node.value(1).shape)


def _matmul(node: OnnxNode) -> int:
    return math.prod(node.value(0).shape) * math.prod(node.value(1).shape)


def _resize(node: OnnxNode) -> int:
    shape, factors = node.value(0).shape, [value for value in node.inputs[1:] if value is not None]
    grown = [math.prod(shape)]
    for value in factors:
        numbers = np.abs(value.data.astype(np.float64)).reshape(-1)
        if not np.isfinite(numbers).all():
            raise ValueError("scales are not finite")
        if value.dtype.startswith("float"):
            grown.append(math.prod(shape) * math.ceil(float(np.prod(np.maximum(numbers, 1)))))
        else:
            sizes = _product([int(number) for number in numbers])
            grown.append(sizes if len(numbers) == len(shape) else sizes * math.prod(shape))
    return max(grown)


def _sum_of_inputs(node: OnnxNode) -> int:
    return sum(math.prod(value.shape) for value in node.inputs if value is not None)


def _non_zero(node: OnnxNode) -> int:
    return math.prod(node.value(0).shape) * max(1, len(node.value(0).shape))


def _product(sizes: Sequence[int]) -> int:
    if min(sizes, default=0) < 0:
        raise ValueError(f"the shape {list(sizes)[:LARGEST_RANK]} has negative sizes")
    if len(sizes) > LARGEST_RANK:
        raise ValueError(f"a shape of {len(sizes)} dimensions; tinyopt takes up to {LARGEST_RANK}")
    return math.prod(sizes)


_SIZES: Mapping[str, Callable[[OnnxNode], int]] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "OneHot": _one_hot,
    "HannWindow": _window,
    "HammingWindow": _window,
    "BlackmanWindow": _window,
    "MelWeightMatrix": _mel_weights,
    "Pad": _pad,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _gather_elements,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _matmul,
    "Einsum": _matmul,
    "Resize": _resize,
    "Upsample": _resize,
    "Concat": _sum_of_inputs,
    "NonZero": _non_zero,
}
"""What operators give whose output may be larger than their inputs broadcast to each other."""
