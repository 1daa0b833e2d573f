"""Calibration and test samples: NumPy files become one batch-1 array for each graph input, all checked first."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.ir import DTYPES, Array, Value

Sample: TypeAlias = Mapping[str, Array]

_SPEC = re.compile(r"^(?P<path>.+?\.npz)(?::(?P<names>.+))?$|^(?P<npy>.+\.npy)$")
_CHUNK = 64  # samples searched for NaN at once, so that the search stays small beside the data


@dataclass(frozen=True)
class Preprocessing:
    """real = (raw - mean) * scale, in float32."""

    mean: float
    scale: float

    def apply(self, raw: Array) -> NDArray[np.float32]:
        return np.asarray((raw.astype(np.float32) - np.float32(self.mean)) * np.float32(self.scale), np.float32)


@dataclass(frozen=True, eq=False)
class SampleFile(Sequence[Sample]):
    """Samples of equal count for each graph input; one is preprocessed and cast when it is asked for.

    arrays: raw data by the input's name, the leading dimension counts the samples.
    """

    inputs: tuple[Value, ...]
    arrays: Mapping[str, Array]
    preprocessing: Preprocessing
    length: int

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
        row = index % self.length
        return {x.name: _to_input(self.arrays[x.name][row], x, self.preprocessing) for x in self.inputs}


def load_samples(
    spec: str, graph_inputs: Sequence[Value], mean: float = 0.0, scale: float = 1.0, limit: int | None = None
) -> Sequence[Sample]:
    """The first `limit` samples of `file.npz:array`, `file.npz` (one array, or the names of the inputs) or `file.npy`.

    The leading dimension counts the samples. Each becomes (x - mean) * scale in float32, cast to the input's type and
    shape; a quantized input takes integers of its own type as they are, and anything else through its quantization.
    Raises UsageError for a missing file, a malformed spec or an unknown array, InvalidModelError for unusable data.
    """
    _check_options(mean, scale, limit)
    path, names = _parse_spec(spec)
    arrays = _read_file(path)
    if names is not None and len(names) != 1:
        raise UsageError(
            f"'{spec}' names {len(names)} arrays; give one, or only the file with arrays named as the inputs"
        )
    chosen = _choose_arrays(path, arrays, graph_inputs, names[0] if names else None)
    return _checked(path, chosen, graph_inputs, Preprocessing(mean, scale), limit)


def load_labelled(
    spec: str, graph_inputs: Sequence[Value], mean: float = 0.0, scale: float = 1.0, limit: int | None = None
) -> tuple[Sequence[Sample], NDArray[np.int64]]:
    """Samples and their class numbers from `file.npz:samples,labels`.

    Raises UsageError for a missing file, a malformed spec or an unknown array, InvalidModelError for unusable data.
    """
    _check_options(mean, scale, limit)
    path, names = _parse_spec(spec)
    if names is None or len(names) != 2:
        raise UsageError(f"'{spec}' must name samples and labels, such as file.npz:x,y")
    arrays = _read_file(path)
    chosen = _choose_arrays(path, arrays, graph_inputs, names[0])
    samples = _checked(path, chosen, graph_inputs, Preprocessing(mean, scale), limit)
    labels = _read_labels(path, names[1], _array(path, arrays, names[1]))
    total = next(iter(chosen.values()))[1].shape[0]
    if len(labels) != total:
        raise InvalidModelError(
            f"{path}: '{names[1]}' has {len(labels)} labels for the {total} samples of '{names[0]}'"
        )
    return samples, labels[: len(samples)]


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a .npz file to this very path. (numpy.savez takes arrays named `file` for its own options.)"""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def random_samples(graph_inputs: Sequence[Value], count: int, seed: int) -> list[Sample]:
    """`count` samples of noise: normal for float inputs, the whole range for small integers, 0 and 1 for the others."""
    generator = np.random.default_rng(seed)
    return [{x.name: _noise(x, generator) for x in graph_inputs} for _ in range(count)]


def to_input(real: Array, graph_input: Value) -> Array:
    """One sample as `graph_input` takes it: through its quantization unless it is of the input's type already."""
    return _to_input(real, graph_input, Preprocessing(0.0, 1.0))


def _noise(value: Value, generator: np.random.Generator) -> Array:
    if value.dtype.startswith("float"):
        return generator.standard_normal(value.shape).astype(DTYPES[value.dtype])
    if value.dtype in ("int8", "uint8"):
        limits = np.iinfo(DTYPES[value.dtype])
        return generator.integers(limits.min, limits.max, value.shape, endpoint=True).astype(DTYPES[value.dtype])
    return generator.integers(0, 1, value.shape, endpoint=True).astype(DTYPES[value.dtype])


def _check_options(mean: float, scale: float, limit: int | None) -> None:
    if not (np.isfinite(mean) and np.isfinite(scale)) or scale == 0:
        raise UsageError(f"mean {mean} and scale {scale} must be finite, and the scale not zero")
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} samples leaves none")


def _parse_spec(spec: str) -> tuple[Path, list[str] | None]:
    """The file, and the names of the arrays after the colon."""
    match = _SPEC.match(spec)
    if match is None:
        raise UsageError(f"'{spec}' is no sample file: expected file.npz:array, file.npz or file.npy")
    if match["npy"] is not None:
        return Path(match["npy"]), None
    names = None if match["names"] is None else [name.strip() for name in match["names"].split(",")]
    if names is not None and not all(names):
        raise UsageError(f"'{spec}' has an empty array name")
    return Path(match["path"]), names


def _read_file(path: Path) -> Mapping[str, Array]:
    """The arrays of a file by name, read when they are asked for; the array of a .npy file is called `array`."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    try:
        content = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidModelError(
            f"{path} is no NumPy file of plain arrays (pickles are never loaded): {error}"
        ) from error
    if isinstance(content, np.ndarray):
        return {"array": content}
    if not isinstance(content, Mapping):
        raise InvalidModelError(f"{path} is no NumPy file of plain arrays")
    return content


def _array(path: Path, arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        known = ", ".join(sorted(arrays)) or "none"
        raise UsageError(f"{path} has no array '{name}'; its arrays: {known}")
    try:
        return arrays[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidModelError(f"{path}: array '{name}' cannot be read (pickles are never loaded): {error}") from error


def _choose_arrays(
    path: Path, arrays: Mapping[str, Array], graph_inputs: Sequence[Value], name: str | None
) -> dict[str, tuple[str, Array]]:
    """For each input's name, the name of an array and the array."""
    if name is not None:
        if len(graph_inputs) != 1:
            wanted = ", ".join(x.name for x in graph_inputs)
            raise UsageError(
                f"'{name}' feeds one input and the model has {wanted}: give {path} with arrays of those names"
            )
        return {graph_inputs[0].name: (name, _array(path, arrays, name))}
    if len(graph_inputs) == 1 and len(arrays) == 1:
        only = next(iter(arrays))
        return {graph_inputs[0].name: (only, _array(path, arrays, only))}
    missing = [x.name for x in graph_inputs if x.name not in arrays]
    if missing:
        known = ", ".join(sorted(arrays)) or "none"
        raise UsageError(f"{path} has no array for input '{missing[0]}'; choose one with {path}:NAME out of: {known}")
    return {x.name: (x.name, _array(path, arrays, x.name)) for x in graph_inputs}


def _checked(
    path: Path,
    chosen: Mapping[str, tuple[str, Array]],
    graph_inputs: Sequence[Value],
    preprocessing: Preprocessing,
    limit: int | None,
) -> SampleFile:
    for x in graph_inputs:
        name, array = chosen[x.name]
        _check_array(f"{path}: array '{name}'", array, x)
    counts = {name: len(array) for name, array in chosen.values()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise InvalidModelError(f"{path}: the arrays hold different numbers of samples: {listed}")
    total = next(iter(counts.values()))
    arrays = {key: array for key, (_, array) in chosen.items()}
    return SampleFile(tuple(graph_inputs), arrays, preprocessing, total if limit is None else min(limit, total))


def _check_array(where: str, array: Array, graph_input: Value) -> None:
    """Raise InvalidModelError unless every row of `array` is a sample for `graph_input`."""
    if array.dtype.name not in DTYPES:
        raise InvalidModelError(f"{where} is of type {array.dtype}, which is no number")
    if array.ndim == 0 or array.shape[0] == 0:
        raise InvalidModelError(f"{where} of shape {list(array.shape)} holds no samples")
    accepted = [graph_input.shape]
    if graph_input.shape[:1] == (1,):
        accepted.append(graph_input.shape[1:])
    if array.shape[1:] not in accepted:
        raise InvalidModelError(
            f"{where} has samples of shape {list(array.shape[1:])}; "
            f"input '{graph_input.name}' takes {' or '.join(str(list(shape)) for shape in accepted)}"
        )
    is_real = array.dtype.kind == "f"
    for start in range(0, len(array) if is_real else 0, _CHUNK):
        bad = ~np.isfinite(array[start : start + _CHUNK]).reshape(len(array[start : start + _CHUNK]), -1).all(axis=1)
        if bad.any():
            raise InvalidModelError(f"{where} holds NaN or infinity in sample {start + int(np.argmax(bad))}")
    _check_type(where, array, graph_input)


def _check_type(where: str, array: Array, graph_input: Value) -> None:
    if graph_input.dtype.startswith("float") or array.dtype.name == graph_input.dtype:
        return
    if graph_input.quantization is not None:
        return
    if array.dtype.kind == "f":
        kind = f"input '{graph_input.name}' takes {graph_input.dtype} and has no scale to quantize with"
        raise InvalidModelError(f"{where} is {array.dtype}; {kind}")
    limits = (0, 1) if graph_input.dtype == "bool" else _limits(graph_input.dtype)
    if int(array.min()) < limits[0] or int(array.max()) > limits[1]:
        raise InvalidModelError(
            f"{where} holds values outside {graph_input.dtype}, which input '{graph_input.name}' takes"
        )


def _limits(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(DTYPES[dtype])
    return int(limits.min), int(limits.max)


def _to_input(raw: Array, graph_input: Value, preprocessing: Preprocessing) -> Array:
    shaped = np.asarray(raw).reshape(graph_input.shape)
    if graph_input.dtype.startswith("float"):
        return preprocessing.apply(shaped).astype(DTYPES[graph_input.dtype])
    if shaped.dtype.name == graph_input.dtype or graph_input.quantization is None:
        return shaped.astype(DTYPES[graph_input.dtype])
    return graph_input.quantization.quantize(preprocessing.apply(shaped), graph_input.dtype)


def _read_labels(path: Path, name: str, array: Array) -> NDArray[np.int64]:
    flat = array.reshape(-1) if array.ndim and array.size == array.shape[0] else array
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise InvalidModelError(
            f"{path}: labels '{name}' must be one integer for each sample, not {array.dtype}{list(array.shape)}"
        )
    return flat.astype(np.int64)
