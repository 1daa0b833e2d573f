"""The passes as Markdown, from their docstrings and options."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Sequence

from tinyopt.pass_manager import Pass
from tinyopt.pipeline import available_passes
from tools.documentation.markdown import block, code, literal, table

HEADINGS = ("What", "Before -> After", "Exactness", "Refuses when", "Source")
_HEADING = re.compile(rf"^({'|'.join(map(re.escape, HEADINGS))}):[ ]?", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A docstring taken apart. parts: the text under each heading; rest: what comes after, about the options."""

    summary: str
    parts: dict[str, str]
    rest: str


def explain(step: type[Pass]) -> Explanation:
    """Take the docstring of a pass apart. Raises ValueError where a heading is missing, twice, or out of order."""
    summary, _, text = (inspect.getdoc(step) or "").partition("\n\n")
    found = list(_HEADING.finditer(text))
    if tuple(match[1] for match in found) != HEADINGS or found[0].start() != 0:
        raise ValueError(f"the docstring of {step.__qualname__} needs, in this order: {', '.join(HEADINGS)}")
    ends = [*(match.start() for match in found[1:]), len(text)]
    parts = {match[1]: text[match.end() : end].rstrip() for match, end in zip(found, ends, strict=True)}
    parts["Source"], _, rest = parts["Source"].partition("\n\n")
    return Explanation(" ".join(summary.split()), parts, rest)


def passes_page() -> str:
    """An overview of all passes in running order, then a section for each."""
    steps = available_passes()
    return _overview(steps) + "\n" + "\n".join(_section(step) for step in steps)


def _overview(steps: Sequence[Pass]) -> str:
    rows = [
        (str(number), f"[{step.name}](#{step.name})", literal(explain(type(step)).summary))
        for number, step in enumerate(steps, 1)
    ]
    return table(("", "pass", "what it does"), rows)


def _section(step: Pass) -> str:
    explanation = explain(type(step))
    parts = explanation.parts
    shown = [f"## {step.name} {{ #{step.name} }}", f"*{literal(explanation.summary)}*", _part("What", parts["What"])]
    shown += ["**Before → after:**", block(_unindented(parts["Before -> After"])).rstrip()]
    shown += [_part(heading, parts[heading]) for heading in HEADINGS[2:]]
    return "\n\n".join([*shown, *_options(step, explanation.rest)]) + "\n"


def _options(step: Pass, explained: str) -> list[str]:
    values = dataclasses.asdict(step)
    if not values:
        return []
    shown = ["**Options and their defaults:**"]
    shown += ["\n".join(f"- {code(f'--set {step.name}.{key}={_shown(value)}')}" for key, value in values.items())]
    return [*shown, _flowing(explained)] if explained else shown


def _shown(value: object) -> str:
    """A default as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _part(heading: str, text: str) -> str:
    return f"**{heading}:** {_flowing(text)}"


def _flowing(text: str) -> str:
    return literal(" ".join(text.split()))


def _unindented(text: str) -> str:
    """Lines after a heading, of which the first may stand beside it."""
    first, _, others = text.partition("\n")
    return "\n".join(line for line in (first.strip(), textwrap.dedent(others).rstrip()) if line)
