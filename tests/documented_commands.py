"""The commands in README.md and docs/, and a folder with the files that they name.

A comment in the line before a block says what the tests do with it:

    <!-- commands: run -->                 run it, and compare what a console block shows with what is printed
    <!-- commands: run, needs torch -->    the same where a program or Python package of that name is installed
    <!-- commands: run, needs the measured compiler -->    where gcc is the one that the figures in docs/ are of
    <!-- commands: not run: REASON -->     leave it alone, but for its options
    (nothing)                              run it under `pytest --full-commands` only

Whatever it says, every `tinyopt` in it must name commands and options that exist, with values that they take. Blocks
are those of `sh` and `console`. Those of `python` and `c` count where such a comment is before them: the one is run,
the other compiled beside the header that was written last.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from tests.digits import DATA, MODEL
from tests.onnx_models import model_of, node
from tools.documentation.command_pages import commands_page

ROOT = Path(__file__).resolve().parents[1]
PAGES: tuple[Path, ...] = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LAYER_NAMES: Mapping[str, str] = {  # those that the examples prune and keep
    "stem": "conv0",
    "pointwise1": "conv1",
    "pointwise2": "conv6",
    "pointwise3": "conv8",
    "classifier": "fc",
}

_BLOCK = re.compile(r"(?:^<!-- commands: (?P<mark>.+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
_MARK = re.compile(r"run(?:, needs (?P<needs>[\w.+-]+|the measured compiler))?|not run: (?P<reason>.+)")


@dataclass(frozen=True)
class Command:
    """What is typed, and the lines that are shown below it: none where the page shows no output."""

    typed: str
    shown: tuple[str, ...] = ()

    @property
    def words(self) -> list[str] | None:
        """The arguments of `tinyopt`; None for what is another program's, or the shell's."""
        lexer = shlex.shlex(self.typed, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = list(lexer)
        if words[:1] != ["tinyopt"] or any(set(word) <= set("|&;<>") or "$" in word for word in words):
            return None
        return words[1:]


@dataclass(frozen=True)
class Block:
    """A block of commands. mark: of the comment before it, empty where there is none."""

    line: int
    language: str
    text: str
    mark: str

    @property
    def is_run(self) -> bool:
        return self.mark.startswith("run")

    @property
    def is_never_run(self) -> bool:
        return self.mark.startswith("not run")

    @property
    def needs(self) -> str | None:
        found = _MARK.fullmatch(self.mark)
        return found["needs"] if found else None

    @property
    def commands(self) -> list[Command]:
        """Those for the shell: none in a block of another language."""
        reader = _READERS.get(self.language)
        return list(reader(self.text)) if reader else []


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page. Raises ValueError for a comment before one that is none of those above."""
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        line, mark = text.count("\n", 0, match.start("language")) + 1, match["mark"] or ""
        if mark and _MARK.fullmatch(mark) is None:
            raise ValueError(f"line {line}: no such comment: {mark}")
        if match["language"] in _READERS or mark:
            found.append(Block(line, match["language"], match["text"], mark))
    return found


def help_blocks() -> list[Block]:
    """The examples in the help of all commands."""
    return blocks_of(commands_page())


def _script(text: str) -> Iterator[Command]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield Command(line)


def _console(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        typed, *shown = part.replace("\\\n", " ").rstrip().split("\n")
        yield Command(typed, tuple(shown))


_READERS: Mapping[str, Callable[[str], Iterator[Command]]] = {"sh": _script, "console": _console}


def furnish(folder: Path) -> None:
    """Put everything there that the pages' commands read: the digits network under the names of the examples."""
    shutil.copy(MODEL, folder)
    shutil.copy(DATA, folder)
    model = onnx.load(MODEL)
    for layer in model.graph.node:
        layer.name = LAYER_NAMES.get(layer.name, layer.name)
    for name in ("kws", "model", "m"):
        onnx.save(model, folder / f"{name}.onnx")
    onnx.save(_edited(model), folder / "edited.onnx")
    arrays = np.load(DATA)
    for name in ("calib", "test", "samples", "recordings"):
        np.savez(folder / f"{name}.npz", x=arrays["x"][:20], y=arrays["y"][:20])
    _furnish_photos(folder)
    _furnish_fusion(folder)


def _edited(model: onnx.ModelProto) -> onnx.ModelProto:
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    weights = edited.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 2, weights.name))
    return edited


def _furnish_photos(folder: Path) -> None:
    weights = np.linspace(-1, 1, 8 * 3 * 9, dtype=np.float32).reshape(8, 3, 3, 3)
    nodes = [node("Conv", "image w", "a"), node("GlobalAveragePool", "a", "b"), node("Flatten", "b", "scores")]
    onnx.save(model_of(nodes, {"image": (1, 3, 16, 16)}, {"w": weights}, "scores"), folder / "photos.onnx")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (20, 3, 16, 16)).astype(np.float32)
    np.savez(folder / "train.npz", x=pixels, y=generator.integers(0, 8, 20))
    (folder / "photos").mkdir()
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "photos" / f"{number}.png")


def _furnish_fusion(folder: Path) -> None:
    shapes = {"camera": (1, 1, 2, 3), "imu": (1, 6)}
    nodes = [node("Flatten", "camera", "flat"), node("Add", "flat imu", "sum")]
    onnx.save(model_of(nodes, shapes, outputs="sum"), folder / "fusion.onnx")
    rows = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    np.savetxt(folder / "imu.csv", rows, delimiter=",")
    (folder / "frames").mkdir()
    np.save(folder / "frames" / "all.npy", rows.reshape(12, 1, 2, 3))
