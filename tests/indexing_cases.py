"""Small nodes of the operators with indices: what their kernels are tried on."""

from __future__ import annotations

import numpy as np

from tests.kernel_cases import Case, CaseBuilder, X
from tinyopt.ir import Array, Attribute, Value


def indexing_cases() -> list[Case]:
    """Every case; indices reach beyond both ends, as those of a hostile input would."""
    build = CaseBuilder()
    _gathers(build)
    _scatters(build)
    _rows(build)
    _interpolations(build)
    _grids(build)
    return build.cases


def _indices(build: CaseBuilder, size: int, *shape: int, dtype: str = "int64") -> tuple[Value, Array]:
    """Most of them inside of a dimension of `size`, counted from either end, and a few far outside."""
    indices = build.random.integers(-size - 2, size + 2, shape).astype(dtype)
    limits = np.iinfo(dtype)
    flat = indices.reshape(-1)
    flat[0], flat[-1] = limits.min, limits.max
    return build.variable(indices)


def _gathers(build: CaseBuilder) -> None:
    x = build.variable(build.floats(3, 4, 5))
    for axis, size in enumerate((3, 4, 5)):
        build.add("DynamicGather", f"axis {axis}", [x, _indices(build, size, 2, 3)], {"axis": axis})
        shape = tuple(2 if i == axis else limit for i, limit in enumerate((3, 4, 5)))
        build.add("GatherElements", f"axis {axis}", [x, _indices(build, size, *shape)], {"axis": axis})
    one = build.variable(np.array(-1, np.int32))
    build.add("DynamicGather", "scalar, int8", [build.variable(build.int8(4, 3), X), one], {"axis": 0}, X)
    build.add("GatherElements", "fewer rows", [x, _indices(build, 4, 2, 7, 3, dtype="int32")], {"axis": 1})
    for batch, shape in ((0, (2, 2)), (0, (3,)), (1, (3, 2, 1)), (2, (3, 4, 6, 1)), (1, (3, 2))):
        build.add("GatherND", f"{batch} batch, {shape}", [x, _indices(build, 3, *shape)], {"batch_dims": batch})


def _scatters(build: CaseBuilder) -> None:
    for reduction in ("none", "add", "mul", "min", "max"):
        attributes: dict[str, Attribute] = {"reduction": reduction}
        for axis in (0, 1):
            data, updates = build.variable(build.floats(5, 4)), build.variable(build.floats(4, 3))
            indices = _indices(build, 4, 4, 3)
            if reduction == "none":  # which of two updates of one place wins is not defined
                places = np.stack([build.random.permutation(4 if axis else 5)[:3] for _ in range(4)]).astype(np.int64)
                indices = build.variable(places if axis else np.ascontiguousarray(places[:3].T[:, :3]))
                updates = build.variable(build.floats(*indices[0].shape))
            build.add(
                "ScatterElements", f"{reduction}, axis {axis}", [data, indices, updates], attributes | {"axis": axis}
            )
        rows = build.variable(np.array([[-1], [1], [0]], np.int32))
        inputs = [build.variable(build.floats(4, 2, 3)), rows, build.variable(build.floats(3, 2, 3))]
        build.add("ScatterND", reduction, inputs, attributes)
    repeated = [
        build.variable(build.int32(-9, 9, 3, 4)),
        _indices(build, 3, 6, 2, dtype="int32"),
        build.variable(build.int32(-9, 9, 6)),
    ]
    build.add("ScatterND", "sums at one place, outside indices", repeated, {"reduction": "add"})
    with_nan = [
        build.variable(np.array([1, np.nan, 3], np.float32)),
        build.variable(np.array([0, 1, 2])),
        build.variable(np.array([np.nan, 1, 4], np.float32)),
    ]
    build.add("ScatterElements", "NaN stays", with_nan, {"reduction": "max", "axis": 0})


def _rows(build: CaseBuilder) -> None:
    values = build.constant(np.array([0.5, 3], np.float32))
    for axis in (0, 1, 2):
        build.add("OneHot", f"axis {axis}", [_indices(build, 4, 3, 5), values], {"axis": axis, "depth": 4})
    of_floats = build.variable(np.array([1, 1.5, -4, 4], np.float32))
    build.add(
        "OneHot", "float indices", [of_floats, build.constant(np.array([0, 1]))], {"axis": 1, "depth": 4}, dtype="int64"
    )
    for upper in (0, 1):
        for k in (-9, -1, 0, 2, 9):
            build.add("Trilu", f"{upper}, {k}", [build.variable(build.floats(2, 3, 4))], {"upper": upper, "k": k})
    matrix = build.floats(3, 3)
    matrix[2, 0] = np.nan
    build.add("Trilu", "NaN is dropped", [build.variable(matrix)], {"upper": 1, "k": 0})
    for time in (0, 1):
        shape = (5, 3, 2) if time == 0 else (3, 5, 2)
        lengths = build.variable(np.array([2, 5, 9], np.int64))
        build.add(
            "ReverseSequence", f"time {time}", [build.variable(build.floats(*shape)), lengths], {"time_axis": time}
        )


def _interpolations(build: CaseBuilder) -> None:
    x = build.variable(build.floats(2, 5, 3))
    for axis, size in enumerate((2, 5, 3)):
        for taps in (1, 4, 7):
            indices = build.constant(build.random.integers(0, size, (4, taps)))
            tables = [indices, build.constant(build.floats(4, taps))]
            build.add("Interpolate", f"axis {axis}, {taps} taps", [x, *tables], {"axis": axis})


def _grids(build: CaseBuilder) -> None:
    image, volume = build.variable(build.floats(2, 3, 4, 5)), build.variable(build.floats(1, 2, 3, 4, 2))
    points, space = build.floats(2, 3, 4, 2) * 1.5, build.floats(1, 2, 3, 2, 3)
    for padding in ("zeros", "border", "reflection"):
        for aligned in (0, 1):
            attributes: dict[str, Attribute] = {"padding": padding, "align_corners": aligned}
            for mode in ("nearest", "linear") if padding == "border" else ("nearest", "linear", "cubic"):
                title = f"{mode}, {padding}, {aligned}"
                build.add("GridSample", title, [image, build.variable(points)], {**attributes, "mode": mode})
            title = f"3-D, {padding}, {aligned}"
            build.add("GridSample", title, [volume, build.variable(space)], {**attributes, "mode": "linear"})
        wild = points.copy()
        wild.reshape(-1)[:6] = [np.inf, -np.inf, np.nan, 1e30, -1e30, 3e9]
        attributes = {"padding": padding, "align_corners": 0, "mode": "nearest"}
        if padding != "reflection":  # where a position that is infinite comes to lie is not defined
            build.add("GridSample", f"wild positions, {padding}", [image, build.variable(wild)], attributes)
