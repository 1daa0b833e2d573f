"""recipe.lock.toml: all that the bytes of an output folder follow from, so that they can be made again elsewhere."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from tinyopt import __version__
from tinyopt.errors import UsageError
from tinyopt.onnx_import import external_files
from tinyopt.options import CompileOptions
from tinyopt.own_sources import sources_digest
from tinyopt.pass_manager import Pass, pass_module
from tinyopt.recipes.keys import option_values
from tinyopt.samples import paths_of

LOCK_NAME = "recipe.lock.toml"
LOCK_TABLES = ("lock-version", "recipe", "versions", "sha256")
_LOCK_VERSION = 1
_HEADER = f"""\
# What this folder was compiled from. The same bytes again, also on a copy of the files elsewhere:
#   tinyopt compile --recipe {LOCK_NAME} -o out
# Files are looked for from the folder of this file upwards, then from the present one.

"""
_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy", "scikit-learn")
_SOURCES = "tinyopt-sources"
_PASS = "pass "
_NONE = "none"
_DIGITS = 16  # of hashes that tell versions apart
_HELP = "bring that one, or compile from a recipe of your own"


@dataclass(frozen=True)
class Lock:
    """recipe: name and sha256 of the recipe that the options were read from; empty where there was none.

    versions: of the packages, of tinyopt's own sources, of passes that are not its own, and of the C compiler.
    sha256: of each file by the name that it has here. path, folder: where the lock itself is, and what the names are
    relative to.
    """

    options: Mapping[str, Any]
    recipe: Mapping[str, str]
    versions: Mapping[str, str]
    sha256: Mapping[str, str]
    path: Path = field(default=Path(LOCK_NAME), compare=False)

    @staticmethod
    def of(content: Mapping[str, Any], path: Path) -> Lock | None:
        """The lock that TOML file `path` holds, None where it is no lock. Raises UsageError for a damaged one."""
        if "lock-version" not in content:
            return None
        if content["lock-version"] != _LOCK_VERSION:
            raise UsageError(
                f"{path} is a lock of version {content['lock-version']}; this tinyopt reads {_LOCK_VERSION}"
            )
        tables = [content.get(name, {}) for name in LOCK_TABLES[1:]]
        if not all(isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) for table in tables):
            raise UsageError(f"{path} is damaged: {', '.join(LOCK_TABLES[1:])} must be tables of texts")
        options = {key: value for key, value in content.items() if key not in LOCK_TABLES}
        recipe, versions, sha256 = tables
        return Lock(options, recipe, versions, sha256, path)

    @property
    def model_sha256(self) -> str:
        """Of the model's file."""
        return self.sha256[self.options["model"]]

    @property
    def folder(self) -> Path:
        """The first folder from that of the lock upwards, else the present one, that has the model."""
        places = [self.path.parent, *_absolute(self.path).parent.parents, Path()]
        return next((place for place in places if (place / str(self.options.get("model"))).is_file()), places[0])

    def text(self) -> str:
        content = {"lock-version": _LOCK_VERSION, **self.options}
        content |= {"recipe": self.recipe} if self.recipe else {}
        return _HEADER + tomli_w.dumps({**content, "versions": self.versions, "sha256": self.sha256})

    def check(self, now: Lock) -> None:
        """Raise UsageError that names the first file or version of `now` that is not as it is here."""
        for name, version in self.versions.items():
            found = now.versions.get(name, _NONE)
            if found != version:
                raise UsageError(f"{self.path} was made with {name} {version}, here is {found}: {_HELP}")
        for name in sorted(now.versions.keys() - self.versions.keys()):
            if name == _SOURCES or name.startswith(_PASS):
                raise UsageError(f"{self.path} knows nothing of {name}, here is {now.versions[name]}: {_HELP}")
        for name, digest in self.sha256.items():
            if now.sha256.get(name) != digest:
                raise UsageError(f"{name} is not what {self.path} was made from, its sha256 differs: {_HELP}")
        if extra := now.sha256.keys() - self.sha256.keys():
            raise UsageError(f"{self.path} knows nothing of {min(extra)}: {_HELP}")


@dataclass(frozen=True)
class Origin:
    """Where the options and the files of a compilation came from.

    recipe: name and sha256 of the recipe; empty where there was none. lock: the lock that is replayed. stand_ins: for
    files that were made of objects in memory, the files that they stand for in the lock.
    """

    recipe: Mapping[str, str] = field(default_factory=dict[str, str])
    lock: Lock | None = None
    stand_ins: Mapping[Path, Path] = field(default_factory=dict[Path, Path])


def make_lock(
    model: Path,
    output: Path,
    options: CompileOptions,
    prefix: str,
    compiler: str | None,
    origin: Origin,
    passes: Sequence[Pass] = (),
) -> Lock:
    """The lock of a compilation of `model` into `output`.

    prefix: of C names. compiler: its version; None without any. passes: those that are not tinyopt's own. Files that
    have the hashes of a lock that is replayed are called as there, whatever they are called here.
    """
    places = {path: _absolute(origin.stand_ins.get(path, path)) for path in _input_files(model, options)}
    digests = {place: _sha256(path) for path, place in places.items()}
    names = _names(list(digests), _absolute(output).parent)
    if origin.lock is not None:
        names = _names_in(origin.lock, names, digests)
    values = option_values(replace(options, name=prefix), lambda path: names[places[_absolute(path)]])
    return Lock(
        {"model": names[places[_absolute(model)]], **values},
        origin.recipe,
        {
            "tinyopt": __version__,
            _SOURCES: sources_digest()[:_DIGITS],
            **_versions(options),
            **{_PASS + step.name: _fingerprint(step) for step in passes},
            "compiler": compiler or _NONE,
        },
        {names[place]: digest for place, digest in sorted(digests.items(), key=lambda item: names[item[0]])},
    )


def _fingerprint(step: Pass) -> str:
    """Of a pass with its options, and of the file that it is in."""
    module = pass_module(step)
    if module is None:
        return "from no file"
    return hashlib.sha256(f"{step!r}\n".encode() + module).hexdigest()[:_DIGITS]


def _versions(options: CompileOptions) -> dict[str, str]:
    packages = (*_PACKAGES, "torch") if options.recover == "distill" else _PACKAGES
    return {package: importlib.metadata.version(package) for package in packages}


def _input_files(model: Path, options: CompileOptions) -> list[Path]:
    """The model, what lies beside it, and the files or folders of samples; absolute, each once."""
    samples = [*paths_of(options.calibration or ()), *paths_of(options.evaluation or ())]
    return list(dict.fromkeys(_absolute(path) for path in (model, *external_files(model), *samples)))


def _names(files: Sequence[Path], beside: Path) -> dict[Path, str]:
    """Names relative to the folder that holds all files and `beside`, or all files; else the last parts of their paths.

    They never say where that folder is.
    """
    for places in ([*files, beside / "x"], files):
        common = Path(os.path.commonpath([path.parent for path in places]))
        if common != Path(common.anchor):
            return {path: path.relative_to(common).as_posix() for path in files}
    names = {path: path.name for path in files}
    length = 1
    while len(set(names.values())) < len(files):
        length += 1
        names = {path: "/".join(path.parts[-length:]) for path in files}
    return names


def _names_in(lock: Lock, names: Mapping[Path, str], digests: Mapping[Path, str]) -> dict[Path, str]:
    """The lock's own names of the files that are where it looks for them, and of such as hold the same."""
    by_place = {_absolute(lock.folder / name): name for name in lock.sha256}
    by_digest = {digest: name for name, digest in lock.sha256.items()}
    return {path: by_place.get(path) or by_digest.get(digests[path]) or name for path, name in names.items()}


def _absolute(path: Path) -> Path:
    """Links stay what they are called."""
    return Path(os.path.abspath(path))


def _sha256(path: Path) -> str:
    """Of a file; of a folder: of the names and contents of all visible files in it."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        name = file.relative_to(path)
        if not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()
