"""`--recipe`: a file that gives the options of `tinyopt compile` that the command line does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyopt.cli.completing import FILE
from tinyopt.errors import TinyoptError

if TYPE_CHECKING:
    from tinyopt.recipes import Recipe

# they say how the command talks or what it shows, and do not belong to what is compiled
_NOT_IN_RECIPES = frozenset(
    {"recipe", "print_passes", "print_changed", "dump_passes", "verbose", "quiet", "is_json", "help"}
)


def recipe_keys(command: click.Command) -> dict[str, click.Parameter]:
    """What may stand in a recipe for `command`: its options without the dashes, and its arguments."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        key = _key(parameter)
        if key and parameter.name not in _NOT_IN_RECIPES:
            found[key] = parameter
    return found


def _key(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.name or ""
    return next((name[2:] for name in parameter.opts if name.startswith("--")), "")


def _use(context: click.Context, _option: click.Parameter, path: Path | None) -> Recipe | None:
    if path is None:
        return None
    from tinyopt.recipes import read_recipe

    parameters = recipe_keys(context.command)
    try:
        recipe = read_recipe(path, parameters)
    except TinyoptError as error:
        raise click.UsageError(str(error), context) from None
    values = {key: _as_given(parameters[key], value) for key, value in recipe.settings.items()}
    context.default_map = {str(parameters[key].name): value for key, value in values.items()}
    return recipe


def _as_given(parameter: click.Parameter, value: str | bool | list[str]) -> str | bool | list[str]:
    """The value as click takes it for `parameter`. Raises UsageError for one of another kind."""
    is_flag = isinstance(parameter, click.Option) and parameter.is_flag
    if is_flag != isinstance(value, bool):
        wanted = "true or false" if is_flag else "a text or a number"
        raise click.UsageError(f"the recipe's '{_key(parameter)}' takes {wanted}")
    is_multiple = isinstance(parameter, click.Option) and parameter.multiple
    if isinstance(value, list) and not is_multiple:
        raise click.UsageError(f"the recipe's '{_key(parameter)}' takes one value, not a list")
    return [value] if is_multiple and isinstance(value, str) else value


recipe_option = click.option(
    "--recipe",
    type=FILE,
    metavar="FILE",
    is_eager=True,
    callback=_use,
    help="Take what is not given here from a recipe (tinyopt init), or do again what a recipe.lock.toml says.",
)
