"""What differs between two models, as a table and as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinyopt.graph_diff import Difference, GraphDiff, NodeName
from tinyopt.report.plain import printable

SCHEMA_VERSION = 1
_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow"), "replaced": ("±", "yellow")}


def diff_data(old: str, new: str, diff: GraphDiff) -> dict[str, Any]:
    """What `tinyopt diff --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "old": old,
        "new": new,
        "is_equal": diff.is_equal,
        "same": diff.same,
        "model": list(diff.model),
        "nodes": [asdict(difference) for difference in diff.differences],
        "renamed": [{"old": asdict(a), "new": asdict(b)} for a, b in diff.renamed],
        "reshaped": [asdict(node) | {"types": types} for node, types in diff.reshaped],
    }


def diff_table(old: str, new: str, diff: GraphDiff) -> RenderableType:
    """One line for each difference, with a sign and a colour, and a summary below."""
    parts: list[RenderableType] = [Text(f"{printable(old)} -> {printable(new)}", style="bold")]
    parts += [Text(f"~ {printable(text)}", style="yellow") for text in diff.model]
    if diff.differences:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", no_wrap=True)
        table.add_column("node", overflow="fold", ratio=1)
        table.add_column("what", overflow="fold", ratio=1)
        for difference in diff.differences:
            table.add_row(*_row(difference))
        parts.append(table)
    parts += [Text(line) for line in _summary(diff)]
    return Group(*parts)


def _row(difference: Difference) -> tuple[Text, Text, Text]:
    sign, style = _SIGNS[difference.kind]
    lines = [printable(detail) for detail in difference.details]
    old, new = (" + ".join(map(_label, names)) for names in (difference.old, difference.new))
    if difference.kind == "replaced":
        return Text(sign, style=style), Text(old), Text(f"replaced by {new}")
    if difference.kind == "changed":
        if difference.old[0].name and difference.new[0].name and difference.old[0].name != difference.new[0].name:
            lines.append(f"now named '{printable(difference.new[0].name)}'")
        return Text(sign, style=style), Text(old), Text("\n".join(lines))
    return Text(sign, style=style), Text(old or new), Text("\n".join([difference.kind, *lines]).replace("\n", " ", 1))


def _label(node: NodeName) -> str:
    return f"{node.op} '{printable(node.name)}'" if node.name else f"{node.op} that gives '{printable(node.output)}'"


def _summary(diff: GraphDiff) -> list[str]:
    if diff.is_equal and not diff.renamed:
        return [f"equal: {diff.same} nodes are the same"]
    counts = [f"{diff.count(kind)} {kind}" for kind in _SIGNS if diff.count(kind)]
    head = f"{len(diff.differences)} differences ({', '.join(counts)}), " if counts else "equal: " * diff.is_equal
    lines = [f"{head}{diff.same} nodes are the same" + (f", {len(diff.renamed)} renamed" if diff.renamed else "")]
    if diff.reshaped:
        node, types = diff.reshaped[0]
        lines.append(f"{len(diff.reshaped)} of the same nodes see other shapes, the first {_label(node)}: {types}")
    return lines
