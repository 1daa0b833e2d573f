"""Models and samples that are objects of Python, stored as the files that a compilation reads.

So they go the way of files: the same checks, the same limits, the same bytes. A whole array is stored as `numpy.save`
stores it, so that a lock knows it again in a file of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from numpy.typing import ArrayLike

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.ir import Array
from tinyopt.onnx_import.limits import LARGEST_FILE_BYTES
from tinyopt.samples import save_arrays

OneSample: TypeAlias = ArrayLike | Mapping[str, ArrayLike]
Samples: TypeAlias = (
    str | Path | Sequence[str] | ArrayLike | Mapping[str, ArrayLike] | tuple[ArrayLike, ArrayLike] | Iterable[OneSample]
)

_MOST_BYTES = 16 << 30  # of what an iterator gives: one without an end would fill the disk
_TOO_LARGE = (
    f"the model has more than {LARGEST_FILE_BYTES:,} bytes: save its weights in a file beside it, and give its path"
)


@dataclass(frozen=True)
class Stored:
    """specs: as `--calib` takes them. files: those that were written. inputs: the names that arrays came with."""

    specs: tuple[str, ...]
    files: tuple[Path, ...] = ()
    inputs: tuple[str, ...] = ()


def store_model(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to `path`.

    Raises InvalidModelError where it is too large, or keeps weights in files that only its path would lead to.
    """
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InvalidModelError(
                f"weights '{tensor.name}' lie in another file: give the model's path, or load them (onnx.load does)"
            )
    try:
        content = model.SerializeToString()
    except (EncodeError, ValueError, MemoryError) as error:
        raise InvalidModelError(_TOO_LARGE) from error
    if len(content) > LARGEST_FILE_BYTES:
        raise InvalidModelError(_TOO_LARGE)
    path.write_bytes(content)


def store_samples(samples: Samples, folder: Path, name: str, limit: int | None = None) -> Stored:
    """Write `samples` to files called `name` in `folder`; what names files already is only read.

    One array holds all samples of the only input, along its first dimension; a mapping has one for each input by name;
    a tuple of two is samples and the class of each; anything else that can be gone through gives one sample after the
    other, an array or a mapping. limit: take no more than so many from an iterator.
    Raises UsageError for what is none of these.
    """
    if isinstance(samples, str | Path):
        return Stored((str(samples),))
    if isinstance(samples, Mapping):
        arrays = {str(input_name): _array(array, name) for input_name, array in samples.items()}
        return _store_each(arrays, folder, name)
    if isinstance(samples, tuple) and len(samples) == 2 and not isinstance(samples[0], str):
        return _store_labelled(_array(samples[0], name), _array(samples[1], name), folder, name)
    if _is_array(samples):
        return _store_one(_array(samples, name), folder, name)
    if not isinstance(samples, Iterable):
        raise UsageError(f"{name} is a {type(samples).__name__}: give an array, a path, or samples to go through")
    items: Iterator[Any] = iter(samples)
    first = next(items, None)
    if first is None:
        raise UsageError(f"{name} has no samples")
    if isinstance(first, str):
        return Stored((first, *map(str, items)))
    return _store_all(first, items, folder, name, limit)


def _is_array(samples: object) -> bool:
    return isinstance(samples, np.ndarray) or hasattr(samples, "__array__")


def _array(given: Any, name: str) -> Array:
    try:
        return np.ascontiguousarray(given)
    except ValueError as error:
        raise UsageError(f"{name} is no array: {error}") from error


def _save(path: Path, array: Array, name: str) -> None:
    try:
        np.save(path, array, allow_pickle=False)
    except ValueError as error:
        raise UsageError(f"{name} is of type {array.dtype}, which is no number") from error


def _store_one(array: Array, folder: Path, name: str) -> Stored:
    path = folder / f"{name}.npy"
    _save(path, array, name)
    return Stored((str(path),), (path,))


def _store_each(arrays: Mapping[str, Array], folder: Path, name: str) -> Stored:
    paths = _paths(arrays, folder, name)
    for input_name, path in paths.items():
        _save(path, arrays[input_name], name)
    return _stored(paths)


def _store_labelled(array: Array, labels: Array, folder: Path, name: str) -> Stored:
    path = folder / f"{name}.npz"
    if array.dtype.hasobject or labels.dtype.hasobject:
        raise UsageError(f"{name} is of type {array.dtype} with labels of type {labels.dtype}, which are no numbers")
    save_arrays(path, {"x": array, "y": labels})
    return Stored((f"{path}:x,y",), (path,))


def _store_all(first: Any, rest: Iterator[Any], folder: Path, name: str, limit: int | None) -> Stored:
    """Samples one after the other: never more than one of them is in memory."""
    is_named = isinstance(first, Mapping)
    paths = _paths(first, folder, name) if is_named else {"": folder / f"{name}.npy"}
    with ExitStack() as stack:
        writers = {key: stack.enter_context(_Writer(path, name)) for key, path in paths.items()}
        for number, sample in enumerate(_with_first(first, islice(rest, None if limit is None else limit - 1))):
            arrays: Mapping[str, Any] = sample if isinstance(sample, Mapping) else {"": sample}
            if arrays.keys() != writers.keys():
                raise UsageError(f"{name}: sample {number} has other inputs than the first: {', '.join(arrays)}")
            for key, writer in writers.items():
                writer.append(_array(arrays[key], name))
    return _stored(paths) if is_named else Stored((str(paths[""]),), (paths[""],))


def _with_first(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _paths(inputs: Iterable[str], folder: Path, name: str) -> dict[str, Path]:
    """Names of inputs may hold anything: files are numbered."""
    return {input_name: folder / f"{name}-{number}.npy" for number, input_name in enumerate(inputs)}


def _stored(paths: Mapping[str, Path]) -> Stored:
    specs = tuple(f"{input_name}={path}" for input_name, path in paths.items())
    return Stored(specs, tuple(paths.values()), tuple(paths))


class _Writer:
    """A .npy file that grows by one sample at a time; its header, which has room for that, is written again last."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._count = self._bytes = 0
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> _Writer:
        self._file: IO[bytes] = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._count:
            self._file.seek(0)
            self._write_header()
        self._file.close()

    def append(self, sample: Array) -> None:
        """Raises UsageError for a sample of another kind than the first, and where there is no end of them."""
        if not self._count:
            self._dtype, self._shape = sample.dtype, sample.shape
            if self._dtype.hasobject:
                raise UsageError(f"{self._name} is of type {self._dtype}, which is no number")
            self._write_header()
        if (sample.dtype, sample.shape) != (self._dtype, self._shape):
            raise UsageError(
                f"{self._name}: sample {self._count} is {sample.dtype}{list(sample.shape)} and the first "
                f"{self._dtype}{list(self._shape)}"
            )
        self._count += 1
        self._bytes += sample.nbytes
        if self._bytes > _MOST_BYTES:
            raise UsageError(f"{self._name} gives more than {_MOST_BYTES:,} bytes: take some with calib_samples")
        self._file.write(sample.tobytes())

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
