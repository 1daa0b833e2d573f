"""Tiny ONNX models in few words, and what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph
from tinyopt.onnx_import import import_proto

IR_VERSION = 10


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; the names of inputs and outputs are separated by blanks, `-` stands for an absent one."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return onnx.helper.make_node(op, names, outputs.split(), **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    constants: Mapping[str, Any] | None = None,
    outputs: str = "y",
    opset: int = 17,
    output_dtypes: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A model. `inputs` gives shapes (of float32), or (dtype, shape)."""
    domains = sorted({item.domain for item in nodes} - {""})
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [_value_info(name, spec) for name, spec in inputs.items()],
        [_value_info(name, ((output_dtypes or {}).get(name, "float32"), None)) for name in outputs.split()],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset), *(onnx.helper.make_opsetid(domain, 1) for domain in domains)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _value_info(name: str, spec: Any) -> onnx.ValueInfoProto:
    dtype, shape = spec if len(spec) == 2 and isinstance(spec[1], tuple | None) else ("float32", spec)
    element_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, element_type, shape)


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Numbers around zero, integers over their whole range."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        if value.dtype == "float32":
            arrays[value.name] = generator.normal(0, 2, value.shape).astype(np.float32)
        else:
            limits = np.iinfo(value.dtype)
            arrays[value.name] = generator.integers(limits.min, limits.max + 1, value.shape).astype(value.dtype)
    return arrays


def runtime_outputs(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs that onnxruntime gives without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, dict(inputs))]


def assert_same_as_runtime(model: onnx.ModelProto, tolerance: float = 2e-5) -> Graph:
    """Import, evaluate, compare with onnxruntime; returns the graph."""
    graph = import_proto(model, "tiny", {}).graph
    inputs = random_inputs(graph)
    got = list(evaluate(graph, inputs).values())
    wanted = runtime_outputs(model, inputs)
    assert [output.name for output in graph.outputs] == [output.name for output in model.graph.output]
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    return graph
