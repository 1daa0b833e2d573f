"""Operators with attributes and inputs that make no sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper

from tools.broken.case import (
    OPSET,
    Case,
    Shape,
    changed,
    floats,
    ints,
    model_of,
    network,
    node,
    of_model,
    set_attribute,
    set_type,
    single,
)

_HUGE = 2**31
_KERNEL = np.ones((4, 3, 3, 3), np.float32)
_CONV: Mapping[str, Sequence[Any]] = {
    "strides": ([0, 0], [-1, 1], [1], [1, 1, 1], [_HUGE, 1], [2**62, 2**62], []),
    "pads": ([-1, -1, -1, -1], [1, 1, 1], [1] * 5, [_HUGE] * 4, [2**62] * 4, [30_000] * 4, [-9, 0, -9, 0]),
    "dilations": ([0, 0], [-1, -1], [1], [_HUGE, _HUGE], [100, 100]),
    "kernel_shape": ([3], [5, 5], [0, 0], [-3, 3], [_HUGE, 3], [3, 3, 3]),
    "group": (0, -1, 2, 3, 4, _HUGE, -(2**63)),
    "auto_pad": ("SAME", "nonsense", "", "SAME_UPPER\0"),
}
_POOL: Mapping[str, Sequence[Any]] = {
    "kernel_shape": ([2], [0, 0], [-2, 2], [_HUGE, _HUGE], [9, 9], [2, 2, 2], []),
    "strides": ([0, 0], [-1, 2], [2], [_HUGE, _HUGE]),
    "pads": ([2, 2, 2, 2], [-1, -1, -1, -1], [1], [_HUGE] * 4, [500] * 4),
    "dilations": ([0, 0], [_HUGE, 1], [-1, -1]),
    "auto_pad": ("VALIDD",),
}
_TYPES = {
    "string": "text",
    "float": 1.5,
    "floats": [1.0, 2.0],
    "strings": ["a", "b"],
    "tensor": helper.make_tensor("t", TensorProto.INT64, [2], [1, 1]),
    "int": 1,
}
_IMAGE: Shape = (1, 3, 8, 8)


def operator_cases() -> Iterator[Case]:
    """About 150 cases."""
    yield from _swept("Conv", _CONV, {"w": _KERNEL}, {})
    yield from _swept("MaxPool", _POOL, {}, {"kernel_shape": [2, 2]})
    yield from _swept("AveragePool", _POOL, {}, {"kernel_shape": [2, 2]})
    yield of_model("MaxPool-kernel_shape-missing", single("MaxPool", _IMAGE))
    for kind, value in _TYPES.items():
        yield of_model(f"Conv-pads-as-{kind}", single("Conv", _IMAGE, {"w": _KERNEL}, pads=value))
        if kind != "int":
            yield of_model(f"Softmax-axis-as-{kind}", single("Softmax", _IMAGE, axis=value))
    yield from _attributes()
    for name, (op, shape, constants, attributes, opset) in _SINGLES.items():
        yield of_model(f"{op}-{name}", single(op, shape, constants, opset=opset, **attributes))
    yield from _quantized()
    yield from _types()


def _swept(op: str, table: Mapping[str, Sequence[Any]], constants: Any, given: Mapping[str, Any]) -> Iterator[Case]:
    for attribute, values in table.items():
        for value in values:
            text = "x".join(map(str, value)) if isinstance(value, list) else str(value).replace("\0", "0")
            model = single(op, _IMAGE, constants, **{k: v for k, v in given.items() if k != attribute})
            made = (
                AttributeProto(name=attribute, type=AttributeProto.INTS)
                if value == []
                else helper.make_attribute(attribute, value)
            )
            model.graph.node[0].attribute.append(made)
            yield of_model(f"{op}-{attribute}-{text[:30]}", model)


def _attributes() -> Iterator[Case]:
    yield changed("attribute-twice", lambda m: m.graph.node[0].attribute.add().CopyFrom(m.graph.node[0].attribute[0]))
    yield changed("attribute-unknown", lambda m: set_attribute(m, 1, "frobnicate", 1))
    yield changed("attribute-of-another-operator", lambda m: set_attribute(m, 1, "kernel_shape", [3, 3]))
    yield changed("attribute-without-name", lambda m: set_attribute(m, 0, "", 1))
    yield changed("attribute-reference", lambda m: setattr(m.graph.node[0].attribute[0], "ref_attr_name", "outer"))
    for kind in (0, 1, 3, 4, 5, 6, 10, 11):
        model = network()
        set_type(model.graph.node[0].attribute[0], kind)
        yield of_model(f"attribute-says-type-{kind}", model)
    many = network()
    many.graph.node[0].attribute.extend([helper.make_attribute(f"a{i}", i) for i in range(5_000)])
    yield of_model("attributes-5000", many)
    for value in (np.nan, np.inf, -np.inf):
        yield of_model(f"LeakyRelu-alpha-{value}", single("LeakyRelu", (1, 4), alpha=float(value)))
        yield changed(f"Gemm-alpha-{value}", lambda m, v=value: set_attribute(m, 4, "alpha", float(v)))  # type: ignore[misc]
    for value in (-1.0, np.nan, np.inf):
        model = single("BatchNormalization", _IMAGE, _normalization(3, 1.0), epsilon=float(value))
        yield of_model(f"BatchNormalization-epsilon-{value}", model)


def _normalization(channels: int, variance: float) -> dict[str, Any]:
    ones = np.ones(channels, np.float32)
    return {"scale": ones, "bias": ones, "mean": ones, "variance": ones * np.float32(variance)}


_Single = tuple[str, Shape, Mapping[str, Any], Mapping[str, Any], int]


def _case(
    op: str, shape: Shape, constants: Mapping[str, Any] | None = None, opset: int = OPSET, **more: Any
) -> _Single:
    return op, shape, constants or {}, more, opset


_SINGLES: dict[str, _Single] = {
    "7x7": _case("Reshape", (1, 4), {"s": ints(7, 7)}),
    "two-open": _case("Reshape", (1, 4), {"s": ints(-1, -1)}),
    "minus-two": _case("Reshape", (1, 4), {"s": ints(-2, 2)}),
    "does-not-divide": _case("Reshape", (1, 4), {"s": ints(3, -1)}),
    "zero-and-open": _case("Reshape", (1, 4), {"s": ints(0, 0, 0, -1)}),
    "shape-of-floats": _case("Reshape", (1, 4), {"s": floats(2, 2)}),
    "shape-of-rank-2": _case("Reshape", (1, 4), {"s": np.array([[2, 2]])}),
    "overflow": _case("Reshape", (1, 4), {"s": ints(2**62, 4)}),
    "rank-1000": _case("Reshape", (1, 4), {"s": ints(4, *([1] * 1000))}),
    "perm-twice": _case("Transpose", (1, 2, 3), perm=[0, 0, 1]),
    "perm-short": _case("Transpose", (1, 2, 3), perm=[1, 0]),
    "perm-outside": _case("Transpose", (1, 2, 3), perm=[0, 1, 9]),
    "perm-negative": _case("Transpose", (1, 2, 3), perm=[0, 1, -1]),
    "axis-9": _case("Softmax", (1, 4), axis=9),
    "axis-minus-9": _case("Softmax", (1, 4), axis=-9),
    "axis-2-to-the-62": _case("Softmax", (1, 4), axis=2**62),
    "axis-outside": _case("Flatten", (1, 4), axis=5),
    "concat-axis-missing": _case("Concat", (1, 4), {"c": floats(1)}),
    "shapes-differ": _case("Concat", (1, 4), {"c": np.ones((2, 3), np.float32)}, axis=1),
    "shapes-contradict": _case("Add", (1, 4), {"c": floats(1, 2, 3)}),
    "of-another-type": _case("Add", (1, 4), {"c": np.ones(4, np.int32)}),
    "doubles": _case("Mul", (1, 4), {"c": np.ones(4, np.float64)}),
    "step-0": _case("Slice", (1, 4), {"s": ints(0), "e": ints(4), "a": ints(1), "t": ints(0)}),
    "axis-slice": _case("Slice", (1, 4), {"s": ints(0), "e": ints(4), "a": ints(7)}),
    "axis-twice": _case("Slice", (1, 4), {"s": ints(0, 0), "e": ints(4, 4), "a": ints(1, 1)}),
    "nothing-left": _case("Slice", (1, 4), {"s": ints(3), "e": ints(1), "a": ints(1)}),
    "lengths-differ": _case("Slice", (1, 4), {"s": ints(0, 0), "e": ints(4)}),
    "index-outside": _case("Gather", (1, 4), {"i": ints(9)}, axis=1),
    "index-negative": _case("Gather", (1, 4), {"i": ints(-9)}, axis=1),
    "index-float": _case("Gather", (1, 4), {"i": floats(1)}, axis=1),
    "gather-axis": _case("Gather", (1, 4), {"i": ints(0)}, axis=5),
    "scale-0": _case("Resize", _IMAGE, {"r": floats(), "s": floats(1, 1, 0, 0)}),
    "scale-negative": _case("Resize", _IMAGE, {"r": floats(), "s": floats(1, 1, -1, 2)}),
    "scale-infinite": _case("Resize", _IMAGE, {"r": floats(), "s": floats(1, 1, np.inf, 2)}),
    "scale-huge": _case("Resize", _IMAGE, {"r": floats(), "s": floats(1, 1, 1e9, 1e9)}),
    "scale-short": _case("Resize", _IMAGE, {"r": floats(), "s": floats(2, 2)}),
    "size-huge": _case("Resize", _IMAGE, {"r": floats(), "s": floats(), "z": ints(1, 3, 2**31, 2**31)}),
    "size-negative": _case("Resize", _IMAGE, {"r": floats(), "s": floats(), "z": ints(1, 3, -8, 8)}),
    "mode-unknown": _case("Resize", _IMAGE, {"r": floats(), "s": floats(1, 1, 2, 2)}, mode="lanczos"),
    "sum-wrong": _case("Split", (1, 4), {"s": ints(1, 1)}),
    "negative": _case("Split", (1, 4), {"s": ints(-1, 5)}, axis=1),
    "not-one": _case("Squeeze", (1, 4), {"a": ints(1)}),
    "squeeze-axis": _case("Squeeze", (1, 4), {"a": ints(7)}),
    "unsqueeze-axis": _case("Unsqueeze", (1, 4), {"a": ints(9)}),
    "unsqueeze-twice": _case("Unsqueeze", (1, 4), {"a": ints(0, 0)}),
    "reduce-axis": _case("ReduceMean", (1, 4), axes=[9]),
    "reduce-axis-twice": _case("ReduceMean", (1, 4), axes=[1, 1]),
    "variance-negative": _case("BatchNormalization", _IMAGE, _normalization(3, -1)),
    "lengths": _case("BatchNormalization", _IMAGE, _normalization(5, 1)),
    "pads-short": _case("Pad", _IMAGE, {"p": ints(1, 1)}),
    "pads-negative": _case("Pad", _IMAGE, {"p": ints(0, 0, -8, 0, 0, 0, -8, 0)}),
    "pads-huge": _case("Pad", _IMAGE, {"p": ints(0, 0, 2**40, 0, 0, 0, 0, 0)}),
    "pads-of-2-to-the-62": _case("Pad", _IMAGE, {"p": ints(0, 0, 1, 1, 0, 0, 1, 2**62 + 1)}),
    "pads-reflect": _case("Pad", _IMAGE, {"p": ints(0, 0, 50, 0, 0, 0, 50, 0)}, mode="reflect"),
    "pad-mode": _case("Pad", _IMAGE, {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, mode="zigzag"),
    "pads-of-a-gigabyte": _case("Pad", _IMAGE, {"p": ints(0, 0, 9000, 9000, 0, 0, 0, 0)}),
    "to-nothing": _case("Cast", (1, 4), to=999),
    "to-missing": _case("Cast", (1, 4)),
    "slope": _case("PRelu", _IMAGE, {"s": floats(1, 2)}),
    "inner-sizes": _case("MatMul", (1, 4), {"w": np.ones((5, 2), np.float32)}),
    "of-a-scalar": _case("MatMul", (1, 4), {"w": np.float32(2)}),
    "rank-3": _case("Gemm", (1, 4, 4), {"w": np.ones((4, 2), np.float32)}),
    "padding-above-stride": _case(
        "ConvTranspose", _IMAGE, {"w": np.ones((3, 2, 3, 3), np.float32)}, output_padding=[9, 9]
    ),
    "output-shape": _case(
        "ConvTranspose", _IMAGE, {"w": np.ones((3, 2, 3, 3), np.float32)}, output_shape=[2**31, 2**31]
    ),
    "stride-huge": _case("ConvTranspose", _IMAGE, {"w": np.ones((3, 2, 3, 3), np.float32)}, strides=[2**20, 2**20]),
    "group-5": _case("ConvTranspose", _IMAGE, {"w": np.ones((3, 2, 3, 3), np.float32)}, group=5),
    "blocksize-0": _case("DepthToSpace", (1, 4, 4, 4), blocksize=0),
    "blocksize-3": _case("DepthToSpace", (1, 4, 4, 4), blocksize=3),
    "size-0": _case("LRN", _IMAGE, size=0),
    "size-2-to-the-40": _case("LRN", _IMAGE, size=2**40),
    "low-above-high-nan": _case("Clip", (1, 4), {"l": np.float32(np.nan)}),
    "bounds-of-rank-1": _case("Clip", (1, 4), {"l": floats(0, 1), "h": floats(2, 3)}),
    "ratio": _case("Dropout", (1, 4), {"r": np.float32(0.5), "t": np.array(True)}),
    "hidden": _case("LSTM", (3, 1, 4), {"w": np.ones((1, 8, 4), np.float32)}, hidden_size=2**40),
    "equation": _case("Einsum", (1, 4), {"c": np.ones((4, 2), np.float32)}, equation="ij,jk,kl->il"),
    "equation-nonsense": _case("Einsum", (1, 4), equation="\x1b[31m"),
    "k-huge": _case("TopK", (1, 4), {"k": ints(2**40)}),
    "depth-negative": _case("OneHot", (1, 4), {"d": ints(-3), "v": floats(0, 1)}),
    "axes-of-layer": _case("LayerNormalization", (1, 4), {"s": floats(1, 2)}, axis=5),
    "groups-of-7": _case("GroupNormalization", _IMAGE, {"s": floats(1), "b": floats(1)}, opset=18, num_groups=7),
    "fmod-of-floats": _case("Mod", (1, 4), {"c": floats(0, 0, 0, 0)}),
    "where-shapes": _case("Expand", (1, 4), {"s": ints(3, 5)}),
    "expand-negative": _case("Expand", (1, 4), {"s": ints(-3, 4)}),
    "expand-activation": _case("Expand", (1, 1), {"s": ints(2**20, 2**20)}),
    "repeats-negative": _case("Tile", (1, 4), {"r": ints(1, -2)}),
    "repeats-huge": _case("Tile", (1, 4), {"r": ints(2**30, 2**30)}),
}


def _quantized() -> Iterator[Case]:
    """QuantizeLinear and DequantizeLinear with parameters that are none."""
    for name, scale, zero in (
        *(("scale-0", 0.0, 0), ("scale-nan", np.nan, 0), ("scale-negative", -0.1, 0), ("scale-infinite", np.inf, 0)),
        *(("scale-denormal", 1e-45, 0), ("scale-per-axis", (0.1, 0.2, 0.3), (0, 0, 0)), ("lengths", (0.1, 0.2), 0)),
    ):
        constants = {"s": np.array(scale, np.float32), "z": np.array(zero, np.int8)}
        nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
        accepted = "a scale is any positive number" if name == "scale-denormal" else ""
        yield of_model(f"quantized-{name}", model_of(nodes, {"x": (1, 4)}, constants), accepted)
    for kind in (np.int32, np.int64, np.float32, np.uint16, np.bool_):
        constants = {"s": np.float32(0.1), "z": np.array(1, kind)}
        nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
        yield of_model(f"quantized-zero-point-{kind.__name__}", model_of(nodes, {"x": (1, 4)}, constants))
    both = {"s": np.float32(0.1), "z": np.int8(0), "u": np.uint8(0)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s u", "y")]
    yield of_model("quantized-types-differ", model_of(nodes, {"x": (1, 4)}, both))
    bias = {"w": np.ones((4, 3, 3, 3), np.int8), "s": np.float32(0), "z": np.int8(0), "t": np.float32(1)}
    quantized = [
        node("QuantizeLinear", "x t z", "q"),
        node("QLinearConv", "q t z w s z t z", "r"),
        node("DequantizeLinear", "r t z", "y"),
    ]
    yield of_model("quantized-conv-scale-0", model_of(quantized, {"x": _IMAGE}, bias))
    nodes = [node("QuantizeLinear", "x s z", "q", axis=7), node("DequantizeLinear", "q s z", "y", axis=7)]
    per_axis = {"s": floats(0.1, 0.2, 0.3, 0.4), "z": np.zeros(4, np.int8)}
    yield of_model("quantized-axis-7", model_of(nodes, {"x": (1, 4)}, per_axis))


def _types() -> Iterator[Case]:
    """Operators on types that they do not take."""
    for op in ("Conv", "MaxPool", "Sigmoid", "Softmax", "BatchNormalization"):
        constants: dict[str, Any] = {"Conv": {"w": _KERNEL}, "BatchNormalization": _normalization(3, 1)}.get(op, {})
        attributes: dict[str, Any] = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
        model = single(op, _IMAGE, constants, **attributes)
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
        accepted = "ONNX has no MaxPool of int32, but what it would give is clear" if op == "MaxPool" else ""
        yield of_model(f"{op}-on-int32", model, accepted)
    strings = single("Relu", (1, 4))
    strings.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    yield of_model("Relu-on-strings", strings)
    for op in ("SequenceConstruct", "OptionalHasElement", "StringNormalizer", "Loop"):
        yield of_model(f"{op}-on-floats", single(op, (1, 4)))
