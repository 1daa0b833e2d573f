"""Read an ONNX file and find out whether it is one that can be imported at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.onnx_import.external_data import load_external_data
from tinyopt.onnx_import.limits import DEEPEST_NESTING, LARGEST_FILE_BYTES
from tinyopt.onnx_import.validation import check_limits

_LONGEST_REASON = 300  # the checker prints whole nodes


def read_model(path: Path) -> onnx.ModelProto:
    """The model in the file `path`, weights kept in files beside it included.

    Raises UsageError where the file cannot be read, InvalidModelError where it holds no ONNX model or one beyond the
    limits.
    """
    content = _content(path)
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise InvalidModelError(f"{path} is nested more than {DEEPEST_NESTING} levels deep") from error
        raise InvalidModelError(f"{path} is not an ONNX file, or is cut short; export it again") from error
    if not model.ir_version:
        raise InvalidModelError(f"{path} is not an ONNX file: it states no IR version; export it again")
    check_limits(model, path.stem)
    load_external_data(model, path)
    return model


def _content(path: Path) -> bytes:
    """The bytes of a regular file: a pipe or a device could go on for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"cannot read the model {path}: it is no regular file; give the path of an ONNX file")
            if status.st_size > LARGEST_FILE_BYTES:
                raise InvalidModelError(
                    f"{path} has {status.st_size:,} bytes; tinyopt reads up to {LARGEST_FILE_BYTES:,}: keep weights in "
                    "a file beside the model"
                )
            return file.read(status.st_size)
    except OSError as error:
        raise UsageError(f"cannot read the model {path}: {error.strerror}; give the path of an ONNX file") from error


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
