"""Read weights that lie in files beside the model, and in no other place.

A model says by itself which files these are, so that nothing of it is believed: the path has to lead to a regular file
in the model's folder without links, and the place in it to as many bytes as the tensor has.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import.limits import LARGEST_WEIGHT_BYTES
from tinyopt.onnx_import.tensors import expected_bytes

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_MOST_DIGITS = 19  # of an offset


def load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Put the data of all external initializers of `model`, which came from the file `path`, into the model.

    Raises InvalidModelError that names the tensor where its file is not to be read, or is too short.
    """
    total = 0
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"weights '{tensor.name}' of {path}"
        size = expected_bytes(tensor, f"initializer '{tensor.name}' of {path}")
        total += size
        if total > LARGEST_WEIGHT_BYTES:
            raise InvalidModelError(
                f"{path} has more than {LARGEST_WEIGHT_BYTES:,} bytes of weights, '{tensor.name}' included"
            )
        tensor.raw_data = _read(tensor, path.resolve(), size, where)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def external_files(path: Path) -> list[Path]:
    """The files with weights of the model in the file `path`, which was imported before, sorted."""
    model = onnx.load(path, load_external_data=False)
    found: set[str] = set()
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found.update(entry.value for entry in tensor.external_data if entry.key == "location")
    return sorted(path.parent / location for location in found)


def _read(tensor: onnx.TensorProto, model: Path, size: int, where: str) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.keys() <= _KEYS:
        raise InvalidModelError(f"{where} lie in another file, and where there is not clear: {sorted(entries)}")
    if len(tensor.raw_data):
        raise InvalidModelError(f"{where} lie in another file and in the model, too")
    location = entries.get("location", "")
    offset, length = (_number(entries.get(key, ""), key, where) for key in ("offset", "length"))
    if length not in (None, size):
        raise InvalidModelError(f"{where} have {length:,} bytes in '{location}'; their type and shape ask for {size:,}")
    file = _checked_path(location, model.parent, where)
    if file == model:
        raise InvalidModelError(f"{where} lie in the file of the model itself")
    return _content(file, offset or 0, size, location, where)


def _number(text: str, key: str, where: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidModelError(f"{where} lie in another file, at {key} '{text[:40]}', which is no position")
    return int(text)


def _checked_path(location: str, folder: Path, where: str) -> Path:
    """The file at `location` in the folder. Raises InvalidModelError where it is another place."""
    parts = PurePosixPath(location).parts
    is_foreign = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor) or "\\" in location
    if not parts or is_foreign or ".." in parts or not location.isprintable():
        raise InvalidModelError(f"{where} lie in '{location}', outside of the model's folder: move them there")
    file = folder.joinpath(*parts)
    try:
        is_direct = file.resolve() == file
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModelError(f"{where} cannot be read from '{location}': {error}") from error
    if not is_direct:
        raise InvalidModelError(f"{where} lie in '{location}', which is a link: put the file itself there")
    return file


def _content(file: Path, offset: int, size: int, location: str, where: str) -> bytes:
    """`size` bytes of the file, of which the system says what it is after it was opened: not before."""
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise InvalidModelError(f"{where} lie in '{location}', which is no regular file of its own")
            if offset + size > status.st_size:
                raise InvalidModelError(
                    f"{where} end at byte {offset + size:,} of '{location}', which has {status.st_size:,} bytes"
                )
            stream.seek(offset)
            content = stream.read(size)
    except FileNotFoundError as error:
        raise InvalidModelError(f"{where} lie in '{file}', which does not exist") from error
    except OSError as error:
        raise InvalidModelError(f"{where} cannot be read from '{location}': {error.strerror}") from error
    if len(content) != size:
        raise InvalidModelError(f"{where} cannot be read from '{location}': it became shorter while it was read")
    return content
