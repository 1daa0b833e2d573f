"""QRequantize: int8 and int16 from one scale to another; may work in place where elements do not grow."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import DTYPES, Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.requantize import Requantization, requantize, type_suffix, zero_point_of
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, cast, constant


@dataclass(frozen=True)
class RescalingSpec:
    """QRequantize of so many elements of `dtype`."""

    elements: int
    dtype: str
    zero_point: int
    multiplier: int
    to: Requantization


def plan_qrequantize(node: Node) -> Kernel | Refusal:
    """QRequantize."""
    x, to = node.input(0), Requantization.of(node)
    spec = RescalingSpec(x.type.elements, x.dtype, zero_point_of(node, x), node.int("multiplier"), to)
    # From first to last, an element is never written over one that is still to be read.
    is_growing = DTYPES[to.dtype].itemsize > DTYPES[x.dtype].itemsize
    overlaps = () if is_growing else (Overlap.in_place(0),)
    name = f"rescale_{type_suffix(node)}"
    return Kernel(rescale, spec, name, (InputArgument(0), OutputArgument(0)), overlaps=overlaps)


def rescale(spec: RescalingSpec) -> PrimFunc:
    """y = requantize(x - zx)."""
    kernel = KernelBuilder("rescale")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, spec.elements)
        y = kernel.buffer("y", spec.to.dtype, spec.elements)
        with kernel.loop(spec.elements) as i:
            centred = cast(x[i], "int32") - spec.zero_point
            y[i] = cast(requantize(centred, constant(spec.multiplier, "int32"), spec.to), spec.to.dtype)
    return kernel.finish()
