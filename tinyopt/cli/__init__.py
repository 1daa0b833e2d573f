"""The command line.

`main` is imported when it is asked for: `tinyopt.entry` starts its process before anything large is in memory, and
before any library has started threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyopt.cli.commands import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    if name != "main":
        raise AttributeError(f"module 'tinyopt.cli' has no attribute '{name}'")
    from tinyopt.cli.commands import main

    return main
