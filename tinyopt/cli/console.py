"""What every command does alike: errors with their exit codes, progress, and where output goes.

Log and progress go to stderr, data to stdout. NO_COLOR is honoured (by rich).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tinyopt.artifact.folder import FULL
from tinyopt.errors import InvalidModelError, TinyoptError, UsageError
from tinyopt.report.plain import printable

VERY_VERBOSE = 2
PIPE_WIDTH = 140
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # a name may look like [bold] or :smile:


class Output:
    """How a command talks: quietly, with JSON, or with tables."""

    def __init__(self, verbosity: int, is_json: bool) -> None:
        self.verbosity = verbosity
        self.is_json = is_json
        # tables that are read by a file or a pipe should not be cut at 80 columns
        self.data = Console(**_PLAIN, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        self.log = Console(stderr=True, **_PLAIN)

    def show(self, report: RenderableType, data: Any) -> None:
        """Print the result: as JSON where asked for, else for people."""
        if self.is_json:
            from tinyopt.report.build import to_json  # it brings the whole compiler along

            click.echo(to_json(data), nl=False)
        elif self.verbosity >= 0:
            self.data.print(report)

    def say(self, text: str) -> None:
        if self.verbosity >= 0 and not self.is_json:
            self.log.print(printable(text), soft_wrap=True)

    @contextmanager
    def progress(self) -> Generator[Callable[[str, int, int], None]]:
        """A bar on stderr that follows (what, done, all); silent where nobody sees it."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        is_hidden = self.verbosity < 0 or self.is_json or not self.log.is_terminal
        with Progress(*columns, console=self.log, transient=True, disable=is_hidden) as bar:
            task = bar.add_task("", total=None)
            yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)

    def fail(self, error: BaseException) -> NoReturn:
        """One line on stderr and the right exit code; a traceback only with -vv."""
        if self.verbosity >= VERY_VERBOSE:
            traceback.print_exc()
        if isinstance(error, TinyoptError):
            self.log.print(f"error: {_one_line(str(error))}", soft_wrap=True)
            sys.exit(error.exit_code)
        if isinstance(error, OSError) and error.filename is not None:
            self.log.print(f"error: {_one_line(str(error.filename))}: {error.strerror}", soft_wrap=True)
            sys.exit(UsageError.exit_code)
        if isinstance(error, OSError) and error.errno in FULL:
            self.log.print(f"error: cannot write: {error.strerror}; make room", soft_wrap=True)
            sys.exit(UsageError.exit_code)
        if isinstance(error, MemoryError):
            help_text = "use a smaller model, or raise TINYOPT_MAX_MEMORY_BYTES"
            self.log.print(f"error: out of memory: {help_text}", soft_wrap=True)
            sys.exit(InvalidModelError.exit_code)
        reason = f"{type(error).__name__}: {_one_line(str(error))}"
        self.log.print(f"error: internal error, please report it (-vv shows where): {reason}", soft_wrap=True)
        sys.exit(1)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


@contextmanager
def reported_errors(output: Output) -> Generator[None]:
    """Turn every exception of the body into a message and an exit code."""
    try:
        yield
    except (click.exceptions.ClickException, click.exceptions.Exit, click.exceptions.Abort):
        raise
    except KeyboardInterrupt:
        output.log.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # whoever reads the output has seen enough
        sys.stdout = None  # or the interpreter would try to flush it once more
        sys.exit(0)
    except Exception as error:
        output.fail(error)
