"""Models that other tools have quantized come in and lower whole to integers, on the example network."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.digits import DATA, MODEL
from tests.onnx_models import runtime_outputs
from tinyopt.api import optimize
from tinyopt.ir import Array, Graph
from tinyopt.onnx_import import import_proto
from tinyopt.options import CompileOptions
from tinyopt.pipeline import PipelineStep, real_outputs
from tinyopt.samples import Sample
from tinyopt.targets import target_named

_TOOL: Any = importlib.import_module("onnxruntime.quantization")  # it has no types
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def _images(array: str, count: int) -> list[Array]:
    with np.load(DATA) as arrays:
        return list(arrays[array][:count, None])


class _Reader:
    def __init__(self) -> None:
        self._samples: Iterator[dict[str, Array]] = iter([{"image": image} for image in _images("calib", 20)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._samples, None)


def quantized_by_onnxruntime(folder: Path, **options: Any) -> onnx.ModelProto:
    """The example network as `quantize_static` makes it, its batch normalization not folded."""
    logging.disable(logging.WARNING)  # it recommends to fold first
    target = folder / "quantized.onnx"
    _TOOL.quantize_static(str(MODEL), str(target), _Reader(), quant_format=_TOOL.QuantFormat.QDQ, **options)
    logging.disable(logging.NOTSET)
    return onnx.load(target)


def without_rounding_behind(model: onnx.ModelProto, is_left_out: Callable[[str], bool]) -> onnx.ModelProto:
    """The model without the QuantizeLinear and DequantizeLinear behind operators of some kinds."""
    makers = {name: item for item in model.graph.node for name in item.output}
    renamed: dict[str, str] = {}
    for item in model.graph.node:
        quantize = makers.get(item.input[0]) if item.op_type == "DequantizeLinear" else None
        maker = makers.get(quantize.input[0]) if quantize is not None else None
        if quantize is not None and maker is not None and is_left_out(maker.op_type):
            renamed[item.output[0]] = quantize.input[0]
    for item in model.graph.node:
        item.input[:] = [renamed.get(name, name) for name in item.input]
    return model


def lowered(model: onnx.ModelProto, samples: list[Sample] | None = None) -> tuple[Graph, list[PipelineStep]]:
    graph = import_proto(model, "digits", {}).graph
    options = CompileOptions(target="cortex-m4", boundary="float")
    return graph, optimize(graph, target_named("cortex-m4"), options, samples or [])


def islands(graph: Graph) -> list[str]:
    """What computes in float."""
    nodes = [node for node in graph.nodes if node.op not in _ROUNDING]
    return [n.name for n in nodes if any(v.dtype == "float32" for v in (*n.present_inputs, *n.outputs))]


def largest_difference(model: onnx.ModelProto, graph: Graph) -> float:
    """Of the probabilities, from onnxruntime's, over some samples."""
    samples = [{"image": image} for image in _images("x", 20)]
    found = [outputs[0] for outputs in real_outputs(graph, samples)]
    expected = [runtime_outputs(model, sample)[0] for sample in samples]
    return float(np.max(np.abs(np.array(found) - np.array(expected))))


@pytest.mark.parametrize(
    "options",
    [
        {"per_channel": True, "activation_type": _TOOL.QuantType.QInt8},
        {"per_channel": False, "activation_type": _TOOL.QuantType.QUInt8, "weight_type": _TOOL.QuantType.QUInt8},
    ],
    ids=["int8, a scale for each channel", "uint8 with zero points everywhere"],
)
def test_models_of_onnxruntime_lower_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    model = quantized_by_onnxruntime(tmp_path, **options)
    graph, _ = lowered(model)
    assert islands(graph) == []
    assert largest_difference(model, graph) <= 0.03  # seven layers, each a step off at most


def test_roundings_that_are_not_there_are_inferred_or_observed(tmp_path: Path) -> None:
    model = quantized_by_onnxruntime(tmp_path, per_channel=True)
    without_rounding_behind(model, lambda op: op in ("GlobalAveragePool", "Flatten", "Softmax"))
    graph, _ = lowered(model)
    assert islands(graph) == []
    assert largest_difference(model, graph) <= 0.03
    without_rounding_behind(model, lambda op: op in ("Conv", "Add", "Gemm"))
    graph, steps = lowered(model)
    remarks = next(step.record.remarks for step in steps if step.record.pass_name == "infer-scales")
    assert {"classifier", "add2"} <= set(islands(graph))
    assert any("nothing tells the scale of" in remark.message for remark in remarks if remark.kind == "declined")
    graph, _ = lowered(model, [{"image": image} for image in _images("calib", 50)])
    assert islands(graph) == []
    assert largest_difference(model, graph) <= 0.1
