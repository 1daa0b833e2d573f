"""What a user who knows nothing is told: the help of every command, and what a shell completes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class

from tests.test_cli import assert_refused, tinyopt
from tinyopt.cli import main


def commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))


def test_every_command_has_an_example_a_summary_that_is_not_cut_and_a_help_text_for_each_option() -> None:
    for names, command in commands(main):
        text = command.help or ""
        assert re.search(rf"^\s*tinyopt {' '.join(names)}", text, re.MULTILINE), names
        assert not command.get_short_help_str(62).endswith("..."), names
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, (names, option.name)


def completed(words: str, monkeypatch: pytest.MonkeyPatch, shell: str = "bash") -> list[str]:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", words.split(" ")[-1] if shell == "fish" else str(words.count(" ")))
    completion = get_completion_class(shell)
    assert completion is not None
    return completion(main, {}, "tinyopt", "_TINYOPT_COMPLETE").complete().splitlines()


def test_commands_options_targets_and_files_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("tinyopt comp", monkeypatch) == ["plain,compile", "plain,completion"]
    assert completed("tinyopt compil", monkeypatch) == ["plain,compile"]
    assert completed("tinyopt compile --max-f", monkeypatch) == ["plain,--max-flash"]
    assert completed("tinyopt compile -t cortex-m4", monkeypatch) == ["plain,cortex-m4"]
    assert completed("tinyopt compile --dtype float1", monkeypatch) == ["plain,float16"]
    for words in ("tinyopt compile kw", "tinyopt compile --calib kw", "tinyopt validate kw"):
        assert completed(words, monkeypatch) == ["file,kw"]
    assert completed("tinyopt compil", monkeypatch, "zsh")[:2] == ["plain", "compile"]
    assert completed("tinyopt compil", monkeypatch, "fish")[0].startswith("plain,compile")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_each_shell_is_printed(shell: str) -> None:
    done = tinyopt("completion", shell)
    assert done.code == 0
    assert f"_TINYOPT_COMPLETE={shell}_complete" in done.out


def test_other_shells_are_refused() -> None:
    assert_refused(tinyopt("completion", "csh"), 2, "'csh'", "'fish'")


def test_bash_itself_completes_by_the_script(tmp_path: Path) -> None:
    command = tmp_path / "tinyopt"
    program = "import sys; sys.argv[0] = 'tinyopt'; from tinyopt.entry import run; run()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(tinyopt("completion", "bash").out)
    words = f'source "{tmp_path}/script"; COMP_WORDS=({command} compil); COMP_CWORD=1; _tinyopt_completion {command}'
    done = subprocess.run(
        ["bash", "-c", f'{words}; echo "${{COMPREPLY[@]}}"'], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["compile"], done.stderr
