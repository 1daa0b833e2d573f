"""The report on a terminal, in the order that users of other embedded compilers know.

The model, its inputs and outputs, what it costs with the change against the model as it came; the passes; the layers,
as they were and as they are compiled; the memory by section.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tinyopt.report.clustering import clustering_table
from tinyopt.report.compression_table import compression_tables
from tinyopt.report.plain import memory_size, printable, shortened, signed_change, signed_percent
from tinyopt.report.quantization_table import quantization_table

PLAIN_WIDTH = 120
_SOURCE_WIDTH = 26
_NAME_WIDTH = 40
_SUSPECTS = 8
_MOST_LAYERS = 500  # in the table: report.csv has all
_LONG_NAME = re.compile(rf"'([^'\s]{{{_NAME_WIDTH + 1},}})'")  # some exporters name a node after all that it came from
_NUMERIC = frozenset({"nodes", "MACs", "weights B", "drift", "SNR dB", "#", "bytes", ""})


def plain_text(report: dict[str, Any]) -> str:
    """The report without colours, for report.txt."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=PLAIN_WIDTH,
        markup=False,
        emoji=False,
        color_system=None,
        force_terminal=False,
        legacy_windows=False,
    )
    console.print(renderable(report))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def renderable(report: dict[str, Any]) -> RenderableType:
    """The whole report; flash and RAM stand last, where the eye is."""
    parts: list[RenderableType] = [
        _heading(report),
        *_notes(report),
        _summary(report),
        Text(),
        _passes(report),
        Text(),
        _remarks(report),
        Text(),
        _layers(report),
        Text(),
        *_compression(report),
        *_clustering(report),
        *_quantization(report),
        _memory(report),
    ]
    if "evaluation" in report:
        parts += [Text(), _evaluation(report["evaluation"])]
    if "gate" in report:
        parts += [Text(), Text(f"accuracy gate: {printable(report['gate']['text'])}", style="bold")]
    return Group(*parts)


def remarks(report: dict[str, Any]) -> str:
    """Every remark of every pass, one a line."""
    return "\n".join(
        f"{step['name']}: {remark['kind']}: {printable(remark['message'])}"
        for step in report["passes"]
        for remark in step["remarks"]
    )


def _heading(report: dict[str, Any]) -> Text:
    model, target = report["model"], report["target"]
    return Text(f"{printable(model['file'])} for {target['name']}: {target['description']}", style="bold")


def _notes(report: dict[str, Any]) -> Iterable[Text]:
    return (Text(f"note: {printable(note)}") for note in report["model"]["notes"])


# The model and what it costs


def _summary(report: dict[str, Any]) -> Table:
    before, after = report["before"], report["after"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("model hash", f"sha256 {report['model']['sha256']}")
    for what in ("input", "output"):
        values = report[f"{what}s"]
        for number, value in enumerate(values, start=1):
            table.add_row(f"{what} {number}/{len(values)}", _boundary(value))
    if "calibration" in report:
        table.add_row("calibration", _calibration(report["calibration"]))
    table.add_row("parameters", f"{before['parameters']:,} in {memory_size(before['weight_bytes'])}")
    table.add_row("MACs", Text.assemble(f"{after['macs']:,}", _against(before["macs"], after["macs"])))
    weights = after["flash_constant_bytes"]
    table.add_row("weights (flash)", Text.assemble(memory_size(weights), _against(before["weight_bytes"], weights)))
    if report["variants"]:
        table.add_row("kernels", f"picked at run time; weights that each reads: {_variants(report)}")
    if (threads := report["threads"])["count"] > 1:
        table.add_row("threads", f"{threads['count']}, which share the work {threads['shared']} times in a run")
    arena, original = after["arena_bytes"], before["estimated_arena_bytes"]
    bound = after["arena_lower_bound_bytes"]
    planned = "; no plan is smaller" if arena == bound else f"; no plan is below {bound:,} B"
    if report["regions"]:
        planned = " in " + ", ".join(f"{region['name']} {memory_size(region['bytes'])}" for region in report["regions"])
    table.add_row("activations (RAM)", Text.assemble(memory_size(arena), _against(original, arena), planned))
    return table


def _boundary(value: dict[str, Any]) -> str:
    shape = "x".join(map(str, value["shape"]))
    text = f"'{printable(value['name'])}' {value['dtype']} {shape}, {value['bytes']:,} B"
    if value["scale"] is None:
        return text
    return f"{text}, scale {value['scale']:.7g}, zero point {value['zero_point']}"


def _calibration(calibration: dict[str, Any]) -> str:
    count = f"{calibration['samples']:,} samples"
    return f"{count} of noise" if calibration["is_random"] else f"{count} of {printable(calibration['source'])}"


def _against(before: int, after: int) -> Text:
    if before == after:
        return Text()
    return Text.assemble("  ", (signed_change(before, after), _colour(before, after)), " vs. the original")


def _colour(before: float, after: float) -> str:
    """Less is better, whatever it is."""
    return "green" if after < before else "red"


# Passes


def _passes(report: dict[str, Any]) -> Table:
    table = _table("Passes", ("pass", "nodes", "MACs", "weights B", "drift", "SNR dB"))
    before = report["before"]
    for step in report["passes"]:
        after, drift = step["after"], step["drift"]
        table.add_row(
            Text(step["name"], style="" if step["is_changed"] else "dim"),
            _change(before["nodes"], after["nodes"]),
            _change(before["macs"], after["macs"]),
            _change(before["weight_bytes"], after["weight_bytes"]),
            f"{drift['max_abs']:.2g}" if drift else "",
            _decibels(drift),
        )
        before = after
    return _with_whole_numbers(table)


def _change(before: int, after: int) -> str:
    return f"{after:,}" if before == after else f"{after:,} ({after - before:+,})"


def _decibels(drift: dict[str, Any] | None) -> str:
    if drift is None:
        return ""
    ratio = drift["snr_db"]
    return "exact" if ratio is None or ratio == float("inf") else f"{ratio:.1f}"


def _remarks(report: dict[str, Any]) -> Table:
    table = _table("What they did, or why not", ("pass", "remarks"))
    for step in report["passes"]:
        style = "" if step["is_changed"] else "dim"
        table.add_row(Text(step["name"], style=style), _remark_summary(step["remarks"]), style=style)
    return table


def _remark_summary(remarks: list[dict[str, Any]]) -> Text:
    """The first two remarks, and how many more there are."""
    shown = "; ".join(_LONG_NAME.sub(_shortened_name, printable(remark["message"])) for remark in remarks[:2])
    more = f"; {len(remarks) - 2} more" if len(remarks) > 2 else ""
    return Text(shown + more)


def _shortened_name(match: re.Match[str]) -> str:
    return f"'{shortened(match[1], _NAME_WIDTH)}'"


# Layers


def _layers(report: dict[str, Any]) -> Table:
    table = _table(
        "Layers: original | compiled",
        ("#", "original", "MACs", "weights B", "|", "kernel", "output", "MACs", "weights B", ""),
    )
    for layer in report["layers"][:_MOST_LAYERS]:
        source = layer["source"]
        table.add_row(
            str(layer["index"]),
            Text(printable(_source_text(layer))),
            f"{source['macs']:,}",
            f"{source['weight_bytes']:,}",
            "|",
            layer["kernel"],
            f"{layer['dtype']} {'x'.join(map(str, layer['shape']))}",
            f"{layer['macs']:,}",
            f"{layer['weight_bytes']:,}",
            Text(
                signed_percent(source["weight_bytes"], layer["weight_bytes"]),
                _colour(source["weight_bytes"], layer["weight_bytes"]),
            ),
        )
    if (hidden := len(report["layers"]) - _MOST_LAYERS) > 0:
        table.add_row("", f"and {hidden:,} more, in report.csv")
    sums = [
        f"{sum(side[key] for side in sides):,}"
        for sides in ([layer["source"] for layer in report["layers"]], report["layers"])
        for key in ("macs", "weight_bytes")
    ]
    table.add_row("", "all layers", *sums[:2], "|", "", "", *sums[2:], "", style="bold")
    return _with_whole_numbers(table)


def _compression(report: dict[str, Any]) -> list[RenderableType]:
    section = report.get("compression")
    return [] if section is None else compression_tables(section)


def _clustering(report: dict[str, Any]) -> list[RenderableType]:
    table = clustering_table(report)
    return [] if table is None else [_with_whole_numbers(table), Text()]


def _quantization(report: dict[str, Any]) -> list[RenderableType]:
    section = report.get("quantization")
    return [] if section is None else [quantization_table(section, _SUSPECTS), Text()]


def _source_text(layer: dict[str, Any]) -> str:
    """Such as `Conv+Relu stem/conv`; the name is that of the first origin."""
    operators = "+".join(layer["source"]["operators"])
    name = layer["origins"][0] if layer["origins"] else layer["name"]
    room = max(_SOURCE_WIDTH - len(operators) - 1, 8)
    return f"{operators} {shortened(name, room)}".strip()


# Memory


def _memory(report: dict[str, Any]) -> Table:
    after = report["after"]
    code, constants, arena = after["flash_code_bytes"], after["flash_constant_bytes"], after["arena_bytes"]
    table = _table("Memory by section", ("section", "memory", "bytes", "what"))
    table.add_row("code", "flash", "" if code is None else f"{code:,}", _code_text(report))
    table.add_row("weights", "flash", f"{constants:,}", "weights, biases, tables: shared ones once")
    what = "inputs, outputs, activations, scratch"
    if not report["regions"]:
        table.add_row("arena", "RAM", f"{arena:,}", f"{what}; {_peak(report['buffers'], report['layers'])}")
    for number, region in enumerate(report["regions"]):
        inside = [buffer for buffer in report["buffers"] if buffer["region"] == number]
        used = f"of {region['capacity']:,}; {_peak(inside, report['layers'])}" if inside else "not used"
        table.add_row(region["name"], "RAM", f"{region['bytes']:,}", used)
    if code is not None:
        table.add_row("all", "flash", memory_size(code + constants), "", style="bold")
    table.add_row("all", "RAM", memory_size(arena), "without the stack", style="bold")
    return table


def _peak(buffers: list[dict[str, Any]], layers: list[dict[str, Any]]) -> str:
    """Where in the run most bytes are alive."""
    alive = dict.fromkeys({buffer["first"] for buffer in buffers}, 0)
    ends = dict(alive)
    for buffer in sorted(buffers, key=lambda b: b["offset"]):  # an output may overlap an input
        last = buffer["offset"] + buffer["bytes"]
        for step in range(buffer["first"], buffer["last"] + 1):
            if step in alive:
                alive[step] += max(0, last - max(ends[step], buffer["offset"]))
                ends[step] = max(ends[step], last)
    step = max(alive, key=lambda s: (alive[s], -s), default=0)
    if not 1 <= step <= len(layers):
        return "fullest at the boundary"
    return f"fullest in layer {step - 1}, {layers[step - 1]['kernel']}"


def _code_text(report: dict[str, Any]) -> str:
    if report["after"]["flash_code_bytes"] is None:
        return "not measured: no compiler"
    return f"{len({layer['kernel'] for layer in report['layers']})} kinds of kernels, -O3"


def _variants(report: dict[str, Any]) -> str:
    """What is picked at run time, the fastest first, and what of the constants each of them reads."""
    return ", ".join(
        f"{variant['name']} ({memory_size(sum(layer['weight_bytes'] for layer in variant['layers']))})"
        for variant in report["variants"]
    )


def _evaluation(evaluation: dict[str, Any]) -> Text:
    return Text(
        f"top-1 on {evaluation['samples']} samples: {100 * evaluation['float_top1']:.2f} % as it came, "
        f"{100 * evaluation['compiled_top1']:.2f} % compiled ({evaluation['source']}); "
        f"agreement {100 * evaluation['agreement']:.2f} %",
        style="bold",
    )


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, collapse_padding=True
    )
    table.header_style = "dim"
    for column in columns:
        is_numeric = column in _NUMERIC
        table.add_column(column, justify="right" if is_numeric else "left", no_wrap=is_numeric, overflow="fold")
    return table


def _with_whole_numbers(table: Table) -> Table:
    """Where the terminal is narrow, names take several lines; numbers never do."""
    for column in table.columns:
        if column.justify == "right":
            column.min_width = max(len(str(cell)) for cell in column.cells)
    return table
