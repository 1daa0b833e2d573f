"""BatchNormalization in float32 as one multiplication and one addition for each element."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc


@dataclass(frozen=True)
class NormalizationSpec:
    """Channels between what lies before and behind their axis."""

    outer: int
    channels: int
    inner: int


def plan_batch_normalization(node: Node) -> Kernel | Refusal:
    """BatchNormalization whose scale, bias, mean and variance are constants."""
    parameters: list[Array] = []
    for value in (node.input(index) for index in range(1, 5)):
        if value.constant is None:
            return Refusal(f"'{value.name}' is not a constant")
        parameters.append(value.constant.astype(np.float64))
    scale, bias, mean, variance = parameters
    factor = scale / np.sqrt(variance + node.float("epsilon"))
    shape, axis = node.input(0).shape, node.int("axis")
    spec = NormalizationSpec(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    arguments = (
        InputArgument(0),
        ConstantArgument("multiplier", factor.astype(np.float32)),
        ConstantArgument("bias", (bias - mean * factor).astype(np.float32)),
        OutputArgument(0),
    )
    return Kernel(normalize, spec, "batch_normalization_f32", arguments, overlaps=(Overlap.in_place(0),))


def normalize(spec: NormalizationSpec) -> PrimFunc:
    """y = x * factor + offset, by channel."""
    elements = spec.outer * spec.channels * spec.inner
    kernel = KernelBuilder("batch_normalization_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", elements)
        factor = kernel.buffer("factor", "float32", spec.channels)
        offset = kernel.buffer("offset", "float32", spec.channels)
        y = kernel.buffer("y", "float32", elements)
        with kernel.loop(spec.outer) as i, kernel.loop(spec.channels) as channel, kernel.loop(spec.inner) as j:
            index = (i * spec.channels + channel) * spec.inner + j
            y[index] = x[index] * factor[channel] + offset[channel]
    return kernel.finish()
