"""Read an ONNX file and find out whether it is one that can be imported at all."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.external_data_helper
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tinyopt.errors import InvalidModelError, UsageError

OLDEST_OPSET, NEWEST_OPSET = 7, 26
NEWEST_IR_VERSION = 13

_LONGEST_REASON = 300  # the checker prints whole nodes
_DEFAULT_DOMAINS = ("", "ai.onnx")


def read_model(path: Path) -> onnx.ModelProto:
    """The model in the file `path`, weights kept in files beside it included.

    Raises UsageError where the file cannot be read, InvalidModelError where it holds no ONNX model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model {path}: {error.strerror}; give the path of an ONNX file") from error
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InvalidModelError(f"{path} is not an ONNX file, or is cut short; export it again") from error
    if not model.ir_version:
        raise InvalidModelError(f"{path} is not an ONNX file: it states no IR version; export it again")
    _load_external_data(model, path)
    return model


def check_model(model: onnx.ModelProto, name: str) -> int:
    """The opset of the model's standard operators.

    Raises InvalidModelError for versions outside of what is known, empty graphs and weights without data.
    """
    if model.ir_version > NEWEST_IR_VERSION:
        raise InvalidModelError(
            f"model '{name}' has IR version {model.ir_version}; tinyopt reads up to {NEWEST_IR_VERSION}: export it with"
            " an older ONNX version"
        )
    opset = _opset(model, name)
    if not model.graph.node:
        raise InvalidModelError(f"model '{name}' has an empty graph: there is nothing to compile")
    if not model.graph.output:
        raise InvalidModelError(f"model '{name}' has no outputs")
    if model.graph.sparse_initializer:
        raise InvalidModelError(f"model '{name}' has sparse weights: export them as dense tensors")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InvalidModelError(
                f"weights '{tensor.name}' of model '{name}' lie in another file: import the file by path"
            )
    return opset


def check_structure(model: onnx.ModelProto, name: str) -> None:
    """Run ONNX's own checker: attributes, names, order.

    Raises InvalidModelError with the checker's reason in one line.
    """
    try:
        onnx.checker.check_model(_with_shapes(model))
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise InvalidModelError(f"model '{name}' is not valid ONNX: {reason}") from error


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a shape on every input and output: the checker wants one, nobody else does."""
    boundary = [*model.graph.input, *model.graph.output]
    if all(value.type.tensor_type.HasField("shape") for value in boundary):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in [*copy.graph.input, *copy.graph.output]:
        if not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    return copy


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS]
    if not versions:
        raise InvalidModelError(f"model '{name}' states no opset for the standard operators; export it again")
    opset = int(versions[0])
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InvalidModelError(
            f"model '{name}' has opset {opset}; tinyopt reads {OLDEST_OPSET} to {NEWEST_OPSET}:"
            " export it with one of these"
        )
    return opset


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise InvalidModelError(
                f"weights '{tensor.name}' of {path} lie in '{location}', outside of the model's folder: move them there"
            )
        if not file.is_file():
            raise InvalidModelError(f"weights '{tensor.name}' of {path} lie in '{file}', which does not exist")
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise InvalidModelError(
                f"weights '{tensor.name}' of {path} cannot be read from '{location}': {error}"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
