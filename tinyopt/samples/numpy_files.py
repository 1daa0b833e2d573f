"""NumPy files: headers first, then rows by seeking; compressed archives are unpacked once to a temporary file.

The formats: numpy.lib.format (NEP 1) and PKWARE's APPNOTE.TXT, section 4.3.7 (local file header).
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinyopt.errors import InvalidModelError, TinyoptError, UsageError
from tinyopt.ir import DTYPES, Array, Value
from tinyopt.samples.rows import CHUNK_BYTES, Bytes, FileBytes, Scratch, StoredRows
from tinyopt.whole_files import whole_file

ONLY = "array"  # what the array of a .npy file is called
_WHOLE_LIMIT = 64 << 20  # bytes of what must be held in memory at once: labels, and arrays in Fortran order
_LONGEST_HEADER = 2**16  # of a .npy file; NumPy itself takes 10,000 bytes
_MAGIC_BYTES = 8  # with the version
_FREE_BYTES, _MOST_EXPANSION = 64 << 20, 400  # zeros alone are packed 1,000 times smaller; beyond both is a bomb
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_UNREADABLE = (
    *(ValueError, OSError, EOFError, RuntimeError, SyntaxError, MemoryError),
    *(LookupError, TypeError, AttributeError),  # NumPy takes a header's dtype apart without looking
    *(tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """What a .npy header says, and where it lies. member: the entry of a .npz archive, None for a .npy file."""

    path: Path
    name: str
    member: str | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    header_bytes: int

    @property
    def where(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}: array '{self.name}'"

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file to this very path. (numpy.savez takes arrays named `file` for its own options.)

    Raises UsageError where it cannot be written; then nothing is.
    """
    with whole_file(path) as work, zipfile.ZipFile(work, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def array_names(path: Path) -> list[str]:
    """The arrays of a .npz file, sorted. Raises InvalidModelError where it is none."""
    with _reading(f"{path} is no NumPy file of plain arrays"), zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def find_array(path: Path, name: str = ONLY) -> StoredArray:
    """Read the header of an array; `name` counts in .npz files only.

    Raises UsageError where there is no such array, InvalidModelError for what cannot be read, and for pickled objects.
    """
    if path.suffix.lower() == ".npy":
        with _reading(f"{path} is no NumPy file of plain arrays"), open(path, "rb") as file:
            array = _read_header(file, path, ONLY, None)
            _check_size(array, path.stat().st_size)
            return array
    names = array_names(path)
    if name not in names:
        raise UsageError(f"{path} has no array '{name}'; its arrays: {', '.join(names) or 'none'}")
    member = f"{name}.npy"
    with _reading(f"{path}: array '{name}' cannot be read"), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        _check_compression(info, path.stat().st_size)
        with archive.open(info) as stream:
            array = _read_header(stream, path, name, member)
        _check_size(array, info.file_size)
        return array


def _check_compression(info: zipfile.ZipInfo, archive_bytes: int) -> None:
    """Raises ValueError for archives that numpy.savez_compressed does not write, and for such as are bombs."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in a way that NumPy does not use")
    held = min(info.compress_size, archive_bytes)
    if info.file_size > max(_FREE_BYTES, _MOST_EXPANSION * held):
        raise ValueError(f"{held:,} bytes unpack to {info.file_size:,}: no samples compress so well")


def open_rows(array: StoredArray, graph_input: Value, limit: int | None, scratch: Scratch) -> StoredRows:
    """The first `limit` rows, each a sample for `graph_input`; an array of the input's own shape is one sample.

    Raises InvalidModelError for another type or shape, and for what cannot be read.
    """
    total = _count_rows(array, graph_input)
    count = total if limit is None else min(limit, total)
    row_bytes = array.data_bytes // total
    source, offset = _locate(array, count * row_bytes, scratch)
    return StoredRows(array.where, source, offset, array.dtype, graph_input.shape, count, total)


def read_whole(array: StoredArray) -> Array:
    """A small array in memory. Raises InvalidModelError where it is larger than 64 MiB."""
    if array.data_bytes > _WHOLE_LIMIT:
        raise InvalidModelError(f"{array.where} has {array.data_bytes:,} bytes, more than the {_WHOLE_LIMIT:,} to hold")
    scratch = Scratch()
    source, offset = _locate_bytes(array, array.data_bytes, scratch)
    flat = np.frombuffer(source.read(offset, array.data_bytes), array.dtype)
    return flat.reshape(array.shape, order="F" if array.is_fortran else "C")


def _read_header(stream: IO[bytes], path: Path, name: str, member: str | None) -> StoredArray:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    length = stream.read(2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:  # NumPy would read it all before it looks how long it is
        raise ValueError(f"a header of {size:,} bytes")
    shape, is_fortran, dtype = read(io.BytesIO(length + stream.read(size)))
    array = StoredArray(path, name, member, dtype, shape, is_fortran, _MAGIC_BYTES + len(length) + size)
    if dtype.hasobject:
        raise InvalidModelError(f"{array.where} cannot be read: it holds pickled objects, and pickles are never loaded")
    if dtype.name not in DTYPES:
        raise InvalidModelError(f"{array.where} is of type {dtype}, which is no number")
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {shape}")
    return array


def _check_size(array: StoredArray, held: int) -> None:
    if array.header_bytes + array.data_bytes > held:
        raise InvalidModelError(
            f"{array.where} is truncated: its header says {list(array.shape)} of {array.dtype}, "
            f"{array.header_bytes + array.data_bytes:,} bytes, and there are {held:,}"
        )


def _count_rows(array: StoredArray, graph_input: Value) -> int:
    shape = graph_input.shape
    accepted = [shape, shape[1:]] if shape[:1] == (1,) else [shape]
    if array.shape in accepted and 0 not in array.shape:
        return 1
    if array.shape[:1] in ((), (0,)):
        raise InvalidModelError(f"{array.where} of shape {list(array.shape)} holds no samples")
    if array.shape[1:] not in accepted:
        raise InvalidModelError(
            f"{array.where} has samples of shape {list(array.shape[1:])}; "
            f"input '{graph_input.name}' takes {' or '.join(str(list(shape)) for shape in accepted)}"
        )
    return array.shape[0]


def _locate(array: StoredArray, size: int, scratch: Scratch) -> tuple[Bytes, int]:
    """Where the first `size` bytes lie in C order."""
    if not array.is_fortran or len(array.shape) < 2:
        return _locate_bytes(array, size, scratch)
    if array.data_bytes > _WHOLE_LIMIT:
        raise InvalidModelError(
            f"{array.where} is saved in Fortran order, its samples interleaved: save numpy.ascontiguousarray of it"
        )
    return scratch, scratch.append(np.ascontiguousarray(read_whole(array)).tobytes(), array.where)


def _locate_bytes(array: StoredArray, size: int, scratch: Scratch) -> tuple[Bytes, int]:
    if array.member is None:
        return FileBytes(str(array.path)), array.header_bytes
    with _reading(f"{array.where} cannot be read"), zipfile.ZipFile(array.path) as archive:
        info = archive.getinfo(array.member)
        if info.compress_type != zipfile.ZIP_STORED:
            return UnpackedBytes(array, size, scratch), 0
        if size == array.data_bytes:
            _check_sum(archive, array.member)
        return FileBytes(str(array.path)), _member_offset(array.path, info) + array.header_bytes


def _check_sum(archive: zipfile.ZipFile, member: str) -> None:
    """Read a member to its end, where zipfile compares the sums."""
    with archive.open(member) as stream:
        while stream.read(CHUNK_BYTES):
            pass


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    header = FileBytes(str(path)).read(info.header_offset, _LOCAL_HEADER.size)
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    return info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)


@dataclass(eq=False, slots=True)
class UnpackedBytes:
    """The first `size` bytes of a compressed array, unpacked to the scratch file when they are first read."""

    array: StoredArray
    size: int
    scratch: Scratch
    place: int | None = None

    def read(self, offset: int, size: int) -> bytes:
        if self.place is None:
            self.place = self._unpack()
        return self.scratch.read(self.place + offset, size)

    def _unpack(self) -> int:
        array = self.array
        assert array.member is not None, "only members of archives are compressed"
        self.scratch.check_room(self.size, array.where)
        place = self.scratch.append(b"", array.where)
        with (
            _reading(f"{array.where} cannot be read"),
            zipfile.ZipFile(array.path) as archive,
            archive.open(array.member) as stream,
        ):
            stream.read(array.header_bytes)
            left = self.size
            while left:
                data = stream.read(min(left, CHUNK_BYTES))
                if not data:
                    raise EOFError("the file is truncated")
                self.scratch.append(data, array.where)
                left -= len(data)
            if self.size == array.data_bytes:
                stream.read(1)  # at the end zipfile compares the sums
        return place


@contextmanager
def _reading(problem: str) -> Generator[None]:
    """What NumPy and zipfile raise for broken files, as one line; `problem` says what was being read."""
    try:
        yield
    except TinyoptError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidModelError(f"{problem} (pickles are never loaded): {reason}") from error
