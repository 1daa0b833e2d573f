"""--target, as every command that compiles or estimates has it."""

from __future__ import annotations

import click

from tinyopt.cli.completing import complete_target

target_option = click.option(
    "--target",
    "-t",
    default="arm",
    show_default=True,
    shell_complete=complete_target,
    help="The machine to compile for: see `tinyopt targets`.",
)
