"""Dense layer with clustered weights on one vector: four channels at a time, each decoded along its own row."""

from __future__ import annotations

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.dsp.clustered.costs import with_costs
from tinyopt.targets.kernels.dsp.clustered.layer import (
    ANY_SIZE,
    CHANNELS,
    GATHERING,
    LIMITS,
    PAIRS,
    RESCALING_BYTES,
    ZERO_POINT,
    Depth,
    LayerSpec,
    declare_layer,
    fill_table,
    layer_arguments,
    layer_spec,
    refusal,
)
from tinyopt.targets.kernels.dsp.clustered.pairs import packed_row_bytes
from tinyopt.targets.kernels.dsp.clustered.pointwise import rows_kernel
from tinyopt.targets.kernels.dsp.clustered.vector import ROWS, multiply_vector
from tinyopt.targets.kernels.dsp.clustered.widening import WIDEN_RUNS
from tinyopt.targets.kernels.intrinsic import NAKED
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc

_DEPTH, _ROW_BYTES = GATHERING, GATHERING + 1


def dense_kernel(node: Node) -> Kernel | Refusal:
    """QDense; over more than one row of the input, or with a residual, it is a pointwise convolution to int8."""
    if reason := refusal(node):
        return Refusal(reason)
    channels, depth = node.input(1).shape
    spec = layer_spec(node)
    if node.input(0).type.elements != depth or spec.has_residual or channels < ROWS:
        return rows_kernel(node) if spec.dtype == "int8" else Refusal("only one row of channels is decoded to int16")
    run = Depth(depth, 1)
    gathering = [depth, packed_row_bytes(len(run.pairs), spec.bits) + RESCALING_BYTES]
    kernel = Kernel(
        template=dense,
        spec=spec,
        name="dense_clustered",
        arguments=layer_arguments(node, spec, run, gathering, widest=1),
        intrinsics=(NAKED, WIDEN_RUNS, multiply_vector(spec.bits, spec.is_clamped, spec.dtype)),
    )
    return with_costs(node, kernel, spec, run)


def dense(spec: LayerSpec) -> PrimFunc:
    """Widens the vector once, and multiplies it with all channels."""
    kernel = KernelBuilder("dense_clustered")
    with kernel.function():
        layer = declare_layer(kernel, spec, kernel.buffer("x", "int8", ANY_SIZE))
        numbers = layer.numbers
        fill_table(kernel, spec, layer)
        kernel.run(WIDEN_RUNS, layer.x.address(), layer.block.address(), numbers[_DEPTH], 1, 0, 0, 4)
        kernel.run(
            multiply_vector(spec.bits, spec.is_clamped, spec.dtype),
            layer.block.address(),
            layer.table.address(),
            layer.weights.address(),
            layer.y.address(),
            numbers[CHANNELS],
            numbers[PAIRS],
            numbers[_ROW_BYTES],
            numbers[ZERO_POINT],
            numbers.address(LIMITS),
        )
    return kernel.finish()
