"""Calibration samples, with the class of each where the user names labels or sorts pictures into a folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Value
from tinyopt.samples.loading import load_labelled, load_samples, no_progress
from tinyopt.samples.preprocessing import Numbers
from tinyopt.samples.rows import Progress
from tinyopt.samples.specs import RANDOM, Spec, as_texts, parse_spec, split_by_input, visible_entries
from tinyopt.samples.stored import Sample


@dataclass(frozen=True, eq=False)
class Calibration:
    """labels: the class of each sample, None where there are none. note: what was taken for classes, or was not."""

    samples: Sequence[Sample] = ()
    labels: NDArray[np.int64] | None = None
    note: str = ""


def load_calibration_set(
    spec: str | Sequence[str],
    graph_inputs: Sequence[Value],
    classes: int,
    mean: Numbers = 0.0,
    scale: Numbers = 1.0,
    limit: int | None = None,
    on_progress: Progress = no_progress,
    seed: int = 0,
) -> Calibration:
    """Samples as `load_samples` has them; with labels for `file.npz:samples,labels` and for a folder of sub-folders.

    classes: how many the model tells apart. Sub-folders are classes where there are just so many of them, numbered in
    the order of their names. Raises UsageError and InvalidModelError as `load_labelled` does, and InvalidModelError
    for a label that is no class of the model.
    """
    source = _single_source(spec, graph_inputs)
    folders = _class_folders(source)
    if source is not None and (len(source.names) == 2 or (folders and len(folders) == classes)):
        samples, labels = load_labelled(source.text, graph_inputs, mean, scale, limit, on_progress)
        _check_labels(labels, classes, source)
        return Calibration(samples, labels, _taken(folders))
    samples = load_samples(spec, graph_inputs, mean, scale, limit, on_progress, seed)
    return Calibration(samples, None, _not_taken(folders, classes))


def _single_source(spec: str | Sequence[str], graph_inputs: Sequence[Value]) -> Spec | None:
    """The .npz file or folder that feeds the only input; None where there is more than one source or another kind."""
    if as_texts(spec) == (RANDOM,) or len(graph_inputs) != 1:
        return None
    specs = split_by_input(spec, graph_inputs)
    source = parse_spec(specs if isinstance(specs, str) else specs[graph_inputs[0].name])
    return source if source.kind in ("npz", "folder") else None


def _class_folders(source: Spec | None) -> list[str]:
    """The names of the folders in a folder that holds nothing else, in the order of their numbers."""
    if source is None or source.kind != "folder" or source.names:
        return []
    entries = visible_entries(source.path)
    return [entry.name for entry in entries] if all(entry.is_dir() for entry in entries) else []


def _check_labels(labels: NDArray[np.int64], classes: int, source: Spec) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        known = f"the model's classes are 0 to {classes - 1}"
        raise InvalidModelError(f"{source.path}: sample {first} is labelled {labels[first]}; {known}")


def _taken(folders: Sequence[str]) -> str:
    if not folders:
        return ""
    return f"calibration pictures are of classes 0 to {len(folders) - 1} by the order of folders: {_listed(folders)}"


def _not_taken(folders: Sequence[str], classes: int) -> str:
    if not folders:
        return ""
    return (
        f"calibration pictures have no labels: there are {len(folders)} folders ({_listed(folders)}) and the model "
        f"has {classes} classes"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
