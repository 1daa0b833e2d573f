"""The analysis of a model on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinyopt.report.plain import memory_size, printable, shortened

_BAR_WIDTH = 20
_NAME_WIDTH = 48


def analysis_table(analysis: dict[str, Any], top: int) -> RenderableType:
    """Summary, operators, the `top` layers by MACs, and what is not supported."""
    parts: list[RenderableType] = [
        Text(f"{printable(analysis['model']['file'])} for {analysis['target']}", style="bold"),
        *(Text(f"note: {printable(note)}") for note in analysis["notes"]),
        _summary(analysis),
        Text(),
        _operators(analysis["operators"]),
    ]
    if layers := _largest(analysis["layers"], top):
        parts += [Text(), _layers(layers, analysis)]
    if analysis["unsupported"]:
        parts += [Text(), Text(f"Not supported: {len(analysis['unsupported'])}", style="bold red")]
        parts += [Text(f"  {printable(text)}", style="red") for text in analysis["unsupported"]]
    return Group(*parts)


def _summary(analysis: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("model hash", f"sha256 {analysis['model']['sha256']}")
    for what in ("input", "output"):
        values = analysis[f"{what}s"]
        for number, value in enumerate(values, start=1):
            shape = "x".join(map(str, value["shape"])) if value["shape"] is not None else "of unknown shape"
            table.add_row(f"{what} {number}/{len(values)}", f"'{printable(value['name'])}' {value['dtype']} {shape}")
    table.add_row("nodes", f"{analysis['nodes']:,}, opset {analysis['model']['opset']}")
    table.add_row("parameters", f"{analysis['parameters']:,}")
    optimized = sum(layer["macs"] for layer in analysis["layers"])
    after = "" if optimized == analysis["macs"] else f", {optimized:,} after the passes that need no samples"
    table.add_row("MACs", f"{analysis['macs']:,}{after}")
    for dtype in ("float", "int8"):
        sizes = {"weights": analysis["weight_bytes"][dtype], "arena": analysis["arena_bytes"][dtype]}
        texts = [f"{what} {memory_size(size)}" for what, size in sizes.items() if size is not None]
        if texts:
            table.add_row(f"estimate {dtype}", ", ".join(texts))
    return table


def _operators(operators: dict[str, int]) -> Text:
    counts = ", ".join(f"{count} {printable(op)}" for op, count in operators.items())
    return Text.assemble(("Operators  ", "bold"), counts)


def _largest(layers: list[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    """Those with most MACs, in their order where equal."""
    return sorted((layer for layer in layers if layer["macs"]), key=lambda layer: -int(layer["macs"]))[:top]


def _layers(layers: list[dict[str, Any]], analysis: dict[str, Any]) -> Table:
    total = sum(layer["macs"] for layer in analysis["layers"])
    table = Table(title=f"Largest layers, of {len(analysis['layers'])}", title_justify="left", title_style="bold")
    table.box, table.pad_edge, table.header_style = None, False, "dim"
    for column in ("layer", "operator", "output"):
        table.add_column(column, overflow="fold")
    for column in ("MACs", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for layer in layers:
        share = layer["macs"] / total
        table.add_row(
            shortened(printable(layer["name"]), _NAME_WIDTH),
            printable(layer["op"]),
            "x".join(map(str, layer["shape"])),
            f"{layer['macs']:,}",
            f"{100 * share:.1f} %",
            "█" * round(_BAR_WIDTH * share),
            f"{layer['parameters']:,}",
        )
    return table
