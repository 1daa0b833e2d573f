"""Kernel cases of the operators on whole tensors: reductions, what goes along an axis, normalizations, recurrences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tinyopt.ir import Array, Attribute, Value

if TYPE_CHECKING:
    from tests.kernel_cases import CaseBuilder


def _typed(build: CaseBuilder, dtype: str, *shape: int) -> tuple[Value, Array]:
    """Small numbers with both signs and many equal ones."""
    return build.variable(build.random.integers(-4, 5, shape).astype(dtype))


def reductions(build: CaseBuilder) -> None:
    """Every function over axes in one piece and in several, of every kind of number."""
    positive = build.variable(np.abs(build.floats(2, 3, 4, 5)) + np.float32(0.1))
    for axes, keepdims in (((1, 2), 0), ((0, 3), 1), ((), 1)):
        attributes: Mapping[str, Attribute] = {"axes": axes, "keepdims": keepdims}
        for op in ("Min", "Prod", "SumSquare", "L1", "L2", "LogSum", "LogSumExp"):
            build.add(f"Reduce{op}", f"axes {axes}", [positive], attributes)
    along: Mapping[str, Attribute] = {"axes": (1,), "keepdims": 1}
    for op in ("Mean", "Sum", "Max", "Min", "Prod", "SumSquare", "L1"):
        for dtype in ("int32", "int64", "float64"):
            build.add(f"Reduce{op}", dtype, [_typed(build, dtype, 3, 7, 2)], along)
    for op in ("L2", "LogSumExp"):
        build.add(f"Reduce{op}", "float64", [_typed(build, "float64", 3, 7, 2)], along)
    bits = build.variable(build.random.integers(0, 2, (4, 3)).astype(bool))
    build.add("ReduceMin", "bool", [bits], along)
    build.add("ReduceMax", "bool", [bits], along)
    build.add("ReduceMin", "uint8", [build.variable(build.int8(5, 9).view(np.uint8))], along)
    large = build.variable(np.array([[1e38, 9e37, -np.inf], [-np.inf, -np.inf, -np.inf], [np.inf, 0, 1]], np.float32))
    build.add("ReduceLogSumExp", "exponentials that overflow", [large], along)


def along_axis(build: CaseBuilder) -> None:
    """Lines that are the innermost dimension, or strided; equal elements."""
    for dtype in ("float32", "uint8", "int64"):
        x = build.variable(build.random.integers(0, 5, (2, 6, 3)).astype(dtype))
        for axis, select_last, keepdims in ((1, 0, 1), (2, 1, 0), (1, 1, 0)):
            attributes: Mapping[str, Attribute] = {"axis": axis, "select_last": select_last, "keepdims": keepdims}
            build.add("ArgMax", f"{dtype}, axis {axis}, last {select_last}", [x], attributes, dtype="int64")
            build.add("ArgMin", f"{dtype}, axis {axis}, last {select_last}", [x], attributes, dtype="int64")
        for axis, k, largest in ((1, 3, 1), (1, 6, 0), (2, 1, 0)):
            build.add("TopK", f"{dtype}, {k}", [x], {"axis": axis, "k": k, "largest": largest}, outputs=2)
    for dtype in ("float32", "int64"):
        for op in ("CumSum", "CumProd"):
            for exclusive, reverse in ((0, 0), (1, 0), (0, 1), (1, 1)):
                modes: Mapping[str, Attribute] = {"axis": 1, "exclusive": exclusive, "reverse": reverse}
                x = _typed(build, dtype, 2, 5, 3)
                build.add(op, f"{dtype}, exclusive {exclusive}, reverse {reverse}", [x], modes)
    for axis in (0, 1, 2):
        build.add("Hardmax", f"axis {axis}", [_typed(build, "float32", 3, 5, 2)], {"axis": axis})


_GATES: Mapping[str, tuple[int, str]] = {
    "LSTM": (4, "Sigmoid Tanh Tanh"),
    "GRU": (3, "Sigmoid Tanh"),
    "RNN": (1, "Tanh"),
}


def recurrences(build: CaseBuilder) -> None:
    """Both directions, short sequences, states given and not, every activation and variant."""
    for op, (gates, usual) in _GATES.items():
        _recurrence(build, op, gates, "plain", usual)
        _recurrence(build, op, gates, "backwards, short, clipped", usual, reverse=1, clip=0.5, is_full=True)
        _recurrence(build, op, gates, "short, variant", usual, is_full=True, input_forget=1, linear_before_reset=1)
    for name in ("Relu", "Softsign", "Softplus", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid"):
        _recurrence(build, "RNN", 1, name, name)
    _recurrence(build, "GRU", 3, "Elu", "HardSigmoid Elu", linear_before_reset=1)


def _recurrence(
    build: CaseBuilder,
    op: str,
    gates: int,
    title: str,
    activations: str,
    *,
    is_full: bool = False,
    **changed: Attribute,
) -> None:
    steps, batch, cells = 4, 3, 5
    count = len(activations.split())
    attributes: dict[str, Attribute] = {
        "reverse": 0, "clip": math.inf, "activations": activations, "alphas": (0.3,) * count, "betas": (0.6,) * count,
        **({"input_forget": 0} if op == "LSTM" else {"linear_before_reset": 0} if op == "GRU" else {}),
    }  # fmt: skip
    attributes |= {key: value for key, value in changed.items() if key in attributes}
    state = build.variable(build.floats(batch, cells))
    late = build.constant(build.floats(cells)) if attributes.get("linear_before_reset") else None
    own = {"LSTM": [state, build.constant(build.floats(3 * cells))], "GRU": [late]}
    lengths = build.variable(np.array([4, 2, 1], np.int32))
    inputs = [
        build.variable(build.floats(steps, batch, gates * cells)),
        build.constant(build.floats(cells, gates * cells) / np.float32(2)),
        *((state, lengths, *own.get(op, [])) if is_full else [None] * (2 + len(own.get(op, [])))),
    ]
    build.add(op, title, inputs, attributes, outputs=3 if op == "LSTM" else 2)


def normalizations(build: CaseBuilder) -> None:
    """Rows of one and of several dimensions, with and without scale, bias and statistics; LRN at both ends."""
    x, scale, bias = build.variable(build.floats(3, 4, 5)), build.constant(build.floats(4, 5)), build.floats(5)
    last, rows = build.constant(bias), build.variable(build.floats(4, 5))
    eps: Mapping[str, Attribute] = {"axis": 1, "epsilon": 0.01}
    build.add("LayerNormalization", "two dimensions, no bias", [x, scale, None], eps)
    build.add("LayerNormalization", "bias that is computed", [x, scale, rows], eps)
    build.add("LayerNormalization", "statistics", [x, last, last], {**eps, "axis": 2}, outputs=3)
    build.add("LayerNormalization", "neither scale nor bias", [x, None, None], {**eps, "axis": 0})
    build.add("RMSNormalization", "scaled", [x, scale], eps)
    build.add("RMSNormalization", "not scaled", [x, None], {**eps, "axis": 2})
    response: Mapping[str, Attribute] = {"alpha": 0.3, "beta": 0.6, "bias": 1.5}
    for size in (1, 2, 5):
        build.add("LRN", f"size {size}", [build.variable(build.floats(2, 4, 3, 2))], {**response, "size": size})


def products(build: CaseBuilder) -> None:
    """Products of whole numbers, which wrap around, with broadcast batches."""
    for dtype in ("int32", "uint32", "int64", "uint64", "float64"):
        a = build.random.integers(0, 2**31, (2, 1, 3, 5)).astype(dtype)
        b = build.random.integers(0, 2**31, (4, 5, 2)).astype(dtype)
        build.add("IntegerMatMul", dtype, [build.variable(a), build.variable(b)], {})
    rows = build.variable(build.random.integers(-(2**31), 2**31, (3, 5)).astype("int32"))
    for low, high in ((-128, 128), (0, 256), (-(2**15), 2**15), (-129, 2**16)):
        weights = np.append([low, high - 1], build.random.integers(low, high, 8)).astype("int32")
        build.add("IntegerMatMul", f"weights from {low}", [rows, build.constant(weights.reshape(5, 2))], {})


def many_dimensions(build: CaseBuilder) -> None:
    """Convolutions and pools of one to three dimensions: padded, strided, dilated, grouped, of integers."""
    box: dict[str, Attribute] = {"strides": (2, 1, 1), "pads": (1, 0, 1, 2, 1, 0), "dilations": (1, 2, 1)}
    x = build.variable(build.floats(2, 4, 5, 6, 4))
    w, b = build.variable(build.floats(6, 2, 3, 2, 2)), build.constant(build.floats(6))
    build.add("ConvNd", "3-D, grouped", [x, w, b], {**box, "group": 2})
    line: dict[str, Attribute] = {"strides": (1,), "pads": (2, 1), "dilations": (2,)}
    whole = [_typed(build, "int32", 1, 3, 9), _typed(build, "int32", 4, 3, 3), None]
    build.add("IntegerConvNd", "1-D", whole, {**line, "group": 1})
    narrow = build.constant(build.int8(4, 3, 3).astype(np.int32))
    build.add("IntegerConvNd", "weights of 8 bits", [whole[0], narrow, None], {**line, "group": 1})
    spread = [x, build.constant(build.floats(4, 3, 2, 3, 2)), b]
    extra: dict[str, Attribute] = {"group": 2, "output_padding": (1, 0, 0)}
    build.add("ConvTransposeNd", "3-D, grouped", spread, {**box, **extra})
    build.add("ConvTransposeNd", "no bias", [x, *spread[1:2], None], {**box, "group": 1, "output_padding": (0, 0, 0)})
    pool: dict[str, Attribute] = {**box, "kernel": (2, 2, 3), "storage_order": 0}
    equal = build.variable(build.random.integers(0, 3, (2, 3, 5, 6, 4)).astype(np.float32))
    build.add("MaxPoolNd", "3-D", [x], pool)
    build.add("MaxPoolNd", "places of equal elements", [equal], pool, outputs=2)
    build.add("MaxPoolNd", "places in column-major order", [equal], {**pool, "storage_order": 1}, outputs=2)
    build.add("MaxPoolNd", "uint8", [build.variable(build.int8(1, 2, 9).view(np.uint8))], {**line, "kernel": (2,),
              "storage_order": 1}, outputs=2)  # fmt: skip
    for p in (1, 2, 3):
        build.add("LpPoolNd", f"p = {p}", [x], {**pool, "p": p})
