"""Depthwise convolution with clustered weights: the kernel for int8 weights, which decodes four channels at a time."""

from __future__ import annotations

from dataclasses import replace

from tinyopt.ir import Node
from tinyopt.targets.kernel import Argument, ConstantArgument, Decoding, Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.dsp.clustered.pairs import MOST_BITS
from tinyopt.targets.kernels.dsp.decoding import INSTRUCTIONS_PER_TAP, packed_taps
from tinyopt.targets.kernels.dsp.depthwise import plan_depthwise
from tinyopt.targets.kernels.dsp.plane_micro_kernels import GROUP
from tinyopt.targets.kernels.packing import whole_words

_INT8_PER_MAC, _INT8_PER_CHANNEL = 1.7, 100  # instructions; a mean over the layers of the MLPerf Tiny models


def depthwise_kernel(node: Node) -> Kernel | Refusal:
    """What `plan_depthwise` takes, of clustered weights."""
    clusters = node.input(1).clusters
    if clusters is None:
        return Refusal("its weights are not clustered")
    if clusters.index_bits > MOST_BITS:
        return Refusal(f"{len(clusters.codebook)} clusters: indices of {clusters.index_bits} bits save too little")
    plain = plan_depthwise(node)
    if isinstance(plain, Refusal):
        return plain
    arguments: list[Argument] = []
    channels, rows, columns = node.input(1).shape[:3]
    packed, codebook = whole_words(packed_taps(clusters)), whole_words(clusters.codebook)
    for argument in plain.arguments:
        if isinstance(argument, ConstantArgument) and argument.role == "weight":
            arguments += [ConstantArgument("weight", packed), ConstantArgument("codebook", codebook)]
            arguments += [ScratchArgument(min(GROUP, channels) * rows * columns, 4)]
        else:
            arguments.append(argument)
    taps = node.input(1).type.elements
    instructions = round(_INT8_PER_MAC * taps * node.output.type.elements / channels + _INT8_PER_CHANNEL * channels)
    return replace(
        plain,
        spec=replace(plain.spec, index_bits=clusters.index_bits),
        name="depthwise_clustered",
        arguments=tuple(arguments),
        decoding=Decoding(
            packed.nbytes + codebook.nbytes, taps, instructions + INSTRUCTIONS_PER_TAP * taps, instructions
        ),
    )
