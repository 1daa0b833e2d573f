"""How instruction counts look on a terminal: one build, or two side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinyopt.execution.compare import LayerPair
from tinyopt.execution.profile import LayerProfile, Profile
from tinyopt.report.plain import printable, shortened, signed_change

_BAR_WIDTH = 16
_NAME_WIDTH = 32


def profile_table(profile: Profile, is_cortex_m: bool) -> RenderableType:
    """Where the instructions go, what the library takes, and why each layer has the kernel that it has.

    is_cortex_m: only there the cycles of a model of the Cortex-M4 mean something.
    """
    layers = profile.layers
    total = sum(layer.instructions for layer in layers)
    table = _table(("#", "layer", "operator", "kernel"), ("MACs", "instructions", "per MAC", "share"))
    table.add_column("", no_wrap=True)
    if is_cortex_m:
        table.add_column("M4 model cycles", justify="right", no_wrap=True)
    for layer in layers:
        share = layer.instructions / total if total else 0.0
        table.add_row(
            str(layer.index),
            _layer_name(layer),
            layer.op,
            layer.kernel,
            f"{layer.macs:,}",
            f"{layer.instructions:,}",
            _per_mac(layer.instructions, layer.macs),
            f"{100 * share:.1f} %",
            "█" * round(_BAR_WIDTH * share),
            *([f"{layer.cycles:,}"] if is_cortex_m else []),
        )
    macs, cycles = sum(layer.macs for layer in layers), sum(layer.cycles for layer in layers)
    sums = [f"{macs:,}", f"{total:,}", _per_mac(total, macs), "", ""]
    table.add_row("", "all", "", "", *sums, *([f"{cycles:,}"] if is_cortex_m else []), style="bold")
    chosen = [Text(), Text(_choice(profile))] if profile.variant is not None else []
    return Group(table, *chosen, Text(), _library(profile), Text(), _reasons(layers))


def _choice(profile: Profile) -> str:
    return f"Kernels picked on the emulated CPU ({profile.cpu}): {picked(profile.variant or '', profile.variants)}"


def picked(variant: str, variants: Sequence[str]) -> str:
    """A variant, and how to run the library's others."""
    others = ", ".join(f"--cpu {name}" for name in variants if name != variant)
    return f"{variant} (others: {others})"


def _library(profile: Profile) -> Table:
    """What one inference takes in all."""
    built = f"The library ({printable(profile.compiler)}, -{profile.optimization})"
    table = Table(title=built, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for name, value, what in (
        ("instructions", profile.instructions, "one inference, from the call to the return"),
        ("stack", profile.stack_bytes, "bytes, the deepest that was written to"),
        ("code", profile.code_bytes, "bytes of flash, literals included; without the C library's functions"),
        ("tables", profile.table_bytes, "bytes of flash: constants of the code"),
        ("weights", profile.weight_bytes, "bytes of flash: all constants of the model"),
        ("static RAM", profile.static_ram_bytes, "bytes beside the arena"),
    ):
        table.add_row(name, f"{value:,}", what)
    return table


def _reasons(layers: Sequence[LayerProfile]) -> Table:
    """Each kernel once for each set of reasons."""
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for layer in layers:
        groups.setdefault((layer.kernel, layer.refusals), []).append(layer.index)
    table = Table(title="Why these kernels", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.header_style = "dim"
    for column in ("kernel", "layers", "why"):
        table.add_column(column, overflow="fold")
    for (kernel, refusals), indices in groups.items():
        reasons = "; ".join(dict.fromkeys(refusals))
        why = f"faster ones refused: {printable(reasons)}" if refusals else "the first choice"
        table.add_row(kernel, ", ".join(map(str, indices)), why)
    return table


def comparison_table(before: str, after: str, pairs: Sequence[LayerPair]) -> RenderableType:
    """Two builds side by side, and what changed from the first to the second."""
    table = _table(("#", "layer", "kernels"), ("before", "after", "change", "per MAC"))
    for pair in pairs:
        old, new = pair.instructions
        table.add_row(
            f"{_indices(pair.before)} | {_indices(pair.after)}",
            _layer_name((pair.after or pair.before)[0]),
            _kernels(pair),
            f"{old:,}" if pair.before else "",
            f"{new:,}" if pair.after else "",
            _coloured(old, new),
            f"{_rate(pair.before)} | {_rate(pair.after)}",
        )
    old, new = (sum(pair.instructions[side] for pair in pairs) for side in (0, 1))
    table.add_row("", "all", "", f"{old:,}", f"{new:,}", _coloured(old, new), "", style="bold")
    heading = Text(f"instructions: before = {printable(before)}, after = {printable(after)}", style="bold")
    return Group(heading, table)


def _coloured(before: int, after: int) -> Text:
    return Text(signed_change(before, after), style="" if before == after else "green" if after < before else "red")


def _kernels(pair: LayerPair) -> str:
    old, new = ("+".join(layer.kernel for layer in side) or "none" for side in (pair.before, pair.after))
    return old if old == new else f"{old} -> {new}"


def _indices(layers: Sequence[LayerProfile]) -> str:
    return ",".join(str(layer.index) for layer in layers) or "-"


def _rate(layers: Sequence[LayerProfile]) -> str:
    return _per_mac(sum(layer.instructions for layer in layers), sum(layer.macs for layer in layers)) or "-"


def _per_mac(instructions: int, macs: int) -> str:
    return f"{instructions / macs:.3f}" if macs else ""


def _layer_name(layer: LayerProfile) -> str:
    return shortened(printable(layer.name), _NAME_WIDTH)


def _table(texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", collapse_padding=True)
    for column in texts:
        table.add_column(column, overflow="fold", no_wrap=column == "#")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table
