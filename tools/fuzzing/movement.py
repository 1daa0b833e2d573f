"""Operators that move, repeat or leave out elements: what is drawn of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tools.fuzzing.network import MOST_RANK, Network, UnfitError


def reshape(net: Network) -> None:
    x = net.real()
    rest, shape = x.elements, list[int]()
    for _ in range(net.integer(0, 3)):
        factor = net.choice([f for f in range(1, rest + 1) if rest % f == 0])
        shape.append(factor)
        rest //= factor
    shape.append(rest)
    shape = [shape[int(i)] for i in net.random.permutation(len(shape))]
    if net.chance(0.3):
        shape[net.integer(0, len(shape) - 1)] = -1
    net.node("Reshape", x, net.integers(shape), is_exact=x.is_exact)


def flatten(net: Network) -> None:
    x = net.real(1)
    net.node("Flatten", x, attributes={"axis": net.integer(0, x.rank)}, is_exact=x.is_exact)


def squeeze(net: Network) -> None:
    """Unsqueeze, or its reverse where there is something to squeeze."""
    x = net.real(0, MOST_RANK - 1)
    singles = [axis for axis, size in enumerate(x.shape) if size == 1]
    op, axis = (
        ("Squeeze", net.choice(singles)) if singles and net.chance(0.5) else ("Unsqueeze", net.integer(0, x.rank))
    )
    if net.opset >= 13:
        net.node(op, x, net.integers([axis]), is_exact=x.is_exact)
    else:
        net.node(op, x, attributes={"axes": [axis]}, is_exact=x.is_exact)


def transpose(net: Network) -> None:
    x = net.real(1)
    net.node(
        "Transpose", x, attributes={"perm": [int(axis) for axis in net.random.permutation(x.rank)]}, is_exact=x.is_exact
    )


def concat(net: Network) -> None:
    x = net.real(1)
    axis = net.integer(0, x.rank - 1)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    fits = [t for t in net.tensors if t.dtype == x.dtype and (*t.shape[:axis], *t.shape[axis + 1 :]) == rest]
    fits = [t for t in fits if t.rank == x.rank]
    parts = [net.choice(fits) for _ in range(net.integer(1, 2))]
    if net.chance(0.2):
        parts.append(net.exact_constant((*x.shape[:axis], 2, *x.shape[axis + 1 :])))
    parts.insert(net.integer(0, len(parts)), x)
    net.node(
        "Concat",
        *parts,
        attributes={"axis": axis - x.rank * net.integer(0, int(net.opset >= 11))},
        is_exact=all(t.is_exact for t in parts),
    )


def split(net: Network) -> None:
    x = net.pick(lambda t: t.dtype == "float32" and any(size > 1 for size in t.shape))
    axis = net.choice([axis for axis, size in enumerate(x.shape) if size > 1])
    cut = net.integer(1, x.shape[axis] - 1)
    sizes = [cut, x.shape[axis] - cut]
    if net.opset >= 13:
        net.node("Split", x, net.integers(sizes), attributes={"axis": axis}, outputs=2, is_exact=x.is_exact)
    else:
        net.node("Split", x, attributes={"axis": axis, "split": sizes}, outputs=2, is_exact=x.is_exact)


def slice_(net: Network) -> None:
    x = net.real(1)
    axes = sorted({net.integer(0, x.rank - 1) for _ in range(net.integer(1, 2))})
    begins, ends, steps = list[int](), list[int](), list[int]()
    for axis in axes:
        size = x.shape[axis]
        low = net.integer(0, size - 1)
        high = net.integer(low + 1, size + 2)  # may end beyond the end
        begin, end, step = low, high, net.choice([1, 1, 1, 2])
        if net.opset >= 10 and net.chance(0.25):
            begin, end, step = min(high, size) - 1, low - 1 - size if low else -size - 1, -step
        begins.append(begin - size if net.chance(0.3) and step > 0 else begin)
        ends.append(end)
        steps.append(step)
    if net.opset < 10:
        net.node("Slice", x, attributes={"axes": axes, "starts": begins, "ends": ends}, is_exact=x.is_exact)
    else:
        parameters = [net.integers(numbers) for numbers in (begins, ends, axes, steps)]
        net.node("Slice", x, *parameters, is_exact=x.is_exact)


def gather(net: Network) -> None:
    x = net.real(1)
    axis = net.integer(0, x.rank - 1)
    low = -x.shape[axis] if net.opset >= 11 else 0
    shape = net.choice([(), (1,), (3,), (2, 2)])
    indices = net.random.integers(low, x.shape[axis], size=shape)
    net.node("Gather", x, net.constant(np.asarray(indices, np.int64)), attributes={"axis": axis}, is_exact=x.is_exact)


def expand(net: Network) -> None:
    x = net.real()
    shape = [net.integer(1, 3) for _ in range(net.integer(0, 1))] + [
        net.integer(2, 4) if size == 1 and net.chance(0.7) else size for size in x.shape
    ]
    net.node("Expand", x, net.integers(shape), is_exact=x.is_exact)


def tile(net: Network) -> None:
    x = net.real(1)
    net.node("Tile", x, net.integers([net.choice([1, 1, 2, 3]) for _ in x.shape]), is_exact=x.is_exact)


def pad(net: Network) -> None:
    x = net.real(1)
    mode = net.choice(["constant", "constant", "reflect", "edge"])
    most = [min(2, size - 1) if mode == "reflect" else 2 for size in x.shape]
    pads = [net.integer(0, most[i % x.rank]) if net.chance(0.5) else 0 for i in range(2 * x.rank)]
    if net.opset < 11:
        extra = {"value": 0.5} if mode == "constant" else {}
        net.node("Pad", x, attributes={"mode": mode, "pads": pads, **extra}, is_exact=x.is_exact)
    else:
        value = net.constant(np.array(0.5, np.float32)) if mode == "constant" and net.chance(0.7) else None
        net.node("Pad", x, net.integers(pads), value, attributes={"mode": mode}, is_exact=x.is_exact)


def depth_to_space(net: Network) -> None:
    x = net.image()
    if x.shape[1] % 4 == 0 and net.chance(0.6):
        mode = {"mode": net.choice(["DCR", "CRD"])} if net.opset >= 11 else {}
        net.node("DepthToSpace", x, attributes={"blocksize": 2, **mode}, is_exact=x.is_exact)
    elif x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        net.node("SpaceToDepth", x, attributes={"blocksize": 2}, is_exact=x.is_exact)
    else:
        raise UnfitError


def shuffle(net: Network) -> None:
    """Channels of groups dealt out in turn."""
    x = net.image()
    count, channels, height, width = x.shape
    group = net.choice([g for g in range(1, channels + 1) if channels % g == 0])
    parts = net.integers([count, group, channels // group, height, width])
    (y,) = net.node("Reshape", x, parts, is_exact=x.is_exact)
    (y,) = net.node("Transpose", y, attributes={"perm": [0, 2, 1, 3, 4]}, is_exact=x.is_exact)
    net.node("Reshape", y, net.integers([count, channels, height, width]), is_exact=x.is_exact)


def resize(net: Network) -> None:
    x = net.image()
    if net.opset < 11:
        raise UnfitError
    mode = net.choice(["nearest", "linear"])
    coordinates = net.choice(["asymmetric", "half_pixel", "align_corners"])
    # scales and modes whose coordinates are exact: nearest jumps
    if mode == "nearest":
        coordinates = "asymmetric"
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
    scales = net.constant(np.array([1, 1, net.integer(1, 3), net.integer(1, 3)], np.float32))
    roi = None if net.opset >= 13 else net.constant(np.zeros(0, np.float32))
    net.node("Resize", x, roi, scales, attributes=attributes, is_exact=x.is_exact and mode == "nearest")


def gather_elements(net: Network) -> None:
    x = net.real(1)
    axis = net.integer(0, x.rank - 1)
    indices = net.random.integers(-x.shape[axis], x.shape[axis], size=x.shape)
    net.node(
        "GatherElements", x, net.constant(indices.astype(np.int64)), attributes={"axis": axis}, is_exact=x.is_exact
    )


MOVEMENT: Mapping[str, tuple[Callable[[Network], None], float]] = {
    "reshape": (reshape, 1.5),
    "flatten": (flatten, 0.5),
    "squeeze": (squeeze, 1.0),
    "transpose": (transpose, 1.5),
    "concat": (concat, 2.0),
    "split": (split, 1.0),
    "slice": (slice_, 1.5),
    "gather": (gather, 1.0),
    "expand": (expand, 0.5),
    "tile": (tile, 0.5),
    "pad": (pad, 1.0),
    "depth_to_space": (depth_to_space, 0.5),
    "shuffle": (shuffle, 0.5),
    "resize": (resize, 0.7),
    "gather_elements": (gather_elements, 0.3),
}
"""What draws an operation, and how often it comes."""
