"""What each pass changed in the text of the graph, as a coloured diff: LLVM's -print-changed for tinyopt.

Removed lines begin with -, added ones with +; in a line that changed, the words that are not in its old form are bold.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from tinyopt.ir import Graph
from tinyopt.pass_manager import PassRecord
from tinyopt.report.plain import printable
from tinyopt.text import print_graph

CONTEXT_LINES = 1
_STYLES = {"-": "red", "+": "green", "@": "cyan"}
_WORD = re.compile(r"\s+|[^\s,()\[\]{}<>]+|[,()\[\]{}<>]")


class ChangePrinter:
    """Follows a pipeline from the graph that it starts with."""

    def __init__(self, original: Graph) -> None:
        self._nodes = len(original.nodes)
        self._lines = print_graph(original).splitlines()

    def after(self, number: int, record: PassRecord) -> Iterator[Text]:
        """The lines to print after pass `number`."""
        if not record.is_changed:
            reason = record.remarks[0].message if record.remarks else "no change"
            yield Text(f"*** {number:02d} {record.pass_name}: no change: {printable(reason)}", style="dim")
            return
        before, self._lines = self._lines, print_graph(record.graph).splitlines()
        nodes, self._nodes = self._nodes, len(record.graph.nodes)
        yield Text(f"*** {number:02d} {record.pass_name}: {nodes} -> {self._nodes} nodes", style="bold")
        yield from changed_lines(before, self._lines)


def changed_lines(before: list[str], after: list[str]) -> Iterator[Text]:
    """A unified diff in which the old and the new form of a line stand together."""
    rows = _aligned(before, after)
    changed = [i for i, row in enumerate(rows) if row.sign != " "]
    shown = sorted({i for c in changed for i in range(c - CONTEXT_LINES, c + CONTEXT_LINES + 1) if 0 <= i < len(rows)})
    for previous, i in zip([-2, *shown], shown, strict=False):
        if i != previous + 1:
            old, new = rows[i].old, rows[i].new
            yield Text(f"@@ -{old + 1} +{new + 1} @@", style=_STYLES["@"])
        yield _styled(rows[i])


@dataclass(frozen=True)
class _Row:
    """A line of the diff; `old` and `new` count the lines of both sides before it. `twin`: its other form."""

    sign: str
    line: str
    old: int
    new: int
    twin: str | None = None


def _aligned(before: list[str], after: list[str]) -> list[_Row]:
    """Lines that define the same value go together, whether or not they are equal."""
    subjects = [_subject(line) for line in before], [_subject(line) for line in after]
    rows: list[_Row] = []
    for tag, i, last, j, end in difflib.SequenceMatcher(None, *subjects, autojunk=False).get_opcodes():
        if tag != "equal":
            rows += [_Row("-", before[k], k, j) for k in range(i, last)]
            rows += [_Row("+", after[k], last, k) for k in range(j, end)]
            continue
        for k, m in zip(range(i, last), range(j, end), strict=True):
            if before[k] == after[m]:
                rows.append(_Row(" ", after[m], k, m))
            else:
                rows += [_Row("-", before[k], k, m, after[m]), _Row("+", after[m], k + 1, m, before[k])]
    return rows


def _subject(line: str) -> str:
    """What a line of the graph defines: the part before its type."""
    return line.partition(": ")[0]


def _styled(row: _Row) -> Text:
    text = Text(row.sign + row.line, style=_STYLES.get(row.sign, ""))
    if row.twin is None:
        return text
    other, words = _WORD.findall(row.twin), _WORD.findall(row.line)
    places = [1]
    for word in words:
        places.append(places[-1] + len(word))
    for tag, _, _, first, last in difflib.SequenceMatcher(None, other, words, autojunk=False).get_opcodes():
        if tag != "equal":
            text.stylize("bold", places[first], places[last])
    return text
