"""CSV: one sample per row, parsed once into the scratch file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Value
from tinyopt.samples.rows import Progress, Scratch, StoredRows

_FIELD_CHARACTERS = 40  # a float64 in full has 24; a line that is longer on average is no line of numbers
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class _Table:
    """How the rows of a file are read. labels: how many fields stand behind those of the sample, 0 or 1."""

    path: Path
    fields: int
    labels: int

    def lines(self) -> Iterator[tuple[int, str, int]]:
        """Number, text and length in bytes of every line that is not empty."""
        limit = (self.fields + self.labels + 100) * _FIELD_CHARACTERS
        with open(self.path, "rb") as file:
            number = 0
            while data := file.readline(limit + 1):
                number += 1
                if len(data) > limit:
                    raise InvalidModelError(
                        f"{self.path}: line {number} is longer than the {self.fields + self.labels} numbers of a sample"
                    )
                text = data.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip()
                if text:
                    yield number, text, len(data)


def read_csv(
    path: Path, graph_input: Value, limit: int | None, scratch: Scratch, has_labels: bool, on_progress: Progress
) -> tuple[StoredRows, NDArray[np.int64]]:
    """The first `limit` rows, and with `has_labels` the class numbers that stand last in each.

    Fields are separated by commas, semicolons or tabs; a first line without any number is a header. Raises
    InvalidModelError for rows of another length and for what is no number.
    """
    table = _Table(path, math.prod(graph_input.shape), int(has_labels))
    is_real = graph_input.dtype.startswith("float") or graph_input.quantization is not None
    place = scratch.append(b"", str(path))
    labels: list[int] = []
    count, done, size = 0, 0, path.stat().st_size
    delimiter = ""
    for number, text, line_bytes in table.lines():
        done += line_bytes
        delimiter = delimiter or next((mark for mark in _DELIMITERS if mark in text), ",")
        fields = [_unquoted(field.strip()) for field in text.split(delimiter)]
        if count == 0 and number == 1 and not any(_is_number(field) for field in fields):
            continue
        if limit is not None and count == limit:
            break
        _check_fields(table, number, fields)
        values = _parse(table, number, fields[: table.fields], is_real)
        labels += [int(value) for value in _parse(table, number, fields[table.fields :], False)]
        scratch.append(values.tobytes(), str(path))
        count += 1
        if count % 64 == 0:
            on_progress(f"reading {path.name}", done, size)
    if count == 0:
        raise InvalidModelError(f"{path} holds no samples")
    dtype = np.dtype(np.float32 if is_real else np.int64)
    rows = StoredRows(str(path), scratch, place, dtype, graph_input.shape, count, None if limit else count)
    return rows, np.array(labels, np.int64)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _plain(text: str) -> str:
    """Python takes digits of other scripts and underscores between digits, too. Raises ValueError for these."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return text


def _is_number(text: str) -> bool:
    try:
        float(_plain(text))
    except ValueError:
        return False
    return True


def _check_fields(table: _Table, number: int, fields: list[str]) -> None:
    if len(fields) != table.fields + table.labels:
        wanted = f"the {table.fields} of a sample" + (" and its class number" if table.labels else "")
        raise InvalidModelError(f"{table.path}: line {number} has {len(fields)} fields, not {wanted}")


def _parse(table: _Table, number: int, fields: list[str], is_real: bool) -> NDArray[np.float32 | np.int64]:
    try:
        if is_real:
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is found as such
                return np.array([float(_plain(field)) for field in fields], np.float64).astype(np.float32)
        return np.array([int(_plain(field)) for field in fields], np.int64)
    except (ValueError, OverflowError):
        wrong = next(field for field in fields if not _is_number(field) or not (is_real or _is_integer(field)))
        kind = "number" if is_real else "integer"
        raise InvalidModelError(f"{table.path}: line {number} has '{wrong[:40]}', which is no {kind}") from None


def _is_integer(text: str) -> bool:
    try:
        return -(2**63) <= int(_plain(text)) < 2**63
    except ValueError:
        return False
