"""Read a recipe: check its keys, and turn values into the text that they are on the command line."""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tinyopt.errors import UsageError
from tinyopt.recipes.lock import LOCK_TABLES, Lock, Origin
from tinyopt.samples import with_path

Setting: TypeAlias = str | bool | list[str]

_SAMPLES = ("calib", "eval")
_PATHS = ("model", "output", "cache-dir")
_COMMANDS = ("cc",)
_WITH_COMMAS = ("calib-mean", "calib-scale")  # several numbers are one option; of other keys each is one


@dataclass(frozen=True)
class Recipe:
    """settings: by key what the command line would have, paths found. sha256: of the file.

    lock: what must be so, where it is a lock.
    """

    path: Path
    settings: Mapping[str, Setting]
    sha256: str
    lock: Lock | None

    @property
    def origin(self) -> Origin:
        """What the lock of a compilation by this recipe says of it."""
        if self.lock is not None:
            return Origin(recipe=self.lock.recipe, lock=self.lock)
        return Origin(recipe={"name": self.path.name, "sha256": self.sha256})


def read_recipe(path: Path, known: Collection[str] | None = None) -> Recipe:
    """The recipe or lock in the TOML file `path`; paths in it are relative to it.

    known: the keys that there are, None to take all. Raises UsageError where the file cannot be read, for unknown keys,
    with the nearest known one, and for values of a kind that no option takes.
    """
    try:
        stored = path.read_bytes()
        content = tomllib.loads(stored.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}; `tinyopt init` writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    lock = Lock.of(content, path)
    own = LOCK_TABLES if lock is not None else ()
    options = {key: value for key, value in content.items() if key not in own}
    if known is not None:
        _check_keys(options, known, path)
    folder = path.parent if lock is None else lock.folder
    settings = {key: _setting(key, value, path, folder) for key, value in options.items()}
    return Recipe(path, settings, hashlib.sha256(stored).hexdigest(), lock)


def _check_keys(options: Mapping[str, Any], known: Collection[str], path: Path) -> None:
    for key in options:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise UsageError(f"{path}: there is no option '{key}'; the nearest is '{nearest}'")


def _setting(key: str, value: Any, path: Path, folder: Path) -> Setting:
    if isinstance(value, bool):
        return value
    texts = [_placed(key, _text(key, item, path), folder) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        return ",".join(texts) if key in _WITH_COMMAS else texts
    return texts[0]


def _text(key: str, value: Any, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{path}: '{key}' takes a text or a number, or a list of them, not a {type(value).__name__}")
    return str(value)


def _placed(key: str, text: str, folder: Path) -> str:
    """The value; where it names a file relative to `folder`, seen from the present folder."""
    if key in _SAMPLES:
        return with_path(text, lambda path: str(folder / path), folder)
    if key in _PATHS or (key in _COMMANDS and os.sep in text.partition(" ")[0]):
        return str(folder / text)
    return text
