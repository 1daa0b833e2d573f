"""`tinyopt init`."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import click
import tomli_w

from tinyopt.cli.compile_command import compile_command
from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.cli.recipe_option import recipe_keys
from tinyopt.cli.target_option import target_option
from tinyopt.errors import UsageError
from tinyopt.onnx_import.outline import read_outline
from tinyopt.outline import Tensor
from tinyopt.report.plain import printable
from tinyopt.targets import target_named
from tinyopt.whole_files import whole_file

_WIDTH = 110
# of options without a default
_EXAMPLES: dict[str, Any] = {
    "output": "out",
    "name": "model",
    "calib-samples": 200,
    "prune-to": "macs=2M",
    "prune-layer": ["conv1*=0.5"],
    "keep": ["head*"],
    "cluster-layer": ["fc*=64"],
    "max-flash": "64K",
    "max-ram": "16K",
    "max-cycles": "2M",
    "max-drop": 1.0,
    "io": "int8",
    "mem": "dtcm=64K,sram=256K",
    "eval": "test.npz:x,y",
    "disable-pass": ["split-rows"],
    "set": ["quantize.method=minmax"],
    "emit": ["zephyr"],
    "cc": "clang",
    "cache-dir": "cache",
}


@click.command("init", short_help="Write a recipe with every option of `tinyopt compile`.")
@click.argument("model", type=FILE)
@target_option
@click.option("--output", "-o", type=FILE, default="tinyopt.toml", show_default=True, help="File to write.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def init_command(model: Path, target: str, output: Path, quiet: bool) -> None:
    """Write a recipe for the ONNX file MODEL: every option of `tinyopt compile` with its default, to be edited.

    \b
    tinyopt init kws.onnx --target cortex-m4
    tinyopt compile --recipe tinyopt.toml -o out
    """
    screen = Output(-1 if quiet else 0, False)
    with reported_errors(screen):
        target_named(target)
        inputs = read_outline(model).inputs
        if output.exists():
            raise UsageError(f"{output} exists; write another file with --output")
        relative = Path(os.path.relpath(model, output.parent)).as_posix()
        with whole_file(output) as work:
            work.write_text(recipe_text(relative, target, inputs), encoding="utf-8")
        screen.say(f"wrote {output}; next: tinyopt compile --recipe {output}")


def recipe_text(model: str, target: str, inputs: tuple[Tensor, ...]) -> str:
    """The recipe as text. model: its path as seen from the recipe."""
    listed = "".join(f"#   {printable(tensor.name)}  {printable(tensor.type_text)}\n" for tensor in inputs)
    parts = [
        "# Options of `tinyopt compile`: remove the # before those that should be other than their defaults.\n"
        "# Paths are relative to this file; what the command line says goes before.\n"
        f"#   tinyopt compile --recipe FILE\n#\n# Inputs of the model:\n{listed}",
        tomli_w.dumps({"model": model, "target": target}),
    ]
    examples = _EXAMPLES | {"shape": [_shape(t) for t in inputs], "calib": _calibration(inputs)}
    for key, parameter in recipe_keys(compile_command).items():
        if isinstance(parameter, click.Option) and key != "target":
            parts.append(_entry(key, parameter, examples))
    return "\n".join(parts)


def _entry(key: str, option: click.Option, examples: dict[str, Any]) -> str:
    """One line of what it does, and the default, or an example where there is none."""
    help_text = " ".join((option.help or "").replace("[default: yes]", "").split())
    is_example = key in examples
    value = examples[key] if is_example else _default(option)
    note = f"{help_text} For example:" if is_example else help_text
    comment = textwrap.fill(note, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    setting = tomli_w.dumps({key: value}) if not isinstance(value, list) else _one_line(key, value)
    return f"{comment}\n# {setting}"


def _one_line(key: str, values: list[str]) -> str:
    """A list without the line breaks that would not be comments."""
    items = [tomli_w.dumps({key: value}).partition(" = ")[2].strip() for value in values]
    return f"{key} = [{', '.join(items)}]\n"


def _default(option: click.Option) -> Any:
    default = option.default
    if option.is_flag:
        return default is True
    if isinstance(default, str):
        try:
            return int(default)
        except ValueError:
            return default
    return default


def _shape(tensor: Tensor) -> str:
    sizes = [
        "1" if place == 0 and not isinstance(size, int) else str(size) for place, size in enumerate(tensor.shape or ())
    ]
    return f"{tensor.name}={','.join(sizes)}"


def _calibration(inputs: tuple[Tensor, ...]) -> list[str]:
    if len(inputs) == 1:
        return ["calib.npz:x"]
    return [f"{tensor.name}=calib.npz:{tensor.name}" for tensor in inputs]
