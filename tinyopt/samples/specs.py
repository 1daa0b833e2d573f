"""How sample files are named on the command line: `file.npz:array`, `input=folder`, `samples.csv`, `random`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyopt.errors import UsageError
from tinyopt.ir import Value

RANDOM = "random"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
NUMPY_FILES = (".npy", ".npz")
EXPECTED = "file.npz:array, file.npz, file.npy, file.csv, a picture, or a folder of NumPy files or pictures"

_NAMED = re.compile(r"^(?P<path>.+?\.npz):(?P<names>.+)$")


@dataclass(frozen=True)
class Spec:
    """One source of samples. names: the arrays after the colon; none: those that fit."""

    text: str
    path: Path
    names: tuple[str, ...]
    kind: Literal["npy", "npz", "csv", "picture", "folder"]


def source_of(specs: str | Sequence[str]) -> str:
    """The specs for reports: files by their names, without the folders that they are in."""
    return ", ".join(_without_folders(text) for text in as_texts(specs))


def _without_folders(text: str) -> str:
    name, equals, spec = text.rpartition("=")
    path, names = _split_names(spec)
    return name + equals + path.name + (":" + ",".join(names) if names else "")


def with_path(text: str, change: Callable[[Path], str], folder: Path = Path()) -> str:
    """A spec whose file or folder is named as `change` says; `random` stays as it is.

    folder: what the spec is relative to.

    >>> with_path("x=calib.npz:x", lambda path: f"data/{path}")
    'x=data/calib.npz:x'
    """
    if text == RANDOM:
        return text
    name, equals, rest = text.rpartition("=")
    path, names = _split_names(text, folder)
    if equals and not (folder / path).exists():
        path, names = _split_names(rest, folder)
    else:
        name = equals = ""
    return name + equals + change(path) + (":" + ",".join(names) if names else "")


def paths_of(specs: str | Sequence[str]) -> list[Path]:
    """The files and folders that the specs name, in their order."""
    found: list[Path] = []

    def note(path: Path) -> str:
        found.append(path)
        return str(path)

    for text in as_texts(specs):
        with_path(text, note)
    return found


def as_texts(specs: str | Sequence[str]) -> tuple[str, ...]:
    return (specs,) if isinstance(specs, str) else tuple(specs)


def split_by_input(specs: str | Sequence[str], graph_inputs: Sequence[Value]) -> dict[str, str] | str:
    """`input=spec` for each input by name, or the one spec that is for all of them.

    Raises UsageError where an input has no spec or two, and where several specs do not name their inputs.
    """
    texts = as_texts(specs)
    names = sorted((value.name for value in graph_inputs), key=len, reverse=True)
    found: dict[str, str] = {}
    for text in texts:
        name = next((name for name in names if text.startswith(f"{name}=")), None)
        if name is None and len(texts) == 1:
            return text
        if name is None:
            raise UsageError(f"'{text}' must say which input it is for, as NAME=file.npz:array: {', '.join(names)}")
        if name in found:
            raise UsageError(f"input '{name}' is given twice: '{found[name]}' and '{text[len(name) + 1 :]}'")
        found[name] = text[len(name) + 1 :]
    missing = [value.name for value in graph_inputs if value.name not in found]
    if missing:
        raise UsageError(f"no samples for input '{missing[0]}': add {missing[0]}=file.npz:array")
    return found


def parse_spec(text: str) -> Spec:
    """Raises UsageError for what is no sample file, and for files that do not exist."""
    path, names = _split_names(text)
    if path.is_dir():
        return Spec(text, path, names, "folder")
    suffix = path.suffix.lower()
    if suffix not in (*NUMPY_FILES, *PICTURES, ".csv"):
        raise UsageError(f"'{text}' is no sample file or folder: expected {EXPECTED}")
    if not path.is_file():
        hint = ": is there an input of the name before '='?" if "=" in text else ""
        raise UsageError(f"no such file: {path}{hint}")
    if suffix == ".npz":
        return Spec(text, path, names, "npz")
    if suffix == ".npy":
        return Spec(text, path, names, "npy")
    return Spec(text, path, names, "csv" if suffix == ".csv" else "picture")


def _split_names(text: str, folder: Path = Path()) -> tuple[Path, tuple[str, ...]]:
    match = _NAMED.match(text)
    left, colon, right = text.rpartition(":")
    if match is not None:
        left, right = match["path"], match["names"]
    elif not colon or not left or (folder / text).exists() or not (folder / left).is_dir():
        return Path(text), ()
    names = tuple(name.strip() for name in right.split(","))
    if not all(names):
        raise UsageError(f"'{text}' has an empty array name")
    return Path(left), names


def files_of(specs: str | Sequence[str], graph_inputs: Sequence[Value]) -> list[Path]:
    """What is read where samples are given so: files, and of folders themselves, too, which change with their entries.

    Raises UsageError as `split_by_input` and `parse_spec` do.
    """
    if as_texts(specs) == (RANDOM,):
        return []
    chosen = split_by_input(specs, graph_inputs)
    texts = [chosen] if isinstance(chosen, str) else list(chosen.values())
    return [file for text in texts for file in _with_entries(parse_spec(text).path)]


def _with_entries(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [path, *(file for entry in visible_entries(path) for file in _with_entries(entry))]


def visible_entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without hidden files and READMEs."""
    return sorted(
        (path for path in folder.iterdir() if not path.name.startswith(".") and path.stem.upper() != "README"),
        key=lambda path: path.name,
    )


def check_kind(folder: Path, files: Sequence[Path], suffixes: Sequence[str]) -> None:
    """Raise UsageError for the first of the files that has another suffix."""
    stranger = next((path for path in files if path.suffix.lower() not in suffixes or not path.is_file()), None)
    if stranger is not None:
        raise UsageError(
            f"{folder}: '{stranger.name}' is none of {', '.join(suffixes)}; a folder holds files of one kind "
            "(hidden files and READMEs are left out)"
        )


def evenly_spaced(items: Sequence[Path], limit: int | None) -> list[Path]:
    """`limit` of the items, the first among them: those of a sorted folder are of all its kinds then."""
    count = len(items) if limit is None else min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]
