"""Element-wise operators, reductions and choices: what is drawn of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tools.fuzzing.network import Network, Tensor, UnfitError

# functions that are smooth where they are used, with what they may be given
_SMOOTH = (
    "Sigmoid Tanh LeakyRelu Elu Selu Softplus Softsign HardSigmoid HardSwish Relu Abs Neg Erf Sin Cos Atan Identity "
    "Gelu Mish Celu ThresholdedRelu Softmax LogSoftmax"
).split()
_POSITIVE = ("Sqrt", "Log", "Reciprocal")  # of 0.5 and more
_JUMPING = ("Floor", "Ceil", "Round", "Sign")
_COMPARISONS = ("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")


def unary(net: Network) -> None:
    x, op = net.real(), net.choice(_SMOOTH)
    if op == "ThresholdedRelu" and not x.is_exact:
        raise UnfitError
    attributes = {"axis": net.integer(0, x.rank - 1)} if op.endswith("Softmax") and x.rank else {}
    if op.endswith("Softmax") and not x.rank:
        raise UnfitError
    net.node(op, x, attributes=attributes, is_exact=x.is_exact and op in ("Relu", "Abs", "Neg", "Identity"))


def of_positive(net: Network) -> None:
    (square,) = net.node("Mul", *([net.real()] * 2))
    (positive,) = net.node("Add", square, net.constant(np.array([0.5], np.float32)))
    net.node(net.choice(_POSITIVE), positive)


def exponential(net: Network) -> None:
    (bounded,) = net.node("Tanh", net.real())
    net.node("Exp", bounded)


def jumping(net: Network) -> None:
    net.node(net.choice(_JUMPING), net.pick(_is_exact), is_exact=True)


def _is_exact(tensor: Tensor) -> bool:
    return tensor.is_exact and tensor.dtype == "float32"


def _partner(net: Network, x: Tensor, is_exact: bool) -> Tensor:
    """What broadcasts with x: a tensor of the same shape, or a constant with fewer or single dimensions."""
    same = [t for t in net.tensors if t.shape == x.shape and t.dtype == x.dtype and (t.is_exact or not is_exact)]
    if same and net.chance(0.5):
        partner: Tensor = net.choice(same)
        return partner
    kept = x.shape[net.integer(0, x.rank) :]
    shape = tuple(1 if net.chance(0.3) else size for size in kept)
    if not shape and x.rank and net.chance(0.5):
        shape = (1,)
    return net.exact_constant(shape) if is_exact else net.weights(shape, 1)


def binary(net: Network) -> None:
    x = net.real()
    is_exact = x.is_exact and net.chance(0.5)
    pair = [x, _partner(net, x, is_exact)]
    op = net.choice(["Add", "Sub", "Mul"])
    # products of exact numbers would soon need more bits than there are
    net.node(op, *(pair if net.chance(0.6) else pair[::-1]), is_exact=is_exact and op != "Mul" and net.chance(0.5))


def divide(net: Network) -> None:
    x = net.real()
    shape = tuple(1 if net.chance(0.3) else size for size in x.shape)
    numbers = net.random.uniform(0.5, 2, size=shape) * net.random.choice([-1, 1], size=shape)
    net.node("Div", x, net.constant(numbers.astype(np.float32)))


def power(net: Network) -> None:
    (positive,) = net.node("Sigmoid", net.real())
    net.node("Pow", positive, net.constant(np.array(net.choice([0.5, 2.0, 3.0, -0.5]), np.float32)))


def prelu(net: Network) -> None:
    x = net.image()
    net.node("PRelu", x, net.weights((x.shape[1], 1, 1), 1))


def several(net: Network) -> None:
    x = net.real()
    others = [_partner(net, x, is_exact=False) for _ in range(net.integer(0, 2))]
    net.node(net.choice(["Max", "Min", "Sum", "Mean"]), x, *others)


def where(net: Network) -> None:
    x = net.pick(_is_exact)
    (condition,) = net.node(net.choice(_COMPARISONS), x, _partner(net, x, is_exact=True))
    if net.chance(0.3):
        (condition,) = net.node("Not", condition)
    y = net.pick(lambda t: t.dtype == "float32" and t.shape == condition.shape)
    pair = [y, _partner(net, y, is_exact=False)]
    net.node("Where", condition, *(pair if net.chance(0.5) else pair[::-1]))


def cast(net: Network) -> None:
    """To integers and back."""
    (integers,) = net.node("Cast", net.pick(_is_exact), attributes={"to": 7})
    net.node("Cast", integers, attributes={"to": 1}, is_exact=True)


def reduce(net: Network) -> None:
    x = net.real(1)
    op = net.choice(["Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod"])
    axes = sorted({net.integer(0, x.rank - 1) for _ in range(net.integer(1, x.rank))})
    if op == "L2":  # its slope is steep at zero
        (x,) = net.node("Add", x, net.constant(np.array(3, np.float32)))
    if op in ("Sum", "SumSquare", "L1", "Prod") and np.prod([x.shape[axis] for axis in axes]) > 64:
        raise UnfitError
    if net.chance(0.3):
        axes = [axis - x.rank for axis in axes]
    attributes = {"keepdims": net.integer(0, 1)}
    is_input = net.opset >= (13 if op == "Sum" else 18)
    if is_input:
        net.node(
            f"Reduce{op}", x, net.integers(axes), attributes=attributes, is_exact=x.is_exact and op in ("Max", "Min")
        )
    else:
        net.node(
            f"Reduce{op}", x, attributes={"axes": axes, **attributes}, is_exact=x.is_exact and op in ("Max", "Min")
        )


def argmax(net: Network) -> None:
    x = net.pick(lambda t: _is_exact(t) and t.rank >= 1)
    axis = net.integer(-x.rank, x.rank - 1) if net.opset >= 11 else net.integer(0, x.rank - 1)
    net.node(net.choice(["ArgMax", "ArgMin"]), x, attributes={"axis": axis, "keepdims": net.integer(0, 1)})


def top_k(net: Network) -> None:
    x = net.pick(lambda t: _is_exact(t) and t.rank >= 1)
    if net.opset < 10:
        raise UnfitError
    count = net.integer(1, x.shape[-1])
    net.node("TopK", x, net.integers([count]), outputs=2, is_exact=True)


def cumulative_sum(net: Network) -> None:
    x = net.real(1)
    axis = net.integers(net.integer(0, x.rank - 1))
    net.node("CumSum", x, axis, attributes={"exclusive": net.integer(0, 1), "reverse": net.integer(0, 1)})


ELEMENTWISE: Mapping[str, tuple[Callable[[Network], None], float]] = {
    "unary": (unary, 4.0),
    "of_positive": (of_positive, 0.5),
    "exponential": (exponential, 0.3),
    "jumping": (jumping, 0.5),
    "binary": (binary, 3.0),
    "divide": (divide, 0.4),
    "power": (power, 0.4),
    "prelu": (prelu, 0.7),
    "several": (several, 0.7),
    "where": (where, 0.7),
    "cast": (cast, 0.4),
    "reduce": (reduce, 2.0),
    "argmax": (argmax, 0.3),
    "top_k": (top_k, 0.3),
    "cumulative_sum": (cumulative_sum, 0.3),
}
"""What draws an operation, and how often it comes."""
