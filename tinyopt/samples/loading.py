"""From what the user names to checked samples: one source for all inputs, or one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.ir import Value
from tinyopt.samples.csv_files import read_csv
from tinyopt.samples.noise import NOISE_SAMPLES, NoiseSamples
from tinyopt.samples.numpy_files import ONLY, StoredArray, array_names, find_array, open_rows, read_whole
from tinyopt.samples.pictures import picture_files, read_pictures
from tinyopt.samples.preprocessing import Numbers, Preprocessing, check_channels
from tinyopt.samples.rows import FolderRows, Progress, Rows, Scratch, StoredRows
from tinyopt.samples.specs import (
    NUMPY_FILES,
    PICTURES,
    RANDOM,
    Spec,
    as_texts,
    check_kind,
    evenly_spaced,
    parse_spec,
    split_by_input,
    visible_entries,
)
from tinyopt.samples.stored import Sample, checked


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class _Loading:
    """What all sources of one call share."""

    limit: int | None
    on_progress: Progress
    scratch: Scratch = field(default_factory=Scratch)


def load_samples(
    spec: str | Sequence[str],
    graph_inputs: Sequence[Value],
    mean: Numbers = 0.0,
    scale: Numbers = 1.0,
    limit: int | None = None,
    on_progress: Progress = no_progress,
    seed: int = 0,
) -> Sequence[Sample]:
    """Samples for `graph_inputs`: of one `spec`, or of several that each begin with `input=`.

    A spec is `file.npz:array`, `file.npz` (one array, or the names of the inputs), `file.npy`, `file.csv`, a picture, a
    folder of .npy and .npz files or of pictures, or `random`. `limit`: the first so many of a file, or so many evenly
    spaced ones of a folder; of `random` 64 unless told. Each becomes (x - mean) * scale in float32, cast to the input's
    type and shape; mean and scale are one number, or one for each channel. A quantized input takes integers of its own
    type as they are, and anything else through its quantization.

    Only the samples that are asked for are in memory. Raises UsageError for a missing file, a malformed spec or an
    unknown array, InvalidModelError for unusable data.
    """
    preprocessing = _checked_options(mean, scale, limit)
    if as_texts(spec) == (RANDOM,):
        for graph_input in graph_inputs:
            check_channels(preprocessing, graph_input)
        return NoiseSamples(
            tuple(replace(value) for value in graph_inputs), preprocessing, limit or NOISE_SAMPLES, seed
        )
    loading = _Loading(limit, on_progress)
    specs = split_by_input(spec, graph_inputs)
    if isinstance(specs, str):
        rows = _open_all(parse_spec(specs), graph_inputs, loading)
    else:
        rows = _open_each({name: parse_spec(text) for name, text in specs.items()}, graph_inputs, loading)
    return checked(rows, graph_inputs, preprocessing, on_progress)


def load_labelled(
    spec: str,
    graph_inputs: Sequence[Value],
    mean: Numbers = 0.0,
    scale: Numbers = 1.0,
    limit: int | None = None,
    on_progress: Progress = no_progress,
) -> tuple[Sequence[Sample], NDArray[np.int64]]:
    """Samples and their class numbers, from `file.npz:samples,labels`, a folder of pictures in one sub-folder per class
    (numbered from 0 in the order of their names), or a `file.csv` whose last column is the class number.

    Raises UsageError for a missing file, a malformed spec or an unknown array, InvalidModelError for unusable data.
    """
    preprocessing = _checked_options(mean, scale, limit)
    loading = _Loading(limit, on_progress)
    source = parse_spec(spec)
    if source.kind == "npz" and len(source.names) == 2:
        rows, labels = _labelled_arrays(source, graph_inputs, loading)
    elif source.kind == "folder":
        rows, labels = _labelled_pictures(source, _only_input(source, graph_inputs), loading)
    elif source.kind == "csv":
        rows, labels = read_csv(
            source.path, _only_input(source, graph_inputs), limit, loading.scratch, True, on_progress
        )
    else:
        raise UsageError(
            f"'{spec}' must name samples and labels, such as file.npz:x,y, a CSV file with the class number last, or a "
            "folder of pictures with a sub-folder for each class"
        )
    samples = checked({graph_inputs[0].name: rows}, graph_inputs, preprocessing, on_progress)
    return samples, labels


def _checked_options(mean: Numbers, scale: Numbers, limit: int | None) -> Preprocessing:
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} samples leaves none")
    return Preprocessing.of(mean, scale)


def _open_all(spec: Spec, graph_inputs: Sequence[Value], loading: _Loading) -> Mapping[str, Rows]:
    """The rows of all inputs, of one source."""
    if len(graph_inputs) == 1 or (spec.kind in ("npz", "folder") and not spec.names):
        return {x.name: _open(spec, x, graph_inputs, loading) for x in graph_inputs}
    wanted = ", ".join(f"{x.name}=..." for x in graph_inputs)
    raise UsageError(f"'{spec.text}' feeds one input and the model has {len(graph_inputs)}: give {wanted}")


def _open_each(specs: Mapping[str, Spec], graph_inputs: Sequence[Value], loading: _Loading) -> Mapping[str, Rows]:
    """The rows of each input, of its own source."""
    if loading.limit is not None and len({spec.kind == "folder" for spec in specs.values()}) > 1:
        raise UsageError(
            "a limit takes the first samples of a file and evenly spaced ones of a folder: these inputs have both"
        )
    return {x.name: _open(specs[x.name], x, [x], loading) for x in graph_inputs}


def _open(spec: Spec, graph_input: Value, siblings: Sequence[Value], loading: _Loading) -> Rows:
    """siblings: the inputs that the same source feeds, `graph_input` among them."""
    if spec.kind == "csv":
        return read_csv(spec.path, graph_input, loading.limit, loading.scratch, False, loading.on_progress)[0]
    if spec.kind == "picture":
        return _pictures(spec, [spec.path], graph_input, loading)
    if spec.kind == "folder" and _is_of_pictures(spec.path):
        return _pictures(spec, picture_files(spec.path)[0], _only_input(spec, siblings), loading)
    if spec.kind == "folder":
        return _open_folder(spec, graph_input, siblings, loading)
    array = _choose_array(spec.path, spec.names, graph_input, siblings)
    return open_rows(array, graph_input, loading.limit, loading.scratch)


def _only_input(spec: Spec, graph_inputs: Sequence[Value]) -> Value:
    if len(graph_inputs) != 1:
        raise UsageError(f"'{spec.text}' feeds one input and the model has {len(graph_inputs)}")
    return graph_inputs[0]


def _choose_array(path: Path, names: Sequence[str], graph_input: Value, siblings: Sequence[Value]) -> StoredArray:
    """The array of the name that was given, else that of the input's name, else the only one there is."""
    if path.suffix.lower() == ".npy":
        if names or len(siblings) > 1:
            raise UsageError(f"{path} holds one array without a name: it feeds one input")
        return find_array(path, ONLY)
    if len(names) > 1:
        raise UsageError(
            f"'{path}:{','.join(names)}' names {len(names)} arrays; give one, or only the file with arrays named as "
            "the inputs"
        )
    if names:
        return find_array(path, names[0])
    known = array_names(path)
    if len(siblings) == 1 and len(known) == 1:
        return find_array(path, known[0])
    if graph_input.name not in known:
        listed = ", ".join(known) or "none"
        raise UsageError(
            f"{path} has no array for input '{graph_input.name}'; choose one with {path}:NAME of: {listed}"
        )
    return find_array(path, graph_input.name)


def _is_of_pictures(folder: Path) -> bool:
    """By its first entry; folders within mean pictures by class."""
    entries = visible_entries(folder)
    if not entries:
        raise InvalidModelError(f"{folder} holds no samples: there is no file in it")
    return entries[0].is_dir() or entries[0].suffix.lower() in PICTURES


def _pictures(spec: Spec, paths: Sequence[Path], graph_input: Value, loading: _Loading) -> StoredRows:
    if spec.names or not paths:
        problem = "has no arrays, it holds pictures" if spec.names else "holds no samples: there is no picture in it"
        raise InvalidModelError(f"{spec.path} {problem}")
    chosen = evenly_spaced(paths, loading.limit)
    return read_pictures(str(spec.path), chosen, graph_input, len(paths), loading.scratch, loading.on_progress)


def _open_folder(spec: Spec, graph_input: Value, siblings: Sequence[Value], loading: _Loading) -> FolderRows:
    paths = visible_entries(spec.path)
    check_kind(spec.path, paths, NUMPY_FILES)
    files: list[StoredRows] = []
    for done, path in enumerate(paths, start=1):
        array = _choose_array(path, spec.names, graph_input, siblings)
        files.append(open_rows(array, graph_input, None, loading.scratch))
        if files[-1].dtype != files[0].dtype:
            raise InvalidModelError(
                f"{files[-1].where} is {files[-1].dtype} and {files[0].where} {files[0].dtype}: save both alike"
            )
        loading.on_progress("opening files", done, len(paths))
    return FolderRows.of(files, loading.limit)


def _labelled_arrays(
    spec: Spec, graph_inputs: Sequence[Value], loading: _Loading
) -> tuple[StoredRows, NDArray[np.int64]]:
    graph_input = _only_input(spec, graph_inputs)
    rows = open_rows(find_array(spec.path, spec.names[0]), graph_input, loading.limit, loading.scratch)
    labels = _read_labels(find_array(spec.path, spec.names[1]))
    if len(labels) != rows.total:
        raise InvalidModelError(
            f"{spec.path}: '{spec.names[1]}' has {len(labels)} labels for the {rows.total} samples of '{spec.names[0]}'"
        )
    return rows, labels[: rows.count]


def _labelled_pictures(spec: Spec, graph_input: Value, loading: _Loading) -> tuple[StoredRows, NDArray[np.int64]]:
    paths, numbers = picture_files(spec.path)
    if not numbers:
        raise UsageError(f"{spec.path} has no sub-folders, one for each class, that would give labels")
    label_of = dict(zip(paths, numbers, strict=True))
    rows = _pictures(spec, paths, graph_input, loading)
    return rows, np.array([label_of[path] for path in evenly_spaced(paths, loading.limit)], np.int64)


def _read_labels(array: StoredArray) -> NDArray[np.int64]:
    is_flat = len(array.shape) > 0 and array.data_bytes == array.shape[0] * array.dtype.itemsize
    if not is_flat or array.dtype.kind not in "iu":
        raise InvalidModelError(
            f"{array.path}: labels '{array.name}' must be one integer for each sample, "
            f"not {array.dtype}{list(array.shape)}"
        )
    return read_whole(array).reshape(-1).astype(np.int64)
