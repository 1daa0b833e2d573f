"""The architectures that the onnx package ships without their weights, with random weights that keep numbers in range.

As shipped, each parameter is a ConstantOfShape of one value and each output one number, so that almost any mistake
would pass. Here parameters are initializers, as they are in the models of the same names: drawn from a seed, weights as
in He et al., arXiv:1502.01852, normalizations around 1, and what makes the logits scaled such that their standard
deviation is `LOGIT_DEVIATION`: a softmax of them is neither flat nor saturated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tinyopt.ir import Array
from tinyopt.onnx_session import OnnxSession

NAMES = tuple(
    "bvlc_alexnet densenet121 inception_v1 inception_v2 resnet50 shufflenet squeezenet vgg19 zfnet512".split()
)
LOGIT_DEVIATION = 1.0
_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
_WEIGHTED = ("Conv", "Gemm")
_ROLES = {
    "Conv": {1: "weight", 2: "shift"},
    "Gemm": {1: "weight", 2: "shift"},
    "BatchNormalization": {1: "scale", 2: "shift", 3: "shift", 4: "variance"},
    "Mul": {1: "scale"},
    "Add": {1: "shift"},
}
"""What the inputs of an operator are, by their places."""


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """An architecture with the parameters of a seed, and its logits as a second output where there is a softmax."""
    model = onnx.load(_FOLDER / f"light_{name}.onnx")
    graph = model.graph
    random = np.random.default_rng(seed)
    roles = _roles(graph)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    parameters = {
        node.output[0]: _parameter(roles[node.output[0]], tuple(shapes[node.input[0]]), random)
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    logits = _expose_logits(graph)
    _store(model, parameters)
    sample = light_sample(model, seed)
    deviation = float(OnnxSession(model).run(sample)[logits].std())
    _scale_last_layer(graph, parameters, LOGIT_DEVIATION / deviation)
    return model


def light_sample(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """A picture's numbers for each input that is not stored, with mean 0 and deviation 1."""
    random = np.random.default_rng(seed + 1)
    stored = {tensor.name for tensor in model.graph.initializer}
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if value.name not in stored
    }
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def without_a_channel(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with one channel of a convolution in its middle at 0: an error that a comparison has to see."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names = [node.input[1] for node in changed.graph.node if node.op_type == "Conv"]
    name = names[len(names) // 2]
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array[len(array) // 2] = 0
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return changed


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each parameter is, by name; one that is reshaped is what its result is."""
    roles = {
        node.input[place]: role
        for node in graph.node
        for place, role in _ROLES.get(node.op_type, {}).items()
        if place < len(node.input)
    }
    for node in graph.node:
        if node.op_type in ("Reshape", "Unsqueeze") and node.output[0] in roles:
            roles[node.input[0]] = roles[node.output[0]]
    return roles


def _parameter(role: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Weights are O, I, ... (Gemm with transB), with ones before that where they are reshaped."""
    if role == "weight":
        deviation = math.sqrt(2 / math.prod([size for size in shape if size > 1][1:]))
        return random.standard_normal(shape, np.float32) * np.float32(deviation)
    if role == "shift":
        return random.standard_normal(shape, np.float32) * np.float32(0.1)
    return random.uniform(0.5, 1.5, shape).astype(np.float32)


def _expose_logits(graph: onnx.GraphProto) -> str:
    """Make the input of the last softmax an output; the name of the logits."""
    last = graph.node[-1]
    if last.op_type != "Softmax":
        return str(last.output[0])
    shape = [dimension.dim_value for dimension in graph.output[0].type.tensor_type.shape.dim]
    graph.output.append(helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, shape))
    return str(last.input[0])


def _store(model: onnx.ModelProto, parameters: Mapping[str, Array]) -> None:
    """Put initializers, which are inputs too in this IR version, in the place of nodes."""
    graph = model.graph
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {name for node in nodes for name in node.input}
    inputs = [value for value in graph.input if value.name in used]
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.input[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.initializer.extend(tensors)
    for name, array in parameters.items():
        graph.initializer.append(numpy_helper.from_array(array, name))
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))


def _scale_last_layer(graph: onnx.GraphProto, parameters: Mapping[str, Array], factor: float) -> None:
    last = [node for node in graph.node if node.op_type in _WEIGHTED][-1]
    reshaped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    scaled = {reshaped.get(name, name) for name in last.input[1:]}
    for tensor in graph.initializer:
        if tensor.name in scaled:
            tensor.CopyFrom(numpy_helper.from_array(parameters[tensor.name] * np.float32(factor), tensor.name))
