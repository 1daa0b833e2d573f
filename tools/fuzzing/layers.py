"""Layers with weights, pools and normalizations: what is drawn of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tools.fuzzing.network import Network, Tensor, UnfitError

_MOST_CHANNELS = 20


def _window(net: Network, spatial: tuple[int, ...], has_dilations: bool = True) -> dict[str, list[int] | str]:
    """Kernel, strides, dilations and pads, of which any but the kernel may be left out."""
    rank = len(spatial)
    kernel = [min(size, net.integer(1, 4)) for size in spatial]
    attributes: dict[str, list[int] | str] = {"kernel_shape": kernel}
    if net.chance(0.5):
        attributes["strides"] = [net.integer(1, 3) for _ in range(rank)]
    if has_dilations and net.chance(0.2):
        attributes["dilations"] = [
            net.integer(1, 2) if 2 * k <= size else 1 for k, size in zip(kernel, spatial, strict=True)
        ]
    kind = net.integer(0, 5)
    if kind <= 2:
        attributes["pads"] = [net.integer(0, k - 1) for k in kernel * 2]
    elif kind == 3 and "dilations" not in attributes:
        attributes["auto_pad"] = net.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    return attributes


def _group(net: Network, channels: int) -> int:
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    kind = net.integer(0, 3)
    return channels if kind == 0 else net.choice(divisors) if kind == 1 else 1


def _bias(net: Network, channels: int) -> Tensor | None:
    return net.weights((channels,), 4) if net.chance(0.6) else None


def conv(net: Network) -> None:
    x = net.image(net.choice([3, 4, 4, 4, 4]))
    channels, spatial = x.shape[1], x.shape[2:]
    group = _group(net, channels)
    outputs = group * net.integer(1, max(1, _MOST_CHANNELS // group))
    window = _window(net, spatial)
    kernel = tuple(int(k) for k in window["kernel_shape"])
    weights = net.weights((outputs, channels // group, *kernel), channels // group * int(np.prod(kernel)))
    if net.chance(0.3):
        del window["kernel_shape"]  # the weights say it
    (y,) = net.node("Conv", x, weights, _bias(net, outputs), attributes={"group": group, **window})
    _activation(net, y)


def residual(net: Network) -> None:
    """Convolutions around which the input goes."""
    x = net.image()
    size = net.choice([1, 3])
    y = x
    for _ in range(net.integer(1, 2)):
        weights = net.weights((x.shape[1], x.shape[1], size, size), x.shape[1] * size * size)
        (y,) = net.node("Conv", y, weights, _bias(net, x.shape[1]), attributes={"pads": [size // 2] * 4})
    (y,) = net.node("Add", *((x, y) if net.chance(0.5) else (y, x)))
    _activation(net, y)


def _activation(net: Network, y: Tensor) -> None:
    kind = net.integer(0, 4)
    if kind == 0:
        net.node("Relu", y)
    elif kind == 1 and net.opset < 11:
        net.node("Clip", y, attributes={"min": -0.5, "max": 1.0})
    elif kind == 1:
        net.node("Clip", y, _scalar(net, -0.5), _scalar(net, 1.0))


def _scalar(net: Network, number: float) -> Tensor:
    return net.constant(np.array(number, np.float32))


def conv_transpose(net: Network) -> None:
    x = net.image()
    group = _group(net, x.shape[1])
    outputs = net.integer(1, 4)
    window = _window(net, (4, 4))
    kernel = tuple(int(k) for k in window["kernel_shape"])
    weights = net.weights((x.shape[1], outputs, *kernel), x.shape[1] // group * 4)
    strides = window.get("strides", [1, 1])
    if net.chance(0.3) and "auto_pad" not in window:
        window["output_padding"] = [net.integer(0, int(stride) - 1) for stride in strides]
    net.node("ConvTranspose", x, weights, _bias(net, outputs * group), attributes={"group": group, **window})


def pool(net: Network) -> None:
    x = net.image(net.choice([3, 4, 4, 4]))
    op = net.choice(["MaxPool", "AveragePool"])
    window = _window(net, x.shape[2:], has_dilations=net.opset >= (10 if op == "MaxPool" else 19))
    attributes: dict[str, int] = {}
    if op == "AveragePool" and net.chance(0.5):
        attributes["count_include_pad"] = 1
    if net.opset >= 10 and net.chance(0.3) and "auto_pad" not in window:
        attributes["ceil_mode"] = 1
    net.node(op, x, attributes={**window, **attributes}, is_exact=op == "MaxPool" and x.is_exact)


def global_pool(net: Network) -> None:
    x = net.image()
    op = net.choice(["GlobalAveragePool", "GlobalMaxPool"])
    net.node(op, x, is_exact=op == "GlobalMaxPool" and x.is_exact)


def gate(net: Network) -> None:
    """Squeeze and excite."""
    x = net.image()
    channels = x.shape[1]
    (mean,) = net.node("GlobalAveragePool", x)
    (y,) = net.node("Conv", mean, net.weights((channels, channels, 1, 1), channels), _bias(net, channels))
    (y,) = net.node(net.choice(["Sigmoid", "HardSigmoid"]), y)
    net.node("Mul", x, y)


def gemm(net: Network) -> None:
    x = net.real(2, 2)
    is_turned = net.chance(0.3)
    rows, columns = x.shape if not is_turned else x.shape[::-1]
    outputs = net.integer(1, 24)
    attributes: dict[str, int | float] = {"transA": int(is_turned), "transB": net.integer(0, 1)}
    weights = net.weights((outputs, columns) if attributes["transB"] else (columns, outputs), columns)
    if net.chance(0.3):
        attributes |= {"alpha": 0.5, "beta": 2.0}
    shape = net.choice([(outputs,), (1, outputs), (rows, 1), (rows, outputs), (1,), ()])
    added = net.weights(shape, 4) if net.chance(0.8) or net.opset < 11 else None
    (y,) = net.node("Gemm", x, weights, added, attributes=attributes)
    _activation(net, y)


def matmul(net: Network) -> None:
    x = net.real(1)
    inner = x.shape[-1]
    kind = net.integer(0, 3)
    if kind == 0 and x.rank >= 2:  # two computed tensors, as attention has them
        (turned,) = net.node("Transpose", x, attributes={"perm": [*range(x.rank - 2), x.rank - 1, x.rank - 2]})
        (scaled,) = net.node("Mul", turned, _scalar(net, 1 / inner**0.5))
        net.node("MatMul", x, scaled)
        return
    shape = (inner,) if kind == 1 else (*(x.shape[:-2] if kind == 2 else ()), inner, net.integer(1, 16))
    net.node("MatMul", x, net.weights(shape, inner))


def attention(net: Network) -> None:
    """One head: softmax(q k') v."""
    x = net.real(2, 4)
    width, inner = x.shape[-1], net.integer(1, 8)
    q, k, v = (net.node("MatMul", x, net.weights((width, inner), width))[0] for _ in range(3))
    (turned,) = net.node("Transpose", k, attributes={"perm": [*range(x.rank - 2), x.rank - 1, x.rank - 2]})
    (scores,) = net.node("MatMul", q, turned)
    (weights,) = net.node("Softmax", scores, attributes={"axis": x.rank - 1})
    net.node("MatMul", weights, v)


def batch_normalization(net: Network) -> None:
    x = net.pick(lambda t: t.dtype == "float32" and 2 <= t.rank <= 4)
    channels = x.shape[1]
    scale, bias, mean = (net.weights((channels,), 1) for _ in range(3))
    variance = net.constant(net.random.uniform(0.5, 2, size=channels).astype(np.float32))
    net.node("BatchNormalization", x, scale, bias, mean, variance, attributes={"epsilon": net.choice([1e-5, 1e-3])})


def instance_normalization(net: Network) -> None:
    x = net.image()
    net.node(
        "InstanceNormalization", x, *(net.weights((x.shape[1],), 1) for _ in range(2)), attributes={"epsilon": 0.01}
    )


def layer_normalization(net: Network) -> None:
    x = net.real(2)
    axis = net.integer(1, x.rank - 1)
    scale, bias = (net.weights(x.shape[axis:], 1) for _ in range(2))
    net.node("LayerNormalization", x, scale, bias, attributes={"axis": axis - x.rank, "epsilon": 0.01})


def local_response_normalization(net: Network) -> None:
    net.node("LRN", net.image(), attributes={"size": net.choice([1, 3, 5]), "alpha": 0.1, "beta": 0.75, "bias": 1.0})


def recurrent(net: Network) -> None:
    """[sequence, batch, features]."""
    x = net.real(3, 3)
    op, gates = net.choice([("RNN", 1), ("GRU", 3), ("LSTM", 4)])
    direction = net.choice(["forward", "reverse", "bidirectional"])
    directions, hidden, features = 1 + (direction == "bidirectional"), net.integer(1, 6), x.shape[2]
    if x.shape[0] > 8:
        raise UnfitError
    w = net.weights((directions, gates * hidden, features), features)
    r = net.weights((directions, gates * hidden, hidden), hidden)
    b = net.weights((directions, 2 * gates * hidden), 4) if net.chance(0.7) else None
    extra = {"linear_before_reset": net.integer(0, 1)} if op == "GRU" else {}
    net.node(
        op,
        x,
        w,
        r,
        b,
        attributes={"direction": direction, "hidden_size": hidden, **extra},
        outputs=3 if op == "LSTM" else 2,
    )


LAYERS: Mapping[str, tuple[Callable[[Network], None], float]] = {
    "conv": (conv, 5.0),
    "residual": (residual, 1.5),
    "conv_transpose": (conv_transpose, 1.0),
    "pool": (pool, 2.0),
    "global_pool": (global_pool, 0.3),
    "gate": (gate, 0.7),
    "gemm": (gemm, 2.0),
    "matmul": (matmul, 1.5),
    "attention": (attention, 0.7),
    "batch_normalization": (batch_normalization, 1.0),
    "instance_normalization": (instance_normalization, 0.4),
    "layer_normalization": (layer_normalization, 0.7),
    "local_response_normalization": (local_response_normalization, 0.3),
    "recurrent": (recurrent, 0.7),
}
"""What draws a layer, and how often it comes."""
