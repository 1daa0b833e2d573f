"""The command line."""

from __future__ import annotations

from tinyopt.cli.main import main

__all__ = ["main"]
