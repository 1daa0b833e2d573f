"""What clustered weights win and cost, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tinyopt.lowering.program import KernelCall
from tinyopt.report.plain import printable, shortened
from tinyopt.targets.kernel import ConstantArgument, Kernel

_NAME_WIDTH = 40


def clustering(call: KernelCall) -> dict[str, Any] | None:
    """For a layer whose weights are clustered: flash and, where the kernel's planner models them, instructions.

    Where the kernel takes int8 weights all the same, nothing is saved; why is among the layer's refusals.
    """
    weight = call.node.optional_input(1)
    if weight is None or weight.clusters is None:
        return None
    decoding = call.kernel.decoding
    packed = _packed_bytes(call.kernel) if decoding is None else decoding.bytes
    int8_bytes = weight.type.elements
    return {
        "count": len(weight.clusters.codebook),
        "index_bits": weight.clusters.index_bits,
        "is_decoded": packed is not None,
        "int8_bytes": int8_bytes,
        "bytes": int8_bytes if packed is None else packed,
        "saved_bytes": 0 if packed is None else int8_bytes - packed,
        "instructions": None if decoding is None else decoding.instructions,
        "int8_instructions": None if decoding is None else decoding.int8_instructions,
    }


def four_bit_notes(calls: Sequence[KernelCall], weight_bits: int) -> list[str]:
    """Where 4-bit weights were asked for: how many layers lose by it and save nothing."""
    facts = [clusters for call in calls if (clusters := clustering(call)) is not None]
    kept = sum(not clusters["is_decoded"] for clusters in facts)
    if weight_bits == 8 or not kept:
        return []
    what = f"{kept} of {len(facts)} layers with 4-bit weights take a byte for each"
    return [f"{what}: `tinyopt profile` says why; a higher --cluster-cost may help"]


def _packed_bytes(kernel: Kernel) -> int | None:
    """Of indices and codebook, where the kernel has a codebook."""
    constants = [argument for argument in kernel.arguments if isinstance(argument, ConstantArgument)]
    if not any(constant.role == "codebook" for constant in constants):
        return None
    return sum(constant.array.nbytes for constant in constants if constant.role in ("weight", "codebook"))


def clustering_table(report: dict[str, Any]) -> Table | None:
    """One line for each layer with clustered weights, and their sums; None where there is none."""
    layers = [layer for layer in report["layers"] if layer["clusters"] is not None]
    if not layers:
        return None
    table = Table(
        title="Clustered weights",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for column in ("#", "layer", "values", "int8 B", "flash B", "saved B", "instructions, model", "as int8", "factor"):
        is_name = column == "layer"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=True)
    for layer in layers:
        clusters = layer["clusters"]
        name = Text(shortened(printable(layer["name"]), _NAME_WIDTH))
        table.add_row(str(layer["index"]), name, str(clusters["count"]), *_figures(clusters))
    sums = {key: sum(layer["clusters"][key] for layer in layers) for key in ("int8_bytes", "bytes", "saved_bytes")}
    for key in ("instructions", "int8_instructions"):
        sums[key] = sum(layer["clusters"][key] or 0 for layer in layers)
    table.add_row("", "all", "", *_figures(sums | {"is_decoded": True}), style="bold")
    return table


def _figures(clusters: dict[str, Any]) -> list[str]:
    sizes = [f"{clusters[key]:,}" for key in ("int8_bytes", "bytes", "saved_bytes")]
    if not clusters["is_decoded"]:
        return [*sizes, "int8 kept", "", ""]
    if not clusters["instructions"]:
        return [*sizes, "", "", ""]
    now, before = clusters["instructions"], clusters["int8_instructions"]
    return [*sizes, f"{now:,}", f"{before:,}", f"{now / before:.2f}"]
