"""The command line as Markdown, from click's own description of each command."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping

import click

from tinyopt.cli.commands import main
from tools.documentation.markdown import block, literal

_EXPLAINED = re.compile(r"(?<=\S)   +(?=\S)")  # behind an example and before what it does

COMPILE_PARTS: Mapping[str, str] = {
    "--recipe": "Model, target and output",
    "--calib": "Calibration samples",
    "--quantize": "Number formats",
    "--prune": "Pruning",
    "--cluster": "Clustering",
    "--max-flash": "Budgets",
    "--io": "Boundary, memory and threads",
    "--eval": "Accuracy and passes",
    "--seed": "Compiler and cache",
    "-MF": "Builds",
    "--verbose": "What is printed",
}
"""The headings among the options of `tinyopt compile`, each by the option that it stands before."""


def commands_page() -> str:
    """A section for each command, the subcommands of groups included."""
    root = click.Context(main, info_name="tinyopt")
    return "\n".join(_section(context) for context in _walk(root))


def _walk(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None  # it is listed
            yield from _walk(click.Context(command, info_name=name, parent=context, **command.context_settings))


def _section(context: click.Context) -> str:
    path = context.command_path
    usage = " ".join([path, *context.command.collect_usage_pieces(context)])
    parts = [f"## {path} {{ #{_anchor(path)} }}", *_paragraphs(context.command), block(usage).rstrip()]
    return "\n\n".join([*parts, *_options(context)]) + "\n"


def _paragraphs(command: click.Command) -> list[str]:
    """The help of a command; paragraphs behind a \\b are examples, one on each line."""
    shown: list[str] = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            examples = textwrap.dedent(paragraph.removeprefix("\b").strip("\n"))
            shown.append(block(_EXPLAINED.sub(lambda blanks: blanks[0][:-2] + "# ", examples), "sh").rstrip())
        else:
            shown.append(literal(" ".join(paragraph.split())))
    return shown


def _options(context: click.Context) -> Iterator[str]:
    """Each option under its heading. Raises ValueError where an option that a heading stands before is gone."""
    headings = dict(COMPILE_PARTS) if context.command_path == "tinyopt compile" else {}
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if not isinstance(parameter, click.Option) or record is None:
            continue
        for name in parameter.opts:
            if (heading := headings.pop(name, None)) is not None:
                yield f"### {heading}"
        yield _option(_anchor(context.command_path, _longest(parameter)), *record)
    if headings:
        raise ValueError(f"tinyopt compile has no option {', '.join(headings)}: mend {__name__}")


def _option(anchor: str, names: str, explained: str) -> str:
    """One entry of a definition list, whose name can be linked to."""
    return f"`{names}`{{ #{anchor} .option }}\n:   {literal(' '.join(explained.split()))}"


def _longest(option: click.Option) -> str:
    return max(option.opts, key=len)


def _anchor(*words: str) -> str:
    return "-".join(word.strip("-") for word in " ".join(words).split())
