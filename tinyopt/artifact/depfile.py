"""What an output depends on, as a rule for Make, Ninja, CMake and Meson: the model is a source file like others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from tinyopt.errors import UsageError
from tinyopt.whole_files import whole_file

_SOURCES = (".py", ".j2", ".json", ".css", ".js", ".cmake")
_EXTENSION_POINTS = ("tinyopt.passes", "tinyopt.targets")


def write_depfile(file: Path, target: str, sources: Iterable[Path]) -> None:
    """Write the rule that `target` is made from `sources` and the compiler itself.

    Each source also stands as a target of its own: one that was removed makes the output out of date, and is no error.
    Raises UsageError where a name cannot stand in such a rule, and where the file cannot be written.
    """
    names = list(dict.fromkeys(_escaped(path.absolute().as_posix()) for path in (*sources, *compiler_files())))
    lines = [f"{_escaped(target)}: \\", *(f"  {name} \\" for name in names[:-1]), f"  {names[-1]}"]
    text = "\n".join((*lines, "", *(f"{name}:" for name in names), ""))
    with whole_file(file) as work:
        work.parent.mkdir(parents=True, exist_ok=True)
        work.write_bytes(os.fsencode(text))


def _escaped(name: str) -> str:
    """A file's name as compilers write it into such rules.

    >>> print(_escaped("my model #1$.onnx"))
    my\\ model\\ \\#1$$.onnx
    """
    if any(mark in name for mark in "\n\r\\"):
        raise UsageError(f"{name!r} has a line break or backslash, which no depfile can hold: rename it")
    drive, name = (name[:2], name[2:]) if name[1:2] == ":" and os.name == "nt" else ("", name)
    escapes = {" ": "\\ ", "#": "\\#", "$": "$$", ":": "\\:"}
    return drive + "".join(escapes.get(character, character) for character in name)


def compiler_files() -> list[Path]:
    """The compiler's own sources, and what changes with the versions of the packages that it computes with."""
    extensions = [point for group in _EXTENSION_POINTS for point in metadata.entry_points(group=group)]
    packages = ["tinyopt", "tinyopt.passes", "tinyopt.targets", *(point.module.split(".")[0] for point in extensions)]
    found = [file for name in packages for file in _sources_of(name)]
    return sorted({*found, *_records(("tinyopt", *_required()))})


def _sources_of(package: str) -> list[Path]:
    found = find_spec(package)
    if found is None:
        return []
    if found.submodule_search_locations is None:
        return [Path(found.origin)] if found.origin else []
    folders = [Path(folder) for folder in found.submodule_search_locations]
    return [file for folder in folders for file in folder.rglob("*") if file.suffix in _SOURCES]


def _required() -> list[str]:
    """The distributions that the compiler requires without any extra."""
    try:
        lines = metadata.requires("tinyopt") or []
    except metadata.PackageNotFoundError:  # it runs from a checkout that is not installed
        return []
    required = [line for line in lines if "extra ==" not in line]
    return [line[: next((i for i, c in enumerate(line) if c in " <>=!~[;("), len(line))] for line in required]


def _records(names: Iterable[str]) -> list[Path]:
    """The METADATA files of distributions: their folders are named after the version."""
    found: list[Path] = []
    for name in names:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        found += [Path(str(file.locate())) for file in files if file.name == "METADATA"]
    return [file.resolve() for file in found if file.is_file()]
