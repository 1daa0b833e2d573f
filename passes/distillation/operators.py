"""What every float operator computes, in PyTorch: one rule for each, for many samples at once.

Each tensor has one more axis in front than the value that it is of: the samples. Constants have one entry there. An
absent input is None. The rules follow the numpy references in `tinyopt.ops`, which define the numbers. Importing this
module needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinyopt.ir import Node
from tinyopt.ops.movement import padded_positions
from tinyopt.ops.pool import average_divisors
from tinyopt.ops.resize import linear_taps, nearest_indices, resized_axes
from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()
functional = load_torch("nn.functional")

Rule: TypeAlias = Callable[[Node, Sequence[Tensor]], list[Tensor]]


def _clamped(node: Node, x: Tensor) -> Tensor:
    low, high = node.float("clamp_low"), node.float("clamp_high")
    if low == -np.inf and high == np.inf:
        return x
    if low == 0 and high == np.inf:
        return torch.relu(x)  # three times as fast as clamp, forwards and backwards
    return torch.clamp(x, low, high)


def _aligned(x: Tensor, rank: int) -> Tensor:
    """The tensor with axes of size 1 behind the samples, up to `rank` axes without the samples, as numpy broadcasts."""
    return x.reshape(x.shape[0], *[1] * (rank + 1 - x.dim()), *x.shape[1:])


def _to_images(node: Node, x: Tensor) -> Tensor:
    """[samples, N, ...] in the node's layout as [samples * N, C, H, W]."""
    images = x.flatten(0, 1)
    return images if node.str("layout") == "NCHW" else images.permute(0, 3, 1, 2)


def _from_images(node: Node, images: Tensor, samples: int) -> Tensor:
    placed = images if node.str("layout") == "NCHW" else images.permute(0, 2, 3, 1)
    return placed.unflatten(0, (samples, -1))


def _padded(images: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """Images [., C, H, W] with pads (top, left, bottom, right); negative ones crop."""
    if not any(pads):
        return images
    top, left, bottom, right = pads
    return functional.pad(images, (left, right, top, bottom), value=value)


def _first(constant: Tensor) -> Tensor:
    """A constant without the axis of the samples."""
    return None if constant is None else constant[0]


def _filters(node: Node, weights: Tensor) -> Tensor:
    """Weights with the window's axes last."""
    return weights[0] if node.str("layout") == "NCHW" else weights[0].permute(0, 3, 1, 2)


def _conv(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    x, weights, bias, residual = tensors
    pads = node.ints("pads")
    is_even = pads[:2] == pads[2:] and min(pads) >= 0
    images = _to_images(node, x) if is_even else _padded(_to_images(node, x), pads, 0)
    result = functional.conv2d(
        images,
        _filters(node, weights),
        _first(bias),
        stride=node.ints("strides"),
        padding=pads[:2] if is_even else 0,
        dilation=node.ints("dilations"),
        groups=node.int("group"),
    )
    placed = _from_images(node, result, x.shape[0])
    return [_clamped(node, placed if residual is None else placed + residual)]


def _conv_transpose(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    x, weights, bias = tensors
    full = functional.conv_transpose2d(
        _to_images(node, x),
        _filters(node, weights),
        _first(bias),
        stride=node.ints("strides"),
        dilation=node.ints("dilations"),
        groups=node.int("group"),
    )
    (top, left, bottom, right), (more_rows, more_columns) = node.ints("pads"), node.ints("output_padding")
    added = functional.pad(full, (-left, more_columns - right, -top, more_rows - bottom))
    if bias is not None and (more_rows > bottom or more_columns > right):  # cells that no window reaches
        inside = functional.pad(torch.ones_like(full), (-left, more_columns - right, -top, more_rows - bottom))
        added = added + (1 - inside) * bias[0][:, None, None]
    return [_clamped(node, _from_images(node, added, x.shape[0]))]


def _dense(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    x, weights, bias, residual = tensors
    result = functional.linear(x, weights[0], _first(bias))
    return [_clamped(node, result if residual is None else result + residual)]


def _matmul(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    """numpy.matmul: a vector is a row on the left and a column on the right."""
    a, b = tensors
    left = a.unsqueeze(1) if a.dim() == 2 else a
    right = b.unsqueeze(2) if b.dim() == 2 else b
    rank = max(left.dim(), right.dim()) - 1
    result = torch.matmul(_aligned(left, rank), _aligned(right, rank))
    return [result.reshape(result.shape[0], *node.output.shape)]


def _max_pool(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    (x,) = tensors
    images = _padded(_to_images(node, x), node.ints("pads"), -np.inf)
    result = functional.max_pool2d(
        images, node.ints("kernel"), stride=node.ints("strides"), dilation=node.ints("dilations")
    )
    return [_from_images(node, result, x.shape[0])]


def _average_pool(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    (x,) = tensors
    images, kernel = _padded(_to_images(node, x), node.ints("pads"), 0), node.ints("kernel")
    if node.ints("dilations") == (1, 1):
        sums = functional.avg_pool2d(images, kernel, stride=node.ints("strides"), divisor_override=1)
    else:
        ones = torch.ones(images.shape[1], 1, *kernel)
        sums = functional.conv2d(
            images, ones, stride=node.ints("strides"), dilation=node.ints("dilations"), groups=images.shape[1]
        )
    averages = sums / torch.from_numpy(average_divisors(node).astype(np.float32))  # OH OW
    return [_clamped(node, _from_images(node, averages, x.shape[0]))]


def _batch_normalization(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    x = tensors[0]
    along_axis = [-1 if axis == node.int("axis") else 1 for axis in range(x.dim() - 1)]
    scale, bias, mean, variance = (_first(tensor).reshape(along_axis) for tensor in tensors[1:5])
    return [(x - mean) / torch.sqrt(variance + node.float("epsilon")) * scale + bias]


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def rule(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
        rank = node.output.type.rank
        return [_clamped(node, function(*(_aligned(tensor, rank) for tensor in tensors)))]

    return rule


def _prelu(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    x, slope = tensors
    return [torch.where(x < 0, x * _aligned(slope, node.output.type.rank), x)]


def _unary(function: Callable[[Node, Tensor], Tensor]) -> Rule:
    return lambda node, tensors: [function(node, tensors[0])]


def _expand(node: Node, x: Tensor) -> Tensor:
    shape = node.ints("shape")
    return _aligned(x, len(shape)).expand(x.shape[0], *shape)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(x * node.float("alpha") + node.float("beta"), 0, 1)


def _along(axis_key: str, function: Callable[..., Tensor]) -> Rule:
    """A function of one tensor along an axis of its value."""
    return lambda node, tensors: [function(tensors[0], node.int(axis_key) + 1)]


def _reduce(function: Callable[..., Tensor]) -> Rule:
    def rule(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
        axes = tuple(axis + 1 for axis in node.ints("axes"))
        return [function(tensors[0], axes, bool(node.int("keepdims"))) if axes else tensors[0]]

    return rule


def _reshape(node: Node, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], *node.ints("shape"))


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(0, *(axis + 1 for axis in node.ints("perm")))


def _concat(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    samples = max(part.shape[0] for part in tensors)
    return [torch.cat([part.expand(samples, *part.shape[1:]) for part in tensors], node.int("axis") + 1)]


def _split(node: Node, tensors: Sequence[Tensor]) -> list[Tensor]:
    (x,) = tensors
    return list(torch.split(x, node.ints("sizes"), node.int("axis") + 1))


def _picked(x: Tensor, axis: int, indices: np.ndarray[Any, Any]) -> Tensor:
    """The entries `indices` along an axis of the value."""
    return x.index_select(axis + 1, torch.from_numpy(np.ascontiguousarray(indices, np.int64)))


def _slice(node: Node, x: Tensor) -> Tensor:
    for axis, (start, step, size) in enumerate(
        zip(node.ints("starts"), node.ints("steps"), node.ints("sizes"), strict=True)
    ):
        if (start, step, size) != (0, 1, x.shape[axis + 1]):
            x = _picked(x, axis, start + step * np.arange(size))
    return x


def _pad(node: Node, x: Tensor) -> Tensor:
    pads, rank, mode = node.ints("pads"), x.dim() - 1, node.str("mode")
    if mode == "constant":
        backwards = [pads[axis + side] for axis in reversed(range(rank)) for side in (0, rank)]
        return functional.pad(x, backwards, value=node.float("value"))
    for axis in range(rank):
        begin, end = pads[axis], pads[axis + rank]
        if begin or end:
            x = _picked(x, axis, padded_positions(x.shape[axis + 1], begin, end, mode))
    return x


def _gather(node: Node, x: Tensor) -> Tensor:
    return _picked(x, node.int("axis"), node.input(1).data.reshape(-1)).reshape(x.shape[0], *node.output.shape)


def _resize(node: Node, x: Tensor) -> Tensor:
    for axis in resized_axes(node):
        if node.str("mode") == "nearest":
            x = _picked(x, axis, nearest_indices(node, axis))
            continue
        low, high, share = linear_taps(node, axis)
        weight = torch.from_numpy(share).reshape([-1 if i == axis + 1 else 1 for i in range(x.dim())])
        x = _picked(x, axis, low) * (1 - weight) + _picked(x, axis, high) * weight
    return x


RULES: Mapping[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dense": _dense,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(torch.div),
    "Relu": _unary(lambda _node, x: torch.relu(x)),
    "Clip": _unary(lambda node, x: torch.clamp(x, node.float("low"), node.float("high"))),
    "LeakyRelu": _unary(lambda node, x: torch.where(x < 0, x * node.float("alpha"), x)),
    "PRelu": _prelu,
    "Sigmoid": _unary(lambda _node, x: torch.sigmoid(x)),
    "Tanh": _unary(lambda _node, x: torch.tanh(x)),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(lambda _node, x: x * torch.clamp(x / 6 + 0.5, 0, 1)),
    "Gelu": _unary(lambda node, x: functional.gelu(x, approximate=node.str("approximate"))),
    "Softmax": _along("axis", torch.softmax),
    "LogSoftmax": _along("axis", torch.log_softmax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "Reshape": _unary(_reshape),
    "Transpose": _unary(_transpose),
    "Concat": _concat,
    "Split": _split,
    "Slice": _unary(_slice),
    "Pad": _unary(_pad),
    "Gather": _unary(_gather),
    "Expand": _unary(_expand),
    "Resize": _unary(_resize),
    "Identity": _unary(lambda _node, x: x),
}
"""The rule of each operator. One that is missing cannot be trained through."""
