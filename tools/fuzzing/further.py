"""Operators that came to the generator later: what is drawn of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tools.fuzzing.network import Network, Tensor, UnfitError

_BOUNDED = ("Acos", "Asin", "Atanh", "Sinh", "Cosh", "Asinh", "Tan")
_EQUATIONS = ("ij,jk->ik", "ij,kj->ik", "ij,ij->i", "ij,ij->", "ii->i", "ij->ji", "abc,acd->abd", "abc,abd->acd")


def _is_exact(tensor: Tensor) -> bool:
    return tensor.is_exact and tensor.dtype == "float32"


def _scalar(net: Network, number: float) -> Tensor:
    return net.constant(np.array(number, np.float32))


def bounded(net: Network) -> None:
    """Functions that are steep or undefined far from 0."""
    (y,) = net.node("Tanh", net.real())
    (y,) = net.node("Mul", y, _scalar(net, 0.75))
    net.node(net.choice(_BOUNDED), y)


def acosh(net: Network) -> None:
    x = net.real()
    (square,) = net.node("Mul", x, x)
    (large,) = net.node("Add", square, _scalar(net, 1.5))
    net.node("Acosh", large)


def shrink(net: Network) -> None:
    net.node("Shrink", net.real(), attributes={"lambd": 0.5, "bias": 0.5})


def logic(net: Network) -> None:
    x = net.pick(_is_exact)
    pair = [net.node(net.choice(["Greater", "Less"]), x, net.exact_constant(x.shape))[0] for _ in range(2)]
    (condition,) = net.node(net.choice(["And", "Or", "Xor"]), *pair)
    net.node("Where", condition, x, net.weights(x.shape, 1))


def remainder(net: Network) -> None:
    x = net.pick(_is_exact)
    divisors = net.constant((net.random.integers(1, 9, size=x.shape[-1:]) / 4).astype(np.float32))
    net.node("Mod", x, divisors, attributes={"fmod": 1}, is_exact=True)


def one_hot(net: Network) -> None:
    x = net.pick(lambda t: _is_exact(t) and 1 <= t.rank <= 3)
    axis = net.integer(0, x.rank - 1)
    (indices,) = net.node("ArgMax", x, attributes={"axis": axis, "keepdims": 0})
    values = net.constant(np.array([0.5, 2], np.float32))
    net.node("OneHot", indices, net.integers(x.shape[axis]), values, attributes={"axis": net.choice([-1, 0])})


def hardmax(net: Network) -> None:
    x = net.pick(lambda t: _is_exact(t) and t.rank >= 1)
    net.node("Hardmax", x, attributes={"axis": x.rank - 1}, is_exact=True)


def gather_nd(net: Network) -> None:
    x = net.real(1)
    depth = net.integer(1, x.rank)
    indices = np.stack([net.random.integers(-size, size, size=3) for size in x.shape[:depth]], axis=1)
    net.node("GatherND", x, net.constant(indices.astype(np.int64)), is_exact=x.is_exact)


def scatter_elements(net: Network) -> None:
    x = net.real(1)
    axis = net.integer(0, x.rank - 1)
    rows = net.integer(1, x.shape[axis])
    shape = (*x.shape[:axis], rows, *x.shape[axis + 1 :])
    # each place once: what comes of two updates of one place is not specified
    order = np.argsort(net.random.random(x.shape), axis=axis).take(range(rows), axis=axis)
    indices = net.constant(order.astype(np.int64))
    net.node("ScatterElements", x, indices, net.weights(shape, 1), attributes={"axis": axis})


def scatter_nd(net: Network) -> None:
    x = net.real(1)
    count = net.integer(1, x.shape[0])
    indices = net.random.permutation(x.shape[0])[:count, None].astype(np.int64)
    net.node("ScatterND", x, net.constant(indices), net.weights((count, *x.shape[1:]), 1))


def trilu(net: Network) -> None:
    x = net.real(2)
    net.node("Trilu", x, net.integers(net.integer(-2, 2)), attributes={"upper": net.integer(0, 1)}, is_exact=x.is_exact)


def reverse_sequence(net: Network) -> None:
    x = net.real(2)
    lengths = net.constant(net.random.integers(1, x.shape[0] + 1, size=x.shape[1]).astype(np.int64))
    net.node("ReverseSequence", x, lengths, attributes={"time_axis": 0, "batch_axis": 1}, is_exact=x.is_exact)


def compress(net: Network) -> None:
    x = net.real(1)
    axis = net.integer(0, x.rank - 1)
    kept = net.random.random(x.shape[axis]) < 0.6
    kept[net.integer(0, x.shape[axis] - 1)] = True
    shape = (*x.shape[:axis], int(kept.sum()), *x.shape[axis + 1 :])
    net.node("Compress", x, net.constant(kept), attributes={"axis": axis}, is_exact=x.is_exact, declared=shape)


def einsum(net: Network) -> None:
    equation = net.choice(_EQUATIONS)
    terms = equation.split("->")[0].split(",")
    x = net.pick(lambda t: t.dtype == "float32" and t.rank == len(terms[0]))
    sizes = dict(zip(terms[0], x.shape, strict=True))
    if equation == "ii->i" and x.shape[0] != x.shape[1]:
        raise UnfitError
    others = [tuple(sizes.get(letter, 5) for letter in term) for term in terms[1:]]
    net.node("Einsum", x, *(net.weights(shape, x.shape[-1]) for shape in others), attributes={"equation": equation})


def group_normalization(net: Network) -> None:
    x = net.image()
    group = net.choice([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
    scale, bias = (net.weights((x.shape[1] if net.opset >= 21 else group,), 1) for _ in range(2))
    attributes = {"num_groups": group, "epsilon": 0.01}
    net.node("GroupNormalization", x, scale, bias, attributes=attributes, declared=x.shape)


def root_mean_square_normalization(net: Network) -> None:
    x = net.real(2)
    net.node("RMSNormalization", x, net.weights(x.shape[-1:], 1), attributes={"axis": -1, "epsilon": 0.01})


def norm(net: Network) -> None:
    x = net.real(2)
    (x,) = net.node("Add", x, _scalar(net, 3))  # far from a root's steep end
    net.node("LpNormalization", x, attributes={"axis": net.integer(0, x.rank - 1), "p": net.integer(1, 2)})


def norm_pool(net: Network) -> None:
    (x,) = net.node("Add", net.image(), _scalar(net, 3))
    if net.chance(0.4):
        net.node("GlobalLpPool", x, attributes={"p": net.integer(1, 2)})
    else:
        kernel = [min(size, net.integer(1, 3)) for size in x.shape[2:]]
        strides = [net.integer(1, 2) for _ in kernel]
        net.node("LpPool", x, attributes={"kernel_shape": kernel, "strides": strides, "p": net.integer(1, 2)})


def dropout(net: Network) -> None:
    x = net.real()
    net.node("Dropout", x, is_exact=x.is_exact)


def own_shape(net: Network) -> None:
    """A Reshape to what Shape and Gather say, as exporters write it."""
    x = net.real(2)
    (shape,) = net.node("Shape", x)
    (first,) = net.node("Gather", shape, net.integers([0]), attributes={"axis": 0})
    (target,) = net.node("Concat", first, net.integers([-1]), attributes={"axis": 0})
    net.node("Reshape", x, target, is_exact=x.is_exact)


def grid_sample(net: Network) -> None:
    x = net.image()
    grid = net.constant(net.random.uniform(-1.2, 1.2, size=(x.shape[0], 3, 4, 2)).astype(np.float32))
    mode = "bilinear" if net.opset < 20 else "linear"
    padding = net.choice(["zeros", "border", "reflection"])
    net.node("GridSample", x, grid, attributes={"mode": mode, "padding_mode": padding, "align_corners": 1})


def upsample(net: Network) -> None:
    x = net.image()
    scales = [1.0, 1.0, float(net.integer(1, 3)), float(net.integer(1, 3))]
    if net.opset < 9:
        net.node("Upsample", x, attributes={"mode": "nearest", "scales": scales}, is_exact=x.is_exact)
    else:
        sizes = net.constant(np.array(scales, np.float32))
        net.node("Upsample", x, sizes, attributes={"mode": "nearest"}, is_exact=x.is_exact)


def center_crop_pad(net: Network) -> None:
    x = net.real(1)
    shape = [max(1, size + net.integer(-2, 2)) for size in x.shape]
    net.node("CenterCropPad", x, net.integers(shape), is_exact=x.is_exact)


def _levels(net: Network, x: Tensor) -> list[Tensor]:
    """x as uint8, with scale and zero point: exact, for x is made of eighths."""
    parameters = [_scalar(net, 0.125), net.constant(np.array(128, np.uint8))]
    return [*net.node("QuantizeLinear", x, *parameters), *parameters]


def quantize(net: Network) -> None:
    x = net.pick(_is_exact)
    net.node("DequantizeLinear", *_levels(net, x), is_exact=True)


def integer_matmul(net: Network) -> None:
    x = net.pick(lambda t: _is_exact(t) and t.rank >= 2)
    levels, _, zero_point = _levels(net, x)
    weights = net.constant(net.random.integers(-8, 9, size=(x.shape[-1], net.integer(1, 9))).astype(np.int8))
    (sums,) = net.node("MatMulInteger", levels, weights, zero_point)
    _as_real(net, sums)


def integer_conv(net: Network) -> None:
    x = net.pick(lambda t: _is_exact(t) and t.rank == 4)
    levels, _, zero_point = _levels(net, x)
    kernel = [min(size, net.integer(1, 3)) for size in x.shape[2:]]
    shape = (net.integer(1, 9), x.shape[1], *kernel)
    weights = net.constant(net.random.integers(-8, 9, size=shape).astype(np.int8))
    pads = [size // 2 for size in kernel] * 2
    (sums,) = net.node("ConvInteger", levels, weights, zero_point, attributes={"pads": pads})
    _as_real(net, sums)


def _as_real(net: Network, sums: Tensor) -> None:
    (y,) = net.node("Cast", sums, attributes={"to": 1})
    net.node("Mul", y, _scalar(net, 1 / 128))


FURTHER: Mapping[str, tuple[Callable[[Network], None], float]] = {
    "bounded": (bounded, 1.0),
    "acosh": (acosh, 0.3),
    "shrink": (shrink, 0.5),
    "logic": (logic, 1.0),
    "remainder": (remainder, 0.5),
    "one_hot": (one_hot, 0.7),
    "hardmax": (hardmax, 0.5),
    "gather_nd": (gather_nd, 1.0),
    "scatter_elements": (scatter_elements, 1.0),
    "scatter_nd": (scatter_nd, 1.0),
    "trilu": (trilu, 1.0),
    "reverse_sequence": (reverse_sequence, 0.7),
    "compress": (compress, 0.7),
    "einsum": (einsum, 1.5),
    "group_normalization": (group_normalization, 1.0),
    "root_mean_square_normalization": (root_mean_square_normalization, 1.0),
    "norm": (norm, 0.7),
    "norm_pool": (norm_pool, 0.7),
    "dropout": (dropout, 0.5),
    "own_shape": (own_shape, 0.7),
    "grid_sample": (grid_sample, 0.7),
    "upsample": (upsample, 0.7),
    "center_crop_pad": (center_crop_pad, 0.7),
    "quantize": (quantize, 0.7),
    "integer_matmul": (integer_matmul, 0.7),
    "integer_conv": (integer_conv, 0.7),
}
"""What draws an operation, and how often it comes."""
