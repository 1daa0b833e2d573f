"""Convolution and dense layers whose weights stay packed in flash: indices of a few bits into a codebook of int8.

The weights of one output channel are unpacked at a time, into scratch memory of their size, and used for every position
of the output; a dense layer of a single vector multiplies each weight as it is unpacked and needs no scratch at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyopt.ir import Clusters, Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.packing import INDICES_PER_GROUP, pack_rows, row_bytes
from tinyopt.targets.kernels.requantize import type_suffix
from tinyopt.targets.kernels.scalar.convolution import ConvolutionSpec, Window, integer_convolution
from tinyopt.targets.kernels.scalar.dense import dense_shape, integer_dense
from tinyopt.targets.kernels.scalar.epilogue import IntegerEpilogue, integer_arguments
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast


@dataclass(frozen=True)
class Packing:
    """Rows of `count` indices of `bits` bits; the codebook has `clusters` entries."""

    count: int
    bits: int
    clusters: int

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.count, self.bits)


@dataclass(frozen=True)
class ClusteredConvolutionSpec:
    """A convolution whose weights are packed indices."""

    convolution: ConvolutionSpec
    packing: Packing


@dataclass(frozen=True)
class ClusteredDenseSpec:
    """One vector of packing.count elements of `dtype`."""

    dtype: str
    outputs: int
    packing: Packing
    epilogue: IntegerEpilogue


def plan_clustered_qconv(node: Node) -> Kernel | Refusal:
    """QConv with clustered weights."""
    packed = _packed_weights(node)
    if isinstance(packed, Refusal):
        return packed
    packing, weights = packed
    spec, bias = integer_convolution(node)
    arguments = (InputArgument(0), *weights, ScratchArgument(packing.count, 4), *integer_arguments(node, bias))
    return Kernel(
        convolve_clustered, ClusteredConvolutionSpec(spec, packing), f"{spec.name}_packed{packing.bits}", arguments
    )


def plan_clustered_qdense(node: Node) -> Kernel | Refusal:
    """QDense with clustered weights."""
    packed = _packed_weights(node)
    if isinstance(packed, Refusal):
        return packed
    packing, weights = packed
    name = f"dense_{type_suffix(node)}_packed{packing.bits}"
    end = integer_arguments(node, node.input(2).data)
    shape = dense_shape(node)
    if shape.vertical.input == 1:
        spec = ClusteredDenseSpec(node.input(0).dtype, shape.outputs, packing, IntegerEpilogue.of(node))
        return Kernel(dense_clustered, spec, name, (InputArgument(0), *weights, *end))
    arguments = (InputArgument(0), *weights, ScratchArgument(packing.count, 4), *end)
    return Kernel(convolve_clustered, ClusteredConvolutionSpec(integer_dense(node), packing), name, arguments)


def _packed_weights(node: Node) -> tuple[Packing, tuple[ConstantArgument, ConstantArgument]] | Refusal:
    """How the weights are packed, and the arguments: packed indices, codebook."""
    clusters = node.input(1).clusters
    if clusters is None:
        return Refusal("the weights are not clustered")
    packing = _packing_of(clusters)
    outputs = len(clusters.indices)
    if outputs * packing.row_bytes + packing.clusters >= clusters.indices.size:
        return Refusal(f"{clusters.indices.size} weights packed to {packing.bits} bits each take no less than int8")
    packed = pack_rows(clusters.indices.reshape(outputs, -1), packing.bits)
    return packing, (ConstantArgument("weight", packed), ConstantArgument("codebook", clusters.codebook))


def _packing_of(clusters: Clusters) -> Packing:
    return Packing(clusters.indices[0].size, clusters.index_bits, len(clusters.codebook))


def convolve_clustered(spec: ClusteredConvolutionSpec) -> PrimFunc:
    """Channel by channel: unpack its weights, then position by position."""
    shape, packing = spec.convolution.shape, spec.packing
    kernel = KernelBuilder("conv_packed")
    with kernel.function():
        x = kernel.buffer("x", spec.convolution.arithmetic.element_a, shape.input_elements)
        packed = kernel.buffer("packed", "uint8", shape.output_channels * packing.row_bytes)
        codebook = kernel.buffer("codebook", "int8", packing.clusters)
        weights = kernel.buffer("weights", "int8", packing.count)
        finish = spec.convolution.epilogue.declare(kernel, shape.output_channels, shape.output_elements)
        total = kernel.local("int32", 1)

        def keep(index: Expr, weight: Expr) -> None:
            weights[index] = weight

        def multiply(input_index: Expr, weight_index: Expr) -> None:
            product = spec.convolution.arithmetic.product(x[input_index], weights[weight_index])
            total[0] = total[0] + product

        with kernel.loop(shape.groups) as group, kernel.loop(shape.outputs) as member:
            channel = kernel.let(group * shape.outputs + member)
            each_weight(kernel, packing, packed, codebook, channel, keep)
            with (
                kernel.loop(shape.batch) as image,
                kernel.loop(shape.vertical.output) as row,
                kernel.loop(shape.horizontal.output) as column,
            ):
                window = Window.at(kernel, shape, image, row, column)
                total[0] = finish.start(channel)
                window.each_product(kernel, group, 0, multiply)
                finish.store(channel, window.output_index + channel, total[0])
    return kernel.finish()


def dense_clustered(spec: ClusteredDenseSpec) -> PrimFunc:
    """Every weight is multiplied as it is unpacked."""
    packing = spec.packing
    kernel = KernelBuilder("dense_packed")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, packing.count)
        packed = kernel.buffer("packed", "uint8", spec.outputs * packing.row_bytes)
        codebook = kernel.buffer("codebook", "int8", packing.clusters)
        finish = spec.epilogue.declare(kernel, spec.outputs, spec.outputs)
        total = kernel.local("int32", 1)

        def multiply(index: Expr, weight: Expr) -> None:
            total[0] = total[0] + cast(x[index], "int32") * cast(weight, "int32")

        with kernel.loop(spec.outputs) as channel:
            total[0] = finish.start(channel)
            each_weight(kernel, packing, packed, codebook, channel, multiply)
            finish.store(channel, channel, total[0])
    return kernel.finish()


def each_weight(
    kernel: KernelBuilder,
    packing: Packing,
    packed: Buffer,
    codebook: Buffer,
    row: Expr,
    use: Callable[[Expr, Expr], None],
) -> None:
    """Call `use` with (index, int8 weight) for each weight of a packed row: groups of eight, then what is left."""
    start = kernel.let(row * packing.row_bytes)
    groups, rest = divmod(packing.count, INDICES_PER_GROUP)
    with kernel.loop(groups) as group:
        _unpack(kernel, packing.bits, INDICES_PER_GROUP, packed, start + group * packing.bits, codebook, group, use)
    if rest:
        _unpack(kernel, packing.bits, rest, packed, start + groups * packing.bits, codebook, groups, use)


def _unpack(
    kernel: KernelBuilder,
    bits: int,
    count: int,
    packed: Buffer,
    start: Expr,
    codebook: Buffer,
    group: Expr,
    use: Callable[[Expr, Expr], None],
) -> None:
    """Up to eight indices from byte `start` on; their places and shifts are constants."""
    parts = [kernel.let(cast(packed[start + byte], "int32")) for byte in range(row_bytes(count, bits))]
    for place in range(count):
        byte, shift = divmod(place * bits, 8)
        index = parts[byte] >> shift
        if shift + bits > 8:
            index = index | (parts[byte + 1] << (8 - shift))
        use(group * INDICES_PER_GROUP + place, codebook[index & ((1 << bits) - 1)])
