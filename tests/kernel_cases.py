"""Small nodes of every operator, with random inputs: what each kernel is tried on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests import tensor_cases
from tinyopt.ir import DTYPES, Array, Attribute, Clusters, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.ops.pointwise import FUNCTIONS

UNCLAMPED: Mapping[str, Attribute] = {"clamp_low": -math.inf, "clamp_high": math.inf}
WINDOW: Mapping[str, Attribute] = {
    "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, "layout": "NHWC",
}  # fmt: skip
ROUNDING: Mapping[str, Attribute] = {"shift": 32, "low": -128, "high": 127}
X = Quantization.per_tensor(0.1, 5)
Y = Quantization.per_tensor(0.2, -7)


@dataclass(frozen=True)
class Case:
    """A node, and an array for each of its inputs (None where absent)."""

    title: str
    node: Node
    arrays: tuple[Array | None, ...]

    @property
    def id(self) -> str:
        return f"{self.node.op}: {self.title}"


class CaseBuilder:
    """Makes the cases; the random numbers are the same in every run."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)
        self.cases: list[Case] = []

    def floats(self, *shape: int) -> Array:
        return self.random.normal(size=shape).astype(np.float32)

    def int8(self, *shape: int) -> Array:
        return self.random.integers(-128, 128, shape).astype(np.int8)

    def int32(self, low: int, high: int, *shape: int) -> Array:
        return self.random.integers(low, high, shape).astype(np.int32)

    def variable(self, array: Array, quantization: Quantization | None = None) -> tuple[Value, Array]:
        return Value("v", TensorType.of(array), quantization=quantization), array

    def constant(self, array: Array, quantization: Quantization | None = None) -> tuple[Value, Array]:
        return Value.of("c", array, quantization), array

    def weights(self, *shape: int) -> tuple[Value, Array]:
        """Symmetric int8 weights, one scale for each of the first dimension."""
        levels = self.random.integers(-127, 128, shape).astype(np.int8)
        return self.constant(levels, Quantization.per_channel([0.01] * shape[0], [0] * shape[0], 0))

    def clustered(self, count: int, *shape: int) -> tuple[Value, Array]:
        """The same with `count` different values."""
        indices = self.random.integers(0, count, shape).astype(np.uint8)
        codebook = np.sort(self.random.choice(np.arange(-127, 128), count, replace=False)).astype(np.int8)
        clusters = Clusters(indices, codebook, np.full(shape[0], 0.01, np.float32))
        value, array = self.constant(clusters.integers(), Quantization.per_channel(clusters.scale, [0] * shape[0], 0))
        value.clusters = clusters
        return value, array

    def add(
        self,
        op: str,
        title: str,
        inputs: Sequence[tuple[Value, Array] | None],
        attributes: Mapping[str, Attribute],
        quantization: Quantization | None = None,
        outputs: int = 1,
        dtype: str | None = None,
    ) -> None:
        values = [None if pair is None else pair[0] for pair in inputs]
        first = values[0]
        assert first is not None
        made = [Value(f"y{i}", TensorType(dtype or first.dtype, ()), None, quantization) for i in range(outputs)]
        node = Node(op, "node", values, made, dict(attributes))
        for value, inferred in zip(made, OPERATORS[op].infer(node), strict=True):
            value.type = inferred
        self.cases.append(Case(title, node, tuple(None if pair is None else pair[1] for pair in inputs)))


def all_cases() -> list[Case]:
    """Every case of every operator."""
    build = CaseBuilder()
    for family in _FAMILIES:
        family(build)
    return build.cases


def _float_convolutions(build: CaseBuilder) -> None:
    image = build.variable(build.floats(1, 7, 6, 4))

    def conv(title: str, weights: tuple[int, ...], bias: bool, residual: bool, **changed: Attribute) -> None:
        attributes = {**WINDOW, **UNCLAMPED, **changed}
        inputs = [image, build.constant(build.floats(*weights))]
        inputs.append(build.constant(build.floats(weights[0])) if bias else None)  # type: ignore[arg-type]
        inputs.append(None)  # type: ignore[arg-type]
        build.add("Conv", title, inputs, attributes)
        if residual:
            shape = build.cases[-1].node.output.shape
            build.cases.pop()
            build.add("Conv", title, [*inputs[:3], build.variable(build.floats(*shape))], attributes)

    conv("padded, strided, clamped", (6, 3, 3, 4), True, False, pads=(1, 1, 1, 1), strides=(2, 1), clamp_low=0.0)
    conv("grouped, dilated, residual", (8, 3, 2, 2), False, True, pads=(1, 1, 2, 1), dilations=(2, 2), group=2)
    conv("depthwise, clamped on both sides", (8, 3, 3, 1), True, False, pads=(0, 2, 1, 0), group=4, clamp_low=-0.3,
         clamp_high=0.7)  # fmt: skip
    conv("three channels for each input, clamped", (12, 1, 1, 1), True, False, group=4, clamp_low=0.0)
    conv("pointwise", (5, 1, 1, 4), True, True)
    conv("cropping pads", (2, 3, 3, 4), True, False, pads=(-1, 0, 0, -2))
    variants: Mapping[str, Mapping[str, Attribute]] = {
        "strided, output padding": {"strides": (2, 3), "output_padding": (1, 2), "pads": (1, 0, 1, 1)},
        "dilated, grouped": {"dilations": (2, 1), "group": 2, "pads": (2, 1, 0, 1)},
    }
    for title, changed in variants.items():
        weights = build.constant(build.floats(4, 3, 2, 3))
        channels = 6 if changed.get("group") else 3
        bias = build.constant(build.floats(channels)) if channels == 3 else None
        build.add(
            "ConvTranspose", title, [image, weights, bias], {**WINDOW, "output_padding": (0, 0), **UNCLAMPED, **changed}
        )


def _integer_convolutions(build: CaseBuilder) -> None:
    image = build.variable(build.int8(1, 6, 5, 4), X)
    plain: Mapping[str, Attribute] = {**WINDOW, **ROUNDING, "residual_multiplier": 0}

    def conv(title: str, weights: tuple[Value, Array], residual: bool = False, **changed: Attribute) -> None:
        channels = weights[0].shape[0]
        inputs = [
            image,
            weights,
            build.constant(build.int32(-5000, 5000, channels)),
            build.constant(build.int32(1 << 18, 1 << 24, channels)),
            None,
        ]
        build.add("QConv", title, inputs, {**plain, **changed}, Y)
        if residual:
            shape = build.cases.pop().node.output.shape
            inputs[4] = build.variable(build.int8(*shape), Quantization.per_tensor(0.3, 11))
            build.add("QConv", title, inputs, {**plain, **changed}, Y)

    conv("padded", build.weights(6, 3, 3, 4), pads=(1, 1, 1, 1))
    conv("pointwise, residual", build.weights(7, 1, 1, 4), True, residual_multiplier=1 << 29, low=-7)
    conv("depthwise, strided", build.weights(4, 3, 3, 1), pads=(0, 1, 1, 0), group=4, strides=(2, 2), high=90)
    conv("grouped, dilated", build.weights(4, 2, 2, 2), pads=(1, 1, 1, 1), group=2, dilations=(2, 2))
    conv("short shift", build.weights(3, 2, 2, 4), shift=20, low=-100, high=100)
    conv("depth multiplier 2, residual", build.weights(8, 3, 1, 1), True, pads=(1, 0, 1, 0), group=4,
         residual_multiplier=12345678)  # fmt: skip
    for count in (2, 4, 7, 16, 23, 60):
        conv(f"{count} clusters", build.clustered(count, 8, 3, 3, 4), count == 7, pads=(1, 0, 1, 0))
    conv("5 clusters, depthwise", build.clustered(5, 4, 3, 3, 1), group=4, pads=(1, 1, 1, 1))
    variants: Mapping[str, Mapping[str, Attribute]] = {
        "strided": {"strides": (2, 2), "output_padding": (1, 0), "pads": (0, 1, 1, 1)},
        "grouped, dilated": {"group": 2, "dilations": (1, 2), "strides": (1, 2)},
    }
    for title, changed in variants.items():
        channels = 6 if changed.get("group") else 3
        inputs = [
            image,
            build.weights(4, 3, 2, 3),
            build.constant(build.int32(-5000, 5000, channels)),
            build.constant(build.int32(1 << 18, 1 << 25, channels)),
        ]
        build.add("QConvTranspose", title, inputs, {**plain, "output_padding": (0, 0), **changed}, Y)


def integer_dense(
    build: CaseBuilder, title: str, rows: tuple[int, ...], weights: tuple[Value, Array], residual: bool
) -> None:
    """A QDense of vectors of shape `rows`."""
    outputs, depth = weights[0].shape
    beside = build.variable(build.int8(*rows, outputs), Quantization.per_tensor(0.3, 11))
    inputs = [
        build.variable(build.int8(*rows, depth), X),
        weights,
        build.constant(build.int32(-5000, 5000, outputs)),
        build.constant(build.int32(1 << 18, 1 << 25, outputs)),
        beside if residual else None,
    ]
    build.add("QDense", title, inputs, {**ROUNDING, "residual_multiplier": -(1 << 28)}, Y)


def _integer_dense(build: CaseBuilder) -> None:
    integer_dense(build, "one vector", (1,), build.weights(5, 13), residual=False)
    integer_dense(build, "several vectors, residual", (2, 3), build.weights(4, 9), residual=True)
    integer_dense(build, "no batch dimension", (), build.weights(4, 9), residual=False)
    for count in (2, 4, 7, 16, 23, 60):
        integer_dense(build, f"{count} clusters", (1,), build.clustered(count, 9, 43), residual=count == 4)
    integer_dense(build, "6 clusters, several vectors", (4,), build.clustered(6, 5, 19), residual=False)


def _products(build: CaseBuilder) -> None:
    wide, bias = build.constant(build.floats(5, 9)), build.constant(build.floats(5))
    build.add("Dense", "bias", [build.variable(build.floats(1, 9)), wide, bias, None], {**UNCLAMPED, "clamp_low": 0.0})
    residual = build.variable(build.floats(2, 3, 5))
    build.add("Dense", "residual", [build.variable(build.floats(2, 3, 9)), wide, None, residual], UNCLAMPED)
    shapes = {
        "plain": ((4, 5), (5, 3)),
        "batched": ((2, 1, 4, 5), (3, 5, 2)),
        "vector times matrix": ((5,), (2, 5, 3)),
        "matrix times vector": ((2, 4, 5), (5,)),
        "two vectors": ((5,), (5,)),
    }
    for title, (a, b) in shapes.items():
        build.add("MatMul", title, [build.variable(build.floats(*a)), build.variable(build.floats(*b))], {})
    for title, (a, b) in {"plain": ((4, 5), (5, 3)), "batched": ((2, 1, 4, 5), (3, 5, 2))}.items():
        inputs = [build.variable(build.int8(*a), X), build.variable(build.int8(*b), Y)]
        build.add("QMatMul", title, inputs, {**ROUNDING, "multiplier": 1 << 23}, Y)


def _pools(build: CaseBuilder) -> None:
    shape = (1, 7, 6, 3)
    float_image, image = build.variable(build.floats(*shape)), build.variable(build.int8(*shape), X)
    whole = build.variable(build.int32(-1000, 1000, *shape))
    windows: Mapping[str, Mapping[str, Attribute]] = {
        "plain": {**WINDOW, "kernel": (2, 3)},
        "padded, strided": {**WINDOW, "kernel": (3, 3), "pads": (1, 1, 1, 2), "strides": (2, 2)},
        "padded, dilated": {**WINDOW, "kernel": (2, 2), "pads": (1, 0, 1, 1), "dilations": (2, 3)},
        "global": {**WINDOW, "kernel": (7, 6)},
    }
    for title, window in windows.items():
        build.add("MaxPool", f"{title}, int8", [image], window, X)
        build.add("MaxPool", f"{title}, int32", [whole], window)
        build.add("MaxPool", f"{title}, float32", [float_image], window)
        build.add("AveragePool", title, [float_image], {**window, **UNCLAMPED, "counted_pads": (0, 0, 0, 0)})
        counted = {**window, **UNCLAMPED, "counted_pads": window["pads"], "clamp_low": -0.1}
        build.add("AveragePool", f"{title}, pads counted", [float_image], counted)
        positions = math.prod(build.cases[-1].node.output.shape[1:3])
        for size in (1, positions):
            multiplier = build.constant(build.int32(1 << 28, 1 << 29, size))
            attributes = {**window, **ROUNDING}
            build.add("QAveragePool", f"{title}, {size} multipliers", [image, multiplier], attributes, Y)


def _elementwise(build: CaseBuilder) -> None:
    shapes = {
        "same": ((2, 3, 4), (2, 3, 4)),
        "channels": ((2, 3, 4), (4,)),
        "scalar": ((2, 3, 4), ()),
        "both": ((2, 1, 4), (3, 1)),
        "outer": ((3, 4), (2, 3, 4)),
        "middle": ((2, 3, 4), (1, 3, 1)),
    }
    for title, (a, b) in shapes.items():
        pair = [build.variable(build.floats(*a)), build.variable(build.floats(*b))]
        clamped: Mapping[str, Attribute] = {"clamp_low": -0.333, "clamp_high": 6.0}
        for op in ("Add", "Sub", "Mul", "Div"):
            build.add(op, title, pair, UNCLAMPED if title == "same" else clamped)
        quantized = [build.variable(build.int8(*a), X), build.variable(build.int8(*b), Y)]
        for shift, size in ((20, 19), (30, 21), (31, 21)):
            multipliers: Mapping[str, Attribute] = {
                "multiplier_a": (1 << size) - 7, "multiplier_b": -(1 << size - 1) + 3, "shift": shift,
            }  # fmt: skip
            build.add("QAdd", f"{title}, shift {shift}", quantized, {**ROUNDING, **multipliers}, X)
        build.add("QMul", title, quantized, {**ROUNDING, "multiplier": 12345678, "low": -9}, X)
        if title in ("same", "channels", "scalar", "middle"):
            build.add("PRelu", title, [pair[0], build.constant(build.floats(*b))], {})
            slopes = build.constant(build.int32(-(1 << 30), 1 << 30, *b))
            build.add("QPRelu", title, [quantized[0], slopes], {**ROUNDING, "multiplier": 1 << 30}, Y)
    table = build.constant(build.int8(256))
    build.add("QLookup", "all levels", [build.variable(np.arange(-128, 128, dtype=np.int8), X), table], {}, Y)


def _functions(build: CaseBuilder) -> None:
    x = build.variable(np.concatenate([build.floats(40) * 5, np.array([0, -1, 88, -88], np.float32)]))
    for op in ("Relu", "Sigmoid", "Tanh", "HardSwish"):
        build.add(op, "many values", [x], {})
    build.add("Clip", "both bounds", [x], {"low": -0.3, "high": 1.7})
    build.add("Clip", "one bound", [x], {"low": -math.inf, "high": 1.7})
    build.add("LeakyRelu", "alpha", [x], {"alpha": 0.01})
    build.add("HardSigmoid", "alpha and beta", [x], {"alpha": 0.21, "beta": 0.47})
    build.add("Gelu", "erf", [x], {"approximate": "none"})
    build.add("Gelu", "tanh", [x], {"approximate": "tanh"})
    image = build.variable(build.floats(2, 3, 4))
    for axis in (0, 1, 2):
        size = image[0].shape[axis]
        statistics = [build.constant(build.floats(size)) for _ in range(3)]
        variance = build.constant(np.abs(build.floats(size)))
        attributes: Mapping[str, Attribute] = {"epsilon": 1e-3, "axis": axis}
        build.add("BatchNormalization", f"axis {axis}", [image, *statistics, variance], attributes)
        build.add("Softmax", f"axis {axis}", [image], {"axis": axis})
        build.add("LogSoftmax", f"axis {axis}", [image], {"axis": axis})
    exponentials = np.rint(np.exp(-np.arange(256) * 0.05) * (1 << 20)).astype(np.int32)
    for title, shape, axis in (("last axis", (2, 10), 1), ("first axis", (7, 3), 0), ("long", (1, 3000), 1)):
        logits = build.variable(build.int8(*shape), X)
        probability = Quantization.per_tensor(1 / 256, -128)
        inputs = [logits, build.constant(exponentials)]
        build.add("QSoftmax", title, inputs, {"axis": axis, "ratio": 256}, probability)


_POINTWISE_ATTRIBUTES: Mapping[str, Mapping[str, Attribute]] = {
    "Elu": {"alpha": 1.3},
    "Selu": {"alpha": 1.67, "gamma": 1.05},
    "Celu": {"alpha": 0.7},
    "Shrink": {"bias": 0.2, "threshold": 0.5},
    "ThresholdedRelu": {"alpha": 0.3},
    "IsInf": {"positive": 1, "negative": 0},
    "Mod": {"fmod": 0},
    "BitShift": {"direction": "LEFT"},
}


_SAMPLED_DTYPES = ("float32", "bool", "int8", "uint32", "int64")


def _samples(build: CaseBuilder, dtype: str, *shape: int) -> Array:
    """Numbers of all sizes, zero, the extremes and, of floats, what is no finite number."""
    count = math.prod(shape)
    if dtype == "bool":
        return build.random.integers(0, 2, shape).astype(bool)
    if dtype.startswith("float"):
        special = [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 300.7, -300.7, 3e9, -3e9, 1e20, np.inf, -np.inf, np.nan]
        array = np.concatenate([special, build.random.normal(size=count) * 2])[:count].astype(dtype)
    else:
        limits = np.iinfo(dtype)
        special_integers = np.array([0, 1, limits.max, limits.min, 3, 7, limits.max - 1, limits.min + 1], dtype)
        array = np.concatenate([special_integers, build.random.integers(0, 100, count).astype(dtype)])[:count]
    return build.random.permutation(array).reshape(shape)


def _pointwise(build: CaseBuilder) -> None:
    for function in FUNCTIONS:
        attributes = _POINTWISE_ATTRIBUTES.get(function.name, {})
        for dtype in [dtype for dtype in _SAMPLED_DTYPES if dtype in function.takes]:
            several: tuple[tuple[int, ...], ...] = ((5, 1, 7), (4, 7), (5, 4, 1))
            shapes = ((40,),) if function.operands == 1 else several[: function.operands]
            operands = [build.variable(_samples(build, dtype, *shape)) for shape in shapes]
            if function.name == "Where":
                operands[0] = build.variable(_samples(build, "bool", *shapes[0]))
            build.add(function.name, dtype, operands, attributes, dtype=dtype)
    for dtype in ("float32", "int32"):
        operands = [build.variable(_samples(build, dtype, 40)) for _ in range(2)]
        build.add("Mod", f"fmod, {dtype}", operands, {"fmod": 1})
    for dtype in ("uint32", "int32", "int8"):
        pair = [build.variable(_samples(build, dtype, 40)) for _ in range(2)]
        build.add("BitShift", f"right, {dtype}", pair, {"direction": "RIGHT"})
    plain = [dtype for dtype in DTYPES if dtype != "float16"]
    pairs = {(source, plain[(i + j) % len(plain)]) for j in (1, 5) for i, source in enumerate(plain)}
    for source, to in sorted({*pairs, ("float64", "int64"), ("float32", "bool"), ("float32", "uint64")}):
        build.add("Cast", f"{source} to {to}", [build.variable(_samples(build, source, 40))], {}, dtype=to)


def _movers(build: CaseBuilder) -> None:
    def both(
        op: str, title: str, shape: tuple[int, ...], attributes: Mapping[str, Attribute], outputs: int = 1
    ) -> None:
        build.add(op, f"{title}, float32", [build.variable(build.floats(*shape))], attributes, outputs=outputs)
        build.add(op, f"{title}, int8", [build.variable(build.int8(*shape), X)], attributes, X, outputs)

    for perm in ((0, 2, 3, 1), (3, 2, 1, 0), (0, 1, 2, 3), (1, 0, 3, 2)):
        both("Transpose", f"{perm}", (2, 3, 4, 5), {"perm": perm})
    for axis in (0, 1, 2):
        both("Split", f"axis {axis}", (3, 3, 3), {"axis": axis, "sizes": (1, 2)}, outputs=2)
        parts = [build.variable(build.int8(*(size if i == axis else 3 for i in range(3))), X) for size in (1, 4, 2)]
        build.add("Concat", f"axis {axis}, int8", parts, {"axis": axis}, X)
    build.add("Concat", "float32", [build.variable(build.floats(2, n)) for n in (3, 1)], {"axis": 1})
    build.add("Transpose", "int32", [build.variable(build.int32(-9, 9, 3, 4))], {"perm": (1, 0)})
    both("Slice", "steps", (5, 6, 7), {"starts": (4, 0, 1), "steps": (-2, 1, 3), "sizes": (3, 6, 2)})
    both("Slice", "channels", (2, 3, 8), {"starts": (0, 0, 2), "steps": (1, 1, 1), "sizes": (2, 3, 4)})
    for mode in ("constant", "reflect", "edge", "wrap"):
        both("Pad", mode, (1, 3, 4, 2), {"pads": (0, 1, 2, 0, 0, 2, 0, 1), "mode": mode, "value": -3.0})
    for axis, indices in ((0, np.array([[2, 0], [1, 1]])), (1, np.array(3)), (2, np.array([1]))):
        chosen = build.constant(indices.astype(np.int64))
        build.add("Gather", f"axis {axis}", [build.variable(build.floats(3, 4, 2)), chosen], {"axis": axis})
    for shape, wide in (((3, 1, 2), (3, 4, 2)), ((4,), (2, 3, 4)), ((), (2, 3)), ((1, 3, 1), (2, 3, 5))):
        both("Expand", f"{shape} to {wide}", shape, {"shape": wide})
    build.add("Gather", "int8", [build.variable(build.int8(5, 4), X), build.constant(np.array([4, 0]))], {"axis": 0}, X)


def _resizes(build: CaseBuilder) -> None:
    shape, sizes = (1, 3, 4, 2), (1, 6, 5, 2)
    scales = tuple(size / old for size, old in zip(sizes, shape, strict=True))
    for coordinate in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        attributes: Mapping[str, Attribute] = {
            "scales": scales, "sizes": sizes, "coordinate_mode": coordinate, "nearest_mode": "round_prefer_floor",
        }  # fmt: skip
        image = build.variable(build.floats(*shape))
        build.add("Resize", f"linear, {coordinate}", [image], {**attributes, "mode": "linear"})
        levels = build.variable(build.int8(*shape), X)
        build.add("Resize", f"nearest, {coordinate}", [levels], {**attributes, "mode": "nearest"}, X)
    same: Mapping[str, Attribute] = {
        "scales": (1.0,) * 4, "sizes": shape, "coordinate_mode": "half_pixel", "nearest_mode": "floor",
    }  # fmt: skip
    for mode in ("linear", "nearest"):
        build.add("Resize", f"{mode}, same size", [build.variable(build.floats(*shape))], {**same, "mode": mode})


def _reductions(build: CaseBuilder) -> None:
    for axes in ((0,), (1, 2), (0, 2), (0, 1, 2, 3), (3,)):
        for keepdims in (0, 1):
            attributes: Mapping[str, Attribute] = {"axes": axes, "keepdims": keepdims}
            x = build.variable(build.floats(2, 3, 4, 5))
            for op in ("ReduceMean", "ReduceSum", "ReduceMax"):
                build.add(op, f"{axes} keepdims {keepdims}", [x], attributes)
            levels = build.variable(build.int8(2, 3, 4, 5), X)
            build.add("ReduceMax", f"{axes} keepdims {keepdims}, int8", [levels], attributes, X)
            build.add(
                "QReduceSum",
                f"{axes} keepdims {keepdims}",
                [levels],
                {**attributes, **ROUNDING, "multiplier": 1 << 28},
                Y,
            )


def _quantizers(build: CaseBuilder) -> None:
    ties = (np.arange(-400, 400, dtype=np.float32) + 0.5) * np.float32(0.25)
    values = np.concatenate([ties, build.floats(200) * 30, np.array([1e30, -1e30, np.inf, -np.inf, 0], np.float32)])
    for title, scale, zero_point in (("ties", 0.25, -3), ("odd scale", 0.0039215688, 127), ("low zero", 0.1, -128)):
        parameters = Quantization.per_tensor(scale, zero_point)
        build.add("QuantizeLinear", title, [build.variable(values)], {}, parameters, dtype="int8")
    per_channel = Quantization.per_channel([0.1, 0.03, 0.7], [0, 5, -9], 1)
    build.add("QuantizeLinear", "per channel", [build.variable(build.floats(2, 3, 4))], {}, per_channel, dtype="int8")
    build.add("DequantizeLinear", "int8", [build.variable(build.int8(3, 50), X)], {}, dtype="float32")
    build.add(
        "DequantizeLinear", "per channel", [build.variable(build.int8(2, 3, 4), per_channel)], {}, dtype="float32"
    )
    whole = build.int32(-(2**31), 2**31 - 1, 3, 9)
    build.add(
        "DequantizeLinear", "int32", [build.variable(whole, Quantization.per_tensor(1e-5, 3))], {}, dtype="float32"
    )
    levels = np.arange(256, dtype=np.uint8)
    build.add("FlipSign", "from uint8", [build.variable(levels)], {}, dtype="int8")
    build.add("FlipSign", "from int8", [build.variable(levels.view(np.int8))], {}, dtype="uint8")


def _int16(build: CaseBuilder) -> None:
    """What is not computed from multipliers: the way to and from floats, and operators that move or select."""
    parameters = Quantization.per_tensor(3e-5, 0)
    halves = (np.arange(-70, 70, dtype=np.float32) + 0.5) * 0.25
    values = np.concatenate([halves, build.floats(300), np.array([1e30, -1e30, np.inf, -np.inf, 0], np.float32)])
    for title, quantization in (("ties, int16", Quantization.per_tensor(0.25, 0)), ("random, int16", parameters)):
        build.add("QuantizeLinear", title, [build.variable(values)], {}, quantization, dtype="int16")

    def levels(*shape: int) -> tuple[Value, Array]:
        return build.variable(build.random.integers(-(2**15), 2**15, shape).astype(np.int16), parameters)

    build.add("DequantizeLinear", "int16", [levels(3, 50)], {}, dtype="float32")
    window = {**WINDOW, "kernel": (3, 2), "pads": (1, 0, 2, 1), "strides": (2, 1)}
    build.add("MaxPool", "padded, int16", [levels(1, 7, 6, 3)], window, parameters)
    build.add("ReduceMax", "int16", [levels(2, 3, 4)], {"axes": (1,), "keepdims": 0}, parameters)
    build.add("Concat", "int16", [levels(2, 3), levels(2, 1)], {"axis": 1}, parameters)
    pad: Mapping[str, Attribute] = {"pads": (0, 1, 2, 0), "mode": "constant", "value": -3000}
    build.add("Pad", "int16", [levels(3, 4)], pad, parameters)
    build.add("Slice", "int16", [levels(5, 6)], {"starts": (4, 0), "steps": (-2, 1), "sizes": (3, 4)}, parameters)
    build.add("Transpose", "int16", [levels(5, 6)], {"perm": (1, 0)}, parameters)


_FAMILIES: tuple[Callable[[CaseBuilder], None], ...] = (
    _float_convolutions,
    _integer_convolutions,
    _integer_dense,
    _products,
    _pools,
    _elementwise,
    _functions,
    _pointwise,
    _movers,
    _resizes,
    _reductions,
    tensor_cases.reductions,
    tensor_cases.along_axis,
    tensor_cases.recurrences,
    tensor_cases.normalizations,
    tensor_cases.many_dimensions,
    tensor_cases.products,
    _quantizers,
    _int16,
)
