"""What the documentation tells to type is there, and where it shows what is printed, that is what is printed."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.documented_commands import PAGES, ROOT, Block, Command, blocks_of, furnish, help_blocks
from tinyopt.cli import main
from tinyopt.targets import target_named
from tinyopt.toolchain import find_compiler
from tools.benchmark import committed
from tools.benchmark_figures import GCC

DIFFER, NOT_INSTALLED = 6, 7  # exit codes
ELSEWHERE = {  # pages whose commands want a build around them, and the tests that have one
    "build-integration.md": "test_cmake.py, test_make_and_meson.py, test_firmware_example.py, and those of --emit",
}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    furnish(folder)
    return folder


@pytest.fixture
def work(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name, in which commands run; the shell finds this tinyopt."""
    shutil.copytree(furnished, tmp_path / "work")
    program = tmp_path / "bin" / "tinyopt"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tinyopt.cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("TINYOPT_CC", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("page", [*PAGES, None], ids=lambda page: page.name if page else "help")
def test_every_command_names_options_that_exist_with_values_that_they_take(page: Path | None, work: Path) -> None:
    blocks = blocks_of(page.read_text()) if page else help_blocks()
    for block in blocks:
        for command in block.commands:
            if command.words is not None:
                try:
                    parse(command.words, work)
                except click.ClickException as error:
                    pytest.fail(f"line {block.line}: {command.typed}: {error.format_message()}")


def parse(words: Sequence[str], work: Path) -> None:
    """What click does before a command runs. Raises click.ClickException as it does."""
    for option, file in itertools.pairwise(words):
        if option == "--recipe" and not (work / file).exists():
            (work / file).parent.mkdir(exist_ok=True)
            (work / file).write_text('model = "kws.onnx"\n')
    command: click.Command = main
    context = click.Context(command, info_name="tinyopt")
    remaining = list(words)
    while isinstance(command, click.Group) and remaining and not remaining[0].startswith("-"):
        name = remaining.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no command '{name}'")
        command, context = found, click.Context(found, info_name=name, parent=context)
    with contextlib.suppress(click.exceptions.Exit):  # --help and its like
        command.make_context(context.info_name, remaining, parent=context.parent)


@pytest.mark.qemu
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(
    page: Path, work: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    is_full = request.config.getoption("--full-commands")
    is_full = is_full and page.name not in ELSEWHERE
    blocks = [b for b in blocks_of(page.read_text()) if not b.is_never_run and (b.is_run or is_full)]
    variables: dict[str, Any] = {}
    for block in blocks:
        if block.needs is not None and not is_there(block.needs):
            continue
        if block.language == "python":
            exec(block.text, variables)
        elif block.language == "c":
            check_c(block, work)
        for command in block.commands:
            run(command, block, work, monkeypatch)


def check_c(block: Block, work: Path) -> None:
    """Fail where the block does not compile beside the header that was written last."""
    if shutil.which("cc") is None:
        return
    header = max(work.glob("*/*.h"), key=lambda file: file.stat().st_mtime)
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(header.parent), "-xc", "-"]
    done = subprocess.run(command, input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"line {block.line}: {done.stderr}"


def is_there(needed: str) -> bool:
    if needed != "the measured compiler":
        return shutil.which(needed) is not None or find_spec(needed) is not None
    if shutil.which(GCC) is None:
        return False
    return find_compiler(target_named("cortex-m4"), GCC).version() == committed()[0][GCC]


def run(command: Command, block: Block, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command. Fails with what it printed; skips the test where a compiler or emulator is missing."""
    words = command.words
    if words is None:
        done = subprocess.run(["sh", "-ec", command.typed], cwd=work, capture_output=True, text=True, check=False)
        code, out, err = done.returncode, done.stdout, done.stderr
    else:
        if words[:1] == ["cache"]:  # not the user's own
            monkeypatch.setenv("TINYOPT_CACHE_DIR", str(work.parent / "cache"))
        result = CliRunner().invoke(main, words)
        code, out, err = result.exit_code, result.stdout, result.stderr
        if words[:1] == ["cache"]:
            monkeypatch.delenv("TINYOPT_CACHE_DIR")
    where = f"line {block.line}: {command.typed}"
    if code == NOT_INSTALLED:
        pytest.skip(f"{where}: {err}")
    must_fail = any(line.startswith("error: ") for line in command.shown)
    if not (code == DIFFER and words is not None and words[0] == "diff"):
        assert (code != 0) == must_fail, f"{where}\n{out}{err}"
    printed = err if must_fail else out
    if (line := first_not_printed(command.shown, printed)) is not None:
        pytest.fail(f"{where}: the page shows\n{line}\nbut this is printed:\n{printed}")


def first_not_printed(shown: Sequence[str], printed: str) -> str | None:
    """The first line that a page shows and the command did not print at that place; `...` stands for any lines."""
    rest = iter([line.rstrip() for line in printed.splitlines()])
    may_skip = False
    for wanted in shown:
        if wanted == "...":
            may_skip = True
            continue
        found = wanted in rest if may_skip else next(rest, None) == wanted  # `in` goes on behind what it found
        if not found:
            return wanted
        may_skip = False
    return None if may_skip or not shown else next(rest, None)


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ((), None),
        (("a", "b", "c"), None),
        (("a", "..."), None),
        (("...", "b", "..."), None),
        (("...", "c"), None),
        (("a", "c"), "c"),
        (("...", "c", "b"), "b"),
        (("a", "b"), "c"),
    ],
)
def test_lines_that_a_page_shows_must_be_printed_in_this_order(shown: tuple[str, ...], missing: str | None) -> None:
    assert first_not_printed(shown, "a\nb \nc\n") == missing
