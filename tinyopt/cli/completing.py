"""What shells may complete: names of files, and of targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class _FileName(click.ParamType):  # type: ignore[type-arg]  # older releases have no type arguments
    """A path, which whoever opens it checks. (click's own looks at the file first, and says less about it.)"""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_file(ctx, param, incomplete)


FILE = _FileName()


def complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell itself knows the files."""
    return [CompletionItem(incomplete, type="file")]


def complete_target(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The targets that begin so."""
    from tinyopt.targets import all_targets  # it takes a while, and other commands do without

    return [name for name in all_targets() if name.startswith(incomplete)]
