"""Quantized operators whose scales, zero points and sizes are none, and numbers that their types cannot hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from tools.broken.case import Case, changed, floats, initializer, model_of, node, of_model

_SCALES = {"zero": 0.0, "negative": -0.5, "nan": np.nan, "infinite": np.inf}
_MICROSOFT = "com.microsoft"


def integer_cases() -> Iterator[Case]:
    """About 90 cases."""
    yield from _scales()
    yield from _operators()
    yield from _typed()
    yield from _blocks()


def _quantized(nodes: list[NodeProto], constants: Mapping[str, Any]) -> ModelProto:
    """q is x in int8 with scale t and zero point z, r is what `nodes` make of it."""
    first = node("QuantizeLinear", "x t z", "q", name="first")
    last = node("DequantizeLinear", "r t z", "y", name="last")
    known = {"t": np.float32(0.1), "z": np.int8(0), "s": np.float32(0.1)}
    return model_of([first, *nodes, last], {"x": (1, 4, 6, 6)}, {**known, **constants})


def _layers() -> dict[str, tuple[NodeProto, dict[str, Any]]]:
    """Layers of which each reads a scale s."""
    kernel, matrix = np.ones((4, 4, 3, 3), np.int8), np.ones((6, 6), np.int8)
    return {
        "QLinearConv-input": (node("QLinearConv", "q s z w t z t z", "r"), {"w": kernel}),
        "QLinearConv-weights": (node("QLinearConv", "q t z w s z t z", "r"), {"w": kernel}),
        "QLinearConv-output": (node("QLinearConv", "q t z w t z s z", "r"), {"w": kernel}),
        "QLinearMatMul": (node("QLinearMatMul", "q t z w s z t z", "r"), {"w": matrix}),
        "QLinearAdd": (node("QLinearAdd", "q s z q t z t z", "r", domain=_MICROSOFT), {}),
        "QLinearMul": (node("QLinearMul", "q t z q t z s z", "r", domain=_MICROSOFT), {}),
        "QLinearGlobalAveragePool": (node("QLinearGlobalAveragePool", "q s z t z", "r", domain=_MICROSOFT), {}),
        "QLinearSigmoid": (node("QLinearSigmoid", "q t z s z", "r", domain=_MICROSOFT), {}),
        "QLinearLeakyRelu": (node("QLinearLeakyRelu", "q s z t z", "r", domain=_MICROSOFT), {}),
    }


def _scales() -> Iterator[Case]:
    for name, scale in _SCALES.items():
        for layer, (made, constants) in _layers().items():
            model = _quantized([made], {**constants, "s": np.float32(scale)})
            yield of_model(f"integer-{layer}-scale-{name}", model)
        per_channel = np.array([0.1, 0.1, 0.1, scale], np.float32)
        weights = {"w": np.ones((4, 4, 3, 3), np.int8), "s": per_channel, "k": np.zeros(4, np.int8)}
        nodes = [
            node("DequantizeLinear", "q t z", "d", name="d"),
            node("DequantizeLinear", "w s k", "v", name="v", axis=0),
            node("Conv", "d v", "c"),
            node("QuantizeLinear", "c t z", "r", name="r"),
        ]
        yield of_model(f"integer-weights-per-channel-{name}", _quantized(nodes, weights))


def _operators() -> Iterator[Case]:
    kernel = np.ones((4, 4, 3, 3), np.int8)
    conv = "q t z w s k t z b"
    changes: dict[str, dict[str, Any]] = {
        "weights-of-floats": {"w": kernel.astype(np.float32)},
        "weights-of-int32": {"w": kernel.astype(np.int32)},
        "weights-of-wrong-channels": {"w": kernel[:, :3]},
        "weights-of-rank-3": {"w": kernel[0]},
        "scales-too-few": {"s": floats(0.1, 0.1, 0.1), "k": np.zeros(3, np.int8)},
        "scales-of-rank-2": {"s": np.full((2, 2), 0.1, np.float32)},
        "scales-of-int8": {"s": np.ones(4, np.int8)},
        "zero-points-too-few": {"s": np.full(4, 0.1, np.float32), "k": np.zeros(3, np.int8)},
        "zero-point-of-floats": {"k": np.float32(0)},
        "zero-point-of-int32": {"k": np.int32(0)},
        "bias-of-floats": {"b": np.zeros(4, np.float32)},
        "bias-of-int64": {"b": np.zeros(4, np.int64)},
        "bias-too-short": {"b": np.zeros(3, np.int32)},
        "bias-of-rank-2": {"b": np.zeros((4, 1), np.int32)},
    }
    for name, constants in changes.items():
        known: dict[str, Any] = {"w": kernel, "k": np.int8(0), "b": np.zeros(4, np.int32)}
        yield of_model(f"integer-conv-{name}", _quantized([node("QLinearConv", conv, "r")], {**known, **constants}))
    for name, made, constants in (
        ("ConvInteger-floats", node("ConvInteger", "x w", "r"), {"w": kernel}),
        ("MatMulInteger-sizes", node("MatMulInteger", "q w", "r"), {"w": np.ones((5, 6), np.int8)}),
        ("MatMulInteger-floats", node("MatMulInteger", "x w", "r"), {"w": np.ones((6, 6), np.int8)}),
        (
            "MatMulInteger-zero-points",
            node("MatMulInteger", "q w z k", "r"),
            {"w": np.ones((6, 6), np.int8), "k": np.zeros(5, np.int8)},
        ),
        ("QLinearMatMul-sizes", node("QLinearMatMul", "q t z w t z t z", "r"), {"w": np.ones((5, 6), np.int8)}),
        ("DynamicQuantizeLinear-integers", node("DynamicQuantizeLinear", "q", "r rs rz"), {}),
        ("Add-of-too-few", node("QLinearAdd", "q t z q t", "r", domain=_MICROSOFT), {}),
        ("unknown-of-Microsoft", node("QLinearFrobnicate", "q t z", "r", domain=_MICROSOFT), {}),
    ):
        yield of_model(f"integer-{name}", _quantized([made], constants))


def _typed() -> Iterator[Case]:
    """Numbers in fields that are wider than their type."""
    for name, element, number in (
        ("int8-300", TensorProto.INT8, 300),
        ("int8-minus-129", TensorProto.INT8, -129),
        ("uint8-256", TensorProto.UINT8, 256),
        ("uint8-minus-1", TensorProto.UINT8, -1),
        ("int16-40000", TensorProto.INT16, 40_000),
        ("bool-2", TensorProto.BOOL, 2),
        ("float16-70000", TensorProto.FLOAT16, 70_000),
    ):
        tensor = TensorProto(name="z", data_type=element, dims=[], int32_data=[number])
        nodes = [node("Cast", "z", "c", to=1), node("Add", "x c")]
        model = model_of(nodes, {"x": (1, 4)})
        model.graph.initializer.append(tensor)
        yield of_model(f"integer-typed-{name}", model)
    wide = model_of([node("Cast", "z", "c", to=1), node("Add", "x c")], {"x": (1, 4)})
    wide.graph.initializer.append(TensorProto(name="z", data_type=TensorProto.UINT32, dims=[], uint64_data=[2**40]))
    yield of_model("integer-typed-uint32-2-to-the-40", wide)
    odd = model_of([node("Where", "k x x")], {"x": (1, 4)})
    odd.graph.initializer.append(TensorProto(name="k", data_type=TensorProto.BOOL, dims=[4], raw_data=b"\0\1\2\xff"))
    yield of_model("integer-raw-bool-2", odd)
    for other in ("INT8", "INT32", "FLOAT16", "BFLOAT16", "BOOL", "COMPLEX64", "DOUBLE"):
        kind = TensorProto.DataType.Value(other)
        yield changed(f"integer-weights-relabelled-{other.lower()}", partial(_relabel, kind=kind))


def _relabel(model: ModelProto, kind: int) -> None:
    initializer(model, "w").data_type = kind


def _blocks() -> Iterator[Case]:
    """Attributes of QuantizeLinear and DequantizeLinear since opset 21."""
    blocks: dict[str, dict[str, Any]] = {
        "block-negative": {"block_size": -1, "axis": 1},
        "block-2-to-the-62": {"block_size": 2**62, "axis": 1},
        "block-does-not-divide": {"block_size": 3, "axis": 1},
        "axis-99": {"block_size": 2, "axis": 99},
        "output-of-strings": {"output_dtype": 8},
        "output-of-nothing": {"output_dtype": 999},
        "output-of-bool": {"output_dtype": 9},
    }
    for name, attributes in blocks.items():
        constants: dict[str, Any] = {"s": np.full((1, 2, 6, 6), 0.1, np.float32), "z": np.zeros((1, 2, 6, 6), np.int8)}
        if "output_dtype" in attributes:
            constants = {"s": np.float32(0.1)}
        inputs = "x s z" if "z" in constants else "x s"
        nodes = [
            node("QuantizeLinear", inputs, "q", **attributes),
            node("DequantizeLinear", inputs.replace("x", "q"), **attributes),
        ]
        yield of_model(f"integer-{name}", model_of(nodes, {"x": (1, 4, 6, 6)}, constants, opset=23))
