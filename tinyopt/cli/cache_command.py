"""`tinyopt cache info` and `tinyopt cache clear`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
from rich.table import Table

from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.disk_cache import cache_kinds, clear_cache, default_cache_dir
from tinyopt.errors import UsageError

_SECONDS = {"m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_folder_option = click.option("--cache-dir", type=FILE, help="Where it is.  [default: ~/.cache/tinyopt]")


@click.group("cache", short_help="Show or remove what makes compilations quicker.")
def cache_command() -> None:
    """Look at what is kept to make compilations quicker, or remove it.

    \b
    tinyopt cache info
    tinyopt cache clear --older-than 30d
    """


@cache_command.command("info", short_help="Show where the cache is and what it holds.")
@_folder_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def info_command(cache_dir: Path | None, is_json: bool) -> None:
    """Show where the cache is, how large it is, and what it holds by kind.

    \b
    tinyopt cache info
    """
    screen = Output(0, is_json)
    with reported_errors(screen):
        folder = cache_dir or default_cache_dir()
        kinds = cache_kinds(folder)
        table = Table("kind", box=None, pad_edge=False, title=str(folder), title_justify="left")
        for column in ("entries", "bytes"):
            table.add_column(column, justify="right")
        table.add_column("what it is")
        for kind in kinds:
            table.add_row(kind.name, f"{kind.entries:,}", f"{kind.bytes:,}", kind.what)
        entries, size = sum(kind.entries for kind in kinds), sum(kind.bytes for kind in kinds)
        table.add_row("all", f"{entries:,}", f"{size:,}", "", style="bold")
        data = {"folder": str(folder), "entries": entries, "bytes": size}
        screen.show(table, data | {"kinds": [dataclasses.asdict(kind) for kind in kinds]})


@cache_command.command("clear", short_help="Remove what is kept, all of it or what is old.")
@_folder_option
@click.option("--older-than", "age", metavar="30d", help="Only what is older: minutes, hours, days, weeks (12h).")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def clear_command(cache_dir: Path | None, age: str | None, quiet: bool) -> None:
    """Remove what is kept, all of it or what is old; compilations that run meanwhile compute it anew.

    \b
    tinyopt cache clear --older-than 30d

    The instruction counter of `tinyopt profile` stays: an emulator may be about to load it.
    """
    screen = Output(-1 if quiet else 0, False)
    with reported_errors(screen):
        folder = cache_dir or default_cache_dir()
        entries, size = clear_cache(folder, None if age is None else _seconds(age))
        screen.say(f"removed {entries:,} entries, {size:,} bytes, from {folder}")


def _seconds(age: str) -> int:
    """Raises UsageError for what is no age.

    >>> _seconds("2h")
    7200
    """
    found = re.fullmatch(r"(\d{1,6})([mhdw])", age.strip())
    if not found:
        raise UsageError(f"--older-than takes 90m, 12h, 30d or 4w, not '{age}'")
    return int(found[1]) * _SECONDS[found[2]]
