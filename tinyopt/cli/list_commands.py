"""`tinyopt passes`, `tinyopt targets`, and what --print-passes prints."""

from __future__ import annotations

import dataclasses
import inspect

import click
from rich.table import Table

from tinyopt.cli.console import Output, reported_errors
from tinyopt.errors import UsageError
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Pass
from tinyopt.pipeline import available_passes, build_pipeline
from tinyopt.targets import all_targets
from tinyopt.targets.target import Target


@click.command("passes", short_help="List the passes in running order, or explain one.")
@click.argument("name", required=False)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def passes_command(name: str | None, is_json: bool) -> None:
    """List the passes in running order, or explain the pass NAME.

    \b
    tinyopt passes
    tinyopt passes quantize

    Listed are also those that run only where an option asks for them; what a compilation runs is shown by
    `tinyopt compile MODEL --print-passes`.
    """
    screen = Output(0, is_json)
    with reported_errors(screen):
        steps = {step.name: step for step in available_passes()}
        if name is None:
            screen.show(_pass_table(list(steps.values())), [_pass_data(step) for step in steps.values()])
        elif name not in steps:
            raise UsageError(f"no pass '{name}'; there are: {', '.join(steps)}")
        else:
            screen.show(_explanation(steps[name]), _pass_data(steps[name]))


@click.command("targets")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def targets_command(is_json: bool) -> None:
    """List the machines that can be compiled for.

    \b
    tinyopt targets
    tinyopt compile kws.onnx --target cortex-m4 --calib calib.npz:x
    """
    screen = Output(0, is_json)
    with reported_errors(screen):
        targets = all_targets()
        table = Table("target", "machine", "output", box=None, pad_edge=False)
        for target in targets.values():
            table.add_row(target.name, target.description, "C sources" if target.code == "c" else "library")
        screen.show(table, [{"name": t.name, "description": t.description, "code": t.code} for t in targets.values()])


def print_pipeline(screen: Output, options: CompileOptions, target: Target) -> None:
    """The pipeline as this compilation would run it."""
    steps = build_pipeline(options, options.boundary or target.boundary)
    screen.show(_pass_table(steps), [_pass_data(step) for step in steps])


def _pass_table(steps: list[Pass]) -> Table:
    table = Table("pass", "options", "what it does", box=None, pad_edge=False)
    for step in steps:
        settings = " ".join(f"{key}={value}" for key, value in dataclasses.asdict(step).items())
        table.add_row(step.name, settings, _first_line(step))
    return table


def _first_line(step: Pass) -> str:
    return (inspect.getdoc(type(step)) or "").partition("\n")[0]


def _explanation(step: Pass) -> str:
    settings = "\n".join(f"  --set {step.name}.{key}={value}" for key, value in dataclasses.asdict(step).items())
    return f"{step.name}\n\n{inspect.getdoc(type(step))}\n\nOptions and defaults:\n{settings or '  none'}"


def _pass_data(step: Pass) -> dict[str, object]:
    return {"name": step.name, "options": dataclasses.asdict(step), "what": _first_line(step)}
