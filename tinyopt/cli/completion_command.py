"""`tinyopt completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_TINYOPT_COMPLETE"  # click's own: the scripts call `tinyopt` with it


@click.command("completion", short_help="Print the script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that has SHELL complete commands, options and their values.

    \b
    tinyopt completion bash > ~/.local/share/bash-completion/completions/tinyopt
    tinyopt completion zsh > ~/.zfunc/_tinyopt       (with fpath+=~/.zfunc before compinit in ~/.zshrc)
    tinyopt completion fish > ~/.config/fish/completions/tinyopt.fish

    For one session: eval "$(tinyopt completion bash)". bash must be 4.4 or later.
    """
    completion = get_completion_class(shell)
    assert completion is not None, "click knows every shell of the choice"
    click.echo(completion(context.find_root().command, {}, "tinyopt", _VARIABLE).source())
