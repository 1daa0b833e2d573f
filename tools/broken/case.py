"""A broken model as files, and the small models that most of them are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

MODEL = "model.onnx"
IR_VERSION = 10
OPSET = 17

Change: TypeAlias = Callable[[ModelProto], object]
Shape: TypeAlias = Sequence[int | str | None]


@dataclass(frozen=True)
class Case:
    """Files to write into a folder of their own. links: symbolic links and where they lead; hard_links likewise.

    sparse: files that seem to have so many bytes. pipes: named pipes that nobody writes into.
    accepted: why the model may be compiled all the same; "" where it has to be refused.
    """

    name: str
    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    hard_links: Mapping[str, str] = field(default_factory=dict[str, str])
    sparse: Mapping[str, int] = field(default_factory=dict[str, int])
    pipes: tuple[str, ...] = ()
    accepted: str = ""
    options: tuple[str, ...] = ()


def of_model(name: str, model: ModelProto, accepted: str = "") -> Case:
    """A case of one file."""
    return Case(name, {MODEL: model.SerializeToString()}, accepted=accepted)


def changed(name: str, change: Change, accepted: str = "") -> Case:
    """The small network with one change."""
    model = network()
    change(model)
    return of_model(name, model, accepted)


def network(opset: int = OPSET) -> ModelProto:
    """Conv, Relu, MaxPool, Flatten, Gemm: x[1,3,8,8] to y[1,5]."""
    random = np.random.default_rng(1)
    weights = {
        "w": random.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "b": random.normal(0, 0.3, 4).astype(np.float32),
        "v": random.normal(0, 0.3, (64, 5)).astype(np.float32),
        "c": random.normal(0, 0.3, 5).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h1"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
        helper.make_node("MaxPool", ["h2"], ["h3"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["h3"], ["h4"], name="flatten"),
        helper.make_node("Gemm", ["h4", "v", "c"], ["y"], name="gemm"),
    ]
    return model_of(nodes, {"x": (1, 3, 8, 8)}, weights, {"y": (1, 5)}, opset)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Shape],
    constants: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Shape | None] | None = None,
    opset: int = OPSET,
    input_type: int = TensorProto.FLOAT,
    output_type: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model of these nodes; outputs default to `y` of any shape."""
    graph = helper.make_graph(
        list(nodes),
        "broken",
        [helper.make_tensor_value_info(name, input_type, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, output_type, shape) for name, shape in (outputs or {"y": None}).items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    domains = sorted({node.domain for node in nodes} - {""})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def node(op: str, inputs: str, outputs: str = "y", name: str = "", **attributes: Any) -> NodeProto:
    """A node named after its operator; names of tensors are separated by blanks, `-` stands for an absent one."""
    read = ["" if each == "-" else each for each in inputs.split()]
    return helper.make_node(op, read, outputs.split(), name=name or op.lower(), **attributes)


def single(
    op: str,
    shape: Shape,
    constants: Mapping[str, Any] | None = None,
    inputs: str | None = None,
    opset: int = OPSET,
    **attributes: Any,
) -> ModelProto:
    """A model of one node that reads `x` and the constants."""
    names = inputs or " ".join(["x", *(constants or {})])
    return model_of([node(op, names, **attributes)], {"x": shape}, constants, opset=opset)


def set_attribute(model: ModelProto, position: int, name: str, value: Any) -> None:
    """Give a node an attribute, in the place of the one of that name."""
    target = model.graph.node[position]
    kept = [attribute for attribute in target.attribute if attribute.name != name]
    del target.attribute[:]
    target.attribute.extend([*kept, helper.make_attribute(name, value)])


def set_type(attribute: AttributeProto, kind: int) -> None:
    """Let an attribute say that it is of another type than it is."""
    attribute.type = kind  # type: ignore[assignment]


def numbered(prefix: str, cases: Mapping[str, Change]) -> Iterator[Case]:
    """A case for each change of the small network."""
    for name, change in cases.items():
        yield changed(f"{prefix}-{name}", change)


def initializer(model: ModelProto, name: str) -> TensorProto:
    """The weights of that name."""
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replaced(model: ModelProto, name: str, array: Any) -> None:
    """Give the weights of that name other data."""
    initializer(model, name).CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def ints(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A constant of int64."""
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A constant of float32."""
    return np.array(values, np.float32)
