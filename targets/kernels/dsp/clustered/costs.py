"""What decoding costs: modelled instructions of a layer with clustered weights and with int8 weights.

The model counts the loops as they are written: steps of the tiles, what each tile does before and after them, and the
gathering of pixels. It was fitted to layers of the MLPerf Tiny models, counted under QEMU.
"""

from __future__ import annotations

from dataclasses import replace

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, Decoding, Kernel, Refusal
from tinyopt.targets.kernels.dsp.clustered.decode_steps import decode_instructions
from tinyopt.targets.kernels.dsp.clustered.layer import Depth, LayerSpec, block_pixels
from tinyopt.targets.kernels.dsp.clustered.tiles import NARROW, WIDE
from tinyopt.targets.kernels.dsp.clustered.vector import ROWS

_LOOP_PAIRS = 8  # pairs in the body of a loop over the depth, which ends in three instructions
_LOOP_END = 3
_CALL = 60  # of a micro-kernel, for a block
_TABLE_ENTRY = 3


def with_costs(node: Node, kernel: Kernel, spec: LayerSpec, depth: Depth) -> Kernel:
    """`kernel` with what it wins and pays."""
    constants = [argument for argument in kernel.arguments if isinstance(argument, ConstantArgument)]
    gathering = _gathering(node, depth)
    model = _vector(node, spec, depth) if kernel.name == "dense_clustered" else _blocks(node, spec, depth)
    decoding = Decoding(
        bytes=sum(constant.array.nbytes for constant in constants if constant.role in ("weight", "codebook")),
        int8_bytes=node.input(1).type.elements,
        instructions=round(model + gathering + _table(node, spec)),
        int8_instructions=round(_plain(node, depth) + gathering),
    )
    return replace(kernel, decoding=decoding)


def worthwhile(node: Node, kernel: Kernel | Refusal) -> Kernel | Refusal:
    """`kernel`, or why int8 weights are better: it saves no flash, or costs more than the clusters permit."""
    clusters = node.input(1).clusters
    if isinstance(kernel, Refusal) or kernel.decoding is None or clusters is None:
        return kernel
    decoding = kernel.decoding
    saved = decoding.int8_bytes - decoding.bytes
    if saved <= 0:
        return Refusal(f"packed indices and codebook take {decoding.bytes} bytes, {decoding.int8_bytes} as int8")
    if decoding.instructions > clusters.cost_limit * decoding.int8_instructions:
        factor = decoding.instructions / decoding.int8_instructions
        return Refusal(
            f"decoding its weights would take {factor:.2f} times the instructions of int8 weights (the limit is"
            f" {clusters.cost_limit:g}) to save {saved} bytes"
        )
    return kernel


def _pixels(node: Node) -> int:
    return node.output.type.elements // node.output.shape[-1]


def _gathering(node: Node, depth: Depth) -> float:
    """Reading the activations; about the same for both."""
    per_run = 10 + 2 * depth.run
    return _pixels(node) * ((40 if depth.runs > 1 else 0) + depth.runs * per_run)


def _table(node: Node, spec: LayerSpec) -> float:
    clusters = node.input(1).clusters
    assert clusters is not None
    return _TABLE_ENTRY * len(clusters.codebook) ** 2 if spec.has_table else 0


def _blocks(node: Node, spec: LayerSpec, depth: Depth) -> float:
    pairs, channels = len(depth.pairs), node.output.shape[-1]

    def block(width: int) -> float:
        step = decode_instructions(spec.bits) + 1.5 * width
        finish = (7 if spec.is_clamped else 1) + (13 if spec.has_residual else 5)
        return _CALL + channels * (pairs * (step + _LOOP_END / _LOOP_PAIRS) + 15 + finish * width)

    return sum(block(NARROW if size <= NARROW else WIDE) for size in block_pixels(_pixels(node)))


def _vector(node: Node, spec: LayerSpec, depth: Depth) -> float:
    pairs, channels = len(depth.pairs), node.output.shape[-1]
    step = ROWS * (decode_instructions(spec.bits) + 1) + 1
    return _CALL + -(-channels // ROWS) * (pairs * step + 50 + (ROWS * 6 if spec.is_clamped else 0))


def _plain(node: Node, depth: Depth) -> float:
    """The tiles of int8 weights: two channels times four pixels, or a vector times four channels."""
    pixels, pairs, channels = _pixels(node), len(depth.pairs), node.output.shape[-1]
    if pixels == 1:
        return _CALL + -(-channels // ROWS) * (10.2 * pairs + 40)
    rest = pixels % 4
    per_pair = [pixels // 4 * 13, 3 + rest * 2.5 if rest else 0]
    tiles = -(-pixels // 4)
    return -(-channels // 2) * (sum(per_pair) * pairs + tiles * (_LOOP_END / _LOOP_PAIRS * pairs + 45)) + _CALL * tiles
