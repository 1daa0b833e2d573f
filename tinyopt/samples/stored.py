"""Samples that are read when they are asked for, after one pass over all of them that checks and fingerprints."""

from __future__ import annotations

import abc
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, overload

import numpy as np

from tinyopt.errors import InvalidModelError
from tinyopt.ir import DTYPES, Array, Value
from tinyopt.samples.preprocessing import Preprocessing, check_channels, to_inputs
from tinyopt.samples.rows import Progress, Rows, chunk_rows

Sample: TypeAlias = Mapping[str, Array]


class LazySamples(Sequence[Sample], abc.ABC):
    """Samples of which one is made when it is asked for."""

    length: int

    @abc.abstractmethod
    def read(self, row: int) -> Sample:
        """The sample of this number, from 0 to length - 1."""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return self.read(index % self.length)


@dataclass(frozen=True, eq=False)
class StoredSamples(LazySamples):
    """Samples in files; one is read, preprocessed and cast when it is asked for.

    rows: the raw samples of each input, by its name. content_sha256: see `fingerprint`.
    """

    inputs: tuple[Value, ...]
    rows: Mapping[str, Rows]
    preprocessing: Preprocessing
    length: int
    content_sha256: str

    def read(self, row: int) -> Sample:
        """One sample, read from its files."""
        return {x.name: to_inputs(self.rows[x.name].read(row, row + 1), x, self.preprocessing)[0] for x in self.inputs}


def fingerprint(samples: Sequence[Sample]) -> str:
    """The sha256, in hexadecimal, of samples as a model is fed with them: names, types, shapes, order and content.

    Equal for equal samples, wherever they come from. Known already for samples that were loaded; others are read once.
    """
    if isinstance(samples, StoredSamples):
        return samples.content_sha256
    first: Sample = samples[0] if samples else {}
    sums = {name: hashlib.sha256() for name in first}
    for sample in samples:
        for name, digest in sums.items():
            digest.update(np.ascontiguousarray(sample[name]).data)
    return _combined(
        [[name, a.dtype.name, list(a.shape), sums[name].hexdigest()] for name, a in first.items()], len(samples)
    )


def checked(
    rows: Mapping[str, Rows], graph_inputs: Sequence[Value], preprocessing: Preprocessing, on_progress: Progress
) -> StoredSamples:
    """Samples whose every number was looked at once. Raises InvalidModelError for the first that cannot be fed."""
    counts = {name: found.count if found.total is None else found.total for name, found in rows.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        where = next(iter(rows.values())).place(0)[0]
        raise InvalidModelError(f"{where}: the inputs have different numbers of samples: {listed}")
    inputs = tuple(replace(value) for value in graph_inputs)  # passes may change the graph's own
    scans = [_Scan(value, rows[value.name], preprocessing) for value in inputs]
    length = min(found.count for found in rows.values())
    content = [[x.name, x.dtype, list(x.shape), scan.run(on_progress)] for x, scan in zip(inputs, scans, strict=True)]
    return StoredSamples(inputs, dict(rows), preprocessing, length, _combined(content, length))


def _combined(content: Sequence[Sequence[Any]], count: int) -> str:
    return hashlib.sha256(json.dumps([count, *content]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Scan:
    """The one pass over the rows of an input."""

    value: Value
    rows: Rows
    preprocessing: Preprocessing

    def run(self, on_progress: Progress) -> str:
        """The sha256 of all that is fed."""
        check_channels(self.preprocessing, self.value)
        self._check_type()
        step = chunk_rows(math.prod(self.value.shape) * self.rows.dtype.itemsize)
        digest = hashlib.sha256()
        for start in range(0, self.rows.count, step):
            stop = min(start + step, self.rows.count)
            raw = self.rows.read(start, stop)
            self._check_raw(raw, start)
            fed = to_inputs(raw, self.value, self.preprocessing)
            self._check_finite(fed, start, f"does not fit {self.value.dtype} as (raw - mean) * scale")
            digest.update(np.ascontiguousarray(fed).data)
            on_progress("checking samples", stop, self.rows.count)
        return digest.hexdigest()

    def _is_cast(self) -> bool:
        """Whether integers of another type go in as they are."""
        is_same = self.rows.dtype.name == self.value.dtype
        return not self.value.dtype.startswith("float") and not is_same and self.value.quantization is None

    def _check_type(self) -> None:
        if self._is_cast() and self.rows.dtype.kind == "f":
            raise InvalidModelError(
                f"{self.rows.place(0)[0]} is {self.rows.dtype}; "
                f"input '{self.value.name}' takes {self.value.dtype} and has no scale to quantize with"
            )

    def _check_raw(self, raw: Array, start: int) -> None:
        self._check_finite(raw, start, "holds NaN or infinity")
        if self._is_cast():
            low, high = (0, 1) if self.value.dtype == "bool" else _limits(self.value.dtype)
            wrong = (raw < low) | (raw > high)
            self._refuse_rows(wrong, start, f"has values outside {self.value.dtype}, which '{self.value.name}' takes,")

    def _check_finite(self, array: Array, start: int, problem: str) -> None:
        if array.dtype.kind == "f":
            self._refuse_rows(~np.isfinite(array), start, problem)

    def _refuse_rows(self, wrong: Array, start: int, problem: str) -> None:
        if not wrong.any():
            return
        first = int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1)))
        where, number = self.rows.place(start + first)
        raise InvalidModelError(f"{where} {problem} in sample {number}")


def _limits(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(DTYPES[dtype])
    return int(limits.min), int(limits.max)
