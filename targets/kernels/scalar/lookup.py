"""QLookup: any function of one int8 element, by a table of 256 levels; may work in place where it gives int8."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.requantize import type_suffix
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, cast


@dataclass(frozen=True)
class LookupSpec:
    """QLookup of so many elements; dtype: of the table and the output."""

    elements: int
    dtype: str


def plan_qlookup(node: Node) -> Kernel | Refusal:
    """QLookup."""
    spec = LookupSpec(node.output.type.elements, node.output.dtype)
    return Kernel(
        look_up,
        spec,
        f"lookup_{type_suffix(node)}",
        (InputArgument(0), InputArgument(1), OutputArgument(0)),
        overlaps=(Overlap.in_place(0),) if spec.dtype == "int8" else (),
    )


def look_up(spec: LookupSpec) -> PrimFunc:
    """y = table[x + 128]."""
    kernel = KernelBuilder("lookup_s8")
    with kernel.function():
        x = kernel.buffer("x", "int8", spec.elements)
        table = kernel.buffer("table", spec.dtype, 256)
        y = kernel.buffer("y", spec.dtype, spec.elements)
        with kernel.loop(spec.elements) as i:
            y[i] = table[cast(x[i], "int32") + 128]
    return kernel.finish()
