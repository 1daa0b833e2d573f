"""Raw samples that lie in files: rows of one type and shape, read when they are asked for and never mapped."""

from __future__ import annotations

import math
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias

import numpy as np

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array

Progress: TypeAlias = Callable[[str, int, int], None]

CHUNK_BYTES = 1 << 20  # what is read, unpacked or searched at once
SCRATCH_LIMIT = 16 << 30  # a compressed file of a few megabytes may claim more than any disk holds


class Bytes(Protocol):
    """Where rows lie."""

    def read(self, offset: int, size: int) -> bytes: ...


class Rows(Protocol):
    """The raw samples of one input.

    total: how many the source holds, of which `count` are used; None where it was not read to its end.
    """

    @property
    def count(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` - 1, [stop - start, *shape of the input]."""
        ...

    def place(self, index: int) -> tuple[str, int]:
        """Where row `index` lies, for people: the file and array, and its number there."""
        ...


@dataclass(frozen=True, slots=True)
class FileBytes:
    """A file that is opened for each read: there may be more of them than a process may hold open."""

    path: str

    def read(self, offset: int, size: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)


class Scratch:
    """A temporary file for unpacked rows. It has no name where the system permits, so it cannot be left behind."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._size = 0

    def append(self, data: bytes, where: str) -> int:
        """Write `data` at the end and return its offset. Raises InvalidModelError where there is no more room."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="tinyopt-samples-")  # noqa: SIM115  (lives as long as this)
            self._file.seek(self._size)
            self._file.write(data)
        except OSError as error:
            raise InvalidModelError(f"{where} cannot be unpacked into {tempfile.gettempdir()}: {error}") from error
        offset = self._size
        self._size += len(data)
        if self._size > SCRATCH_LIMIT:
            self.check_room(0, where)
        return offset

    def check_room(self, size: int, where: str) -> None:
        """Raise InvalidModelError unless `size` more bytes fit below the limit and on the disk."""
        folder = tempfile.gettempdir()
        room = min(SCRATCH_LIMIT - self._size, shutil.disk_usage(folder).free)
        if size > room or room < 0:
            raise InvalidModelError(
                f"{where} unpacks to {size:,} bytes and {folder} has room for {max(room, 0):,}: "
                "use fewer samples, save without compression, or set TMPDIR"
            )

    def read(self, offset: int, size: int) -> bytes:
        assert self._file is not None, "only what was appended is read"
        self._file.seek(offset)
        return self._file.read(size)


@dataclass(frozen=True, eq=False, slots=True)
class StoredRows:
    """`count` rows one after the other, from `offset` on, each `shape`."""

    where: str
    source: Bytes
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int
    total: int | None

    def read(self, start: int, stop: int) -> Array:
        size = math.prod(self.shape) * self.dtype.itemsize
        data = self.source.read(self.offset + start * size, (stop - start) * size)
        if len(data) != (stop - start) * size:
            raise InvalidModelError(f"{self.where} ends before sample {stop}: the file is truncated")
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape)

    def place(self, index: int) -> tuple[str, int]:
        return self.where, index


@dataclass(frozen=True, eq=False, slots=True)
class FolderRows:
    """The rows of several files, one file after the other; `count` of them, evenly spaced."""

    files: Sequence[StoredRows]
    starts: Sequence[int]  # for each file, how many rows lie in those before it
    total: int
    count: int

    @classmethod
    def of(cls, files: Sequence[StoredRows], limit: int | None) -> FolderRows:
        starts = np.cumsum([0, *(file.count for file in files)])
        total = int(starts[-1])
        return cls(files, starts[:-1].tolist(), total, total if limit is None else min(limit, total))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.files[0].dtype

    def read(self, start: int, stop: int) -> Array:
        found = [self._find(index) for index in range(start, stop)]
        return np.concatenate([file.read(row, row + 1) for file, row in found])

    def place(self, index: int) -> tuple[str, int]:
        file, row = self._find(index)
        return file.where, row

    def _find(self, index: int) -> tuple[StoredRows, int]:
        row = index * self.total // self.count
        number = bisect_right(self.starts, row) - 1
        return self.files[number], row - self.starts[number]


def chunk_rows(row_bytes: int) -> int:
    """How many rows to take at once."""
    return max(1, CHUNK_BYTES // max(1, row_bytes))
