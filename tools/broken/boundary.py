"""Inputs and outputs that are no tensors, contradict each other, or are read by nobody; texts beside the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, TypeProto, helper, numpy_helper

from tools.broken.case import Case, Change, changed, floats, ints, model_of, node, numbered, of_model

_UNREAD = "what nobody reads is left out"
_TEXT = "texts beside the graph are not looked at"
_OPEN = "sizes that a model leaves open are what inference finds"


def boundary_cases() -> Iterator[Case]:
    """About 70 cases."""
    yield from _kinds()
    yield from numbered("boundary", _BROKEN)
    for name, (reason, change) in _VALID.items():
        yield changed(f"boundary-{name}", change, reason)
    yield from _small()


def _kinds() -> Iterator[Case]:
    kinds: dict[str, TypeProto] = {name: TypeProto() for name in ("map", "nested", "optional", "opaque", "empty")}
    kinds["map"].map_type.key_type = TensorProto.STRING
    kinds["map"].map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    kinds["nested"].sequence_type.elem_type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    kinds["optional"].optional_type.elem_type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    kinds["opaque"].denotation = "IMAGE"
    kinds["empty"].sequence_type.SetInParent()
    for name, kind in kinds.items():
        yield changed(f"boundary-input-{name}", _typed_input(kind))
        if name != "opaque":
            yield changed(f"boundary-output-{name}", _typed_output(kind))
    for name in ("STRING", "BOOL", "COMPLEX64", "BFLOAT16", "FLOAT8E4M3FN", "INT4", "UINT64", "DOUBLE"):
        element = TensorProto.DataType.Value(name)
        yield changed(f"boundary-conv-of-{name.lower()}", _input_of(element))


def _typed_input(kind: TypeProto) -> Change:
    return lambda m: m.graph.input[0].type.CopyFrom(kind)


def _typed_output(kind: TypeProto) -> Change:
    return lambda m: m.graph.output[0].type.CopyFrom(kind)


def _input_of(element: int) -> Change:
    return lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", element)


def _resize(*sizes: int | str) -> Change:
    """The input has these sizes."""
    return lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes))


def _state(name: str, element: int, sizes: list[int | str]) -> Change:
    """The model states a type for an inner tensor."""
    return lambda m: m.graph.value_info.append(helper.make_tensor_value_info(name, element, sizes))


def _weights(name: str, shape: tuple[int, ...]) -> Change:
    return lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))


def _with_input(name: str, element: int, sizes: list[int | str]) -> Change:
    return lambda m: m.graph.input.append(helper.make_tensor_value_info(name, element, sizes))


def _with_output(name: str, sizes: list[int | str] | None) -> Change:
    return lambda m: m.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))


_BROKEN: dict[str, Change] = {
    "sizes-open": _resize("n", 3, "h", "w"),
    "channels-open": _resize(1, "c", 8, 8),
    "image-empty": _resize(1, 3, 0, 8),
    "batch-empty": _resize(0, 3, 8, 8),
    "image-smaller-than-the-kernel": _resize(1, 3, 1, 1),
    "image-of-rank-0": _resize(),
    "image-of-rank-3": _resize(3, 8, 8),
    "image-of-rank-5": _resize(1, 3, 8, 8, 1),
    "image-of-other-channels": _resize(1, 4, 8, 8),
    "image-that-does-not-fit-the-gemm": _resize(1, 3, 9, 12),
    "batch-of-100000": _resize(100_000, 3, 8, 8),
    "size-named-by-a-megabyte": _resize("n" * 1_000_000, 3, 8, 8),
    "size-with-nul": _resize("n\0", 3, 8, 8),
    "stated-type-unknown": _state("h1", 77, [1, 4, 8, 8]),
    "stated-size-negative": _state("h1", TensorProto.FLOAT, [1, -4, 8, 8]),
    "stated-size-of-2-to-the-62": _state("h1", TensorProto.FLOAT, [2**62, 2**62]),
    "input-is-a-weight-of-another-shape": lambda m: m.graph.initializer.append(
        numpy_helper.from_array(floats(1, 2), "x")
    ),
    "input-is-a-weight-of-another-type": lambda m: m.graph.initializer.append(
        numpy_helper.from_array(np.ones((1, 3, 8, 8), np.int64), "x")
    ),
    "output-is-unknown": _with_output("nowhere", [1]),
    "output-of-another-size": _with_output("h1", [1, 4, 8, 9]),
    "weights-of-strings-nobody-reads": lambda m: m.graph.initializer.add(
        name="s", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"]
    ),
    "weights-too-short-nobody-reads": lambda m: m.graph.initializer.add(
        name="s", data_type=TensorProto.FLOAT, dims=[4], raw_data=b"abc"
    ),
    "opset-twice-of-one-domain": lambda m: m.opset_import.extend(
        [helper.make_opsetid("acme", 1), helper.make_opsetid("acme", 7)]
    ),
    "opset-without-version": lambda m: m.opset_import[0].ClearField("version"),
    "opset-domain-of-a-megabyte": lambda m: m.opset_import.append(helper.make_opsetid("d" * 1_000_000, 1)),
    "opset-domain-with-nul": lambda m: m.opset_import.append(helper.make_opsetid("d\0", 1)),
}
_VALID: dict[str, tuple[str, Change]] = {
    "input-unread": (_UNREAD, _with_input("unread", TensorProto.FLOAT, [1, 4])),
    "input-of-strings-unread": (_UNREAD, _with_input("unread", TensorProto.STRING, [1, 4])),
    "input-open-unread": (_UNREAD, _with_input("unread", TensorProto.FLOAT, [1, "n"])),
    "weights-unread": (_UNREAD, _weights("unread", (3, 3))),
    "output-is-an-input": ("it is copied", _with_output("x", [1, 3, 8, 8])),
    "output-is-a-weight": ("it is copied", _with_output("c", [5])),
    "output-without-type": ("it is known all the same", lambda m: m.graph.output[0].ClearField("type")),
    "output-in-the-middle": ("any tensor may be one", _with_output("h1", [1, 4, 8, 8])),
    "batch-open": (_OPEN, _resize("n", 3, 8, 8)),
    "batch-unnamed": (_OPEN, lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].Clear()),
    "batch-named-badly": (_OPEN, _resize("*/ \u202e <script> %s %n ../ \n", 3, 8, 8)),
    "stated-name-unknown": (_UNREAD, _state("nowhere", TensorProto.FLOAT, [1])),
    "stated-twice": (
        _UNREAD,
        lambda m: m.graph.value_info.extend([helper.make_tensor_value_info("h1", TensorProto.FLOAT, [1, 4, 8, 8])] * 2),
    ),
    "stated-type-differs": ("what inference finds counts", _state("h1", TensorProto.INT64, [1, 4, 8, 8])),
    "opset-twice-the-same": ("it says nothing else", lambda m: m.opset_import.append(m.opset_import[0])),
    "stated-size-differs": ("what inference finds counts", _state("h1", TensorProto.FLOAT, [1, 4, 7, 7])),
    "metadata": (_TEXT, lambda m: m.metadata_props.add(key="\x1b[31m*/", value="</script>\0" * 1_000)),
    "documentation-of-10-megabytes": (_TEXT, lambda m: setattr(m, "doc_string", "*/\n" * 3_000_000)),
    "producer": (_TEXT, lambda m: setattr(m, "producer_name", "../../\x1b]0;x\x07\0")),
    "annotation": (_TEXT, lambda m: m.graph.quantization_annotation.add(tensor_name="nowhere")),
    "training": (_TEXT, lambda m: m.training_info.add().initialization.node.add(op_type="Frobnicate")),
    "domain-unknown": (_TEXT, lambda m: m.opset_import.append(helper.make_opsetid("acme", -5))),
}


def _small() -> Iterator[Case]:
    """Graphs of a node or two with odd boundaries."""
    yield of_model("boundary-nothing-to-do", model_of([node("Identity", "x")], {"x": (1, 4)}), "a copy is a model")
    constant = model_of([node("Relu", "w")], {}, {"w": floats(1, 2)})
    yield of_model("boundary-without-inputs", constant, "its outputs are constants")
    yield of_model("boundary-input-of-no-elements", model_of([node("Relu", "x")], {"x": (0, 4)}))
    empty = model_of([node("Concat", "x e", axis=0)], {"x": (2, 4)}, {"e": np.ones((0, 4), np.float32)})
    yield of_model("boundary-weights-of-no-elements", empty, "nothing is added")
    yield of_model("boundary-slice-to-nothing", model_of([node("Slice", "x s s")], {"x": (4,)}, {"s": ints(2)}))
    yield of_model("boundary-scalar", model_of([node("Relu", "x")], {"x": ()}), "a tensor of one element")
    rank = model_of([node("Relu", "x")], {"x": (1,) * 16})
    yield of_model("boundary-rank-16", rank, "sixteen dimensions are taken")
    yield of_model("boundary-rank-17", model_of([node("Relu", "x")], {"x": (1,) * 17}))
    many = [node("Relu", "x", f"y{i}", name=f"r{i}") for i in range(1_025)]
    outputs = {f"y{i}": (1, 4) for i in range(1_025)}
    yield of_model("boundary-1025-outputs", model_of(many, {"x": (1, 4)}, outputs=outputs))
    yield of_model("boundary-sequence", _through("SequenceConstruct", "SequenceAt"))
    yield of_model("boundary-optional", _through("Optional", "OptionalGetElement"))
    yield of_model("boundary-split-to-sequence", _through("SplitToSequence", "ConcatFromSequence"))


def _through(first: str, second: str) -> ModelProto:
    """x becomes something that is no tensor, and a tensor again."""
    inputs = "s i" if second == "SequenceAt" else "s"
    attributes: dict[str, Any] = {"axis": 0} if second == "ConcatFromSequence" else {}
    last = helper.make_node(second, inputs.split(), ["y"], name="second", **attributes)
    return model_of([node(first, "x", "s", name="first"), last], {"x": (1, 4)}, {"i": np.int64(0)})
