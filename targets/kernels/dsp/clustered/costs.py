"""What decoding costs: modelled instructions of a layer with clustered weights and with int8 weights.

The model counts the loops as they are written: steps of the tiles, what each tile does before and after them, and the
gathering of pixels. It was fitted to layers of the MLPerf Tiny models, counted under QEMU.
"""

from __future__ import annotations

from dataclasses import replace

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, Decoding, Kernel
from tinyopt.targets.kernels.dsp.clustered.decode_steps import decode_instructions, decode_one_instructions
from tinyopt.targets.kernels.dsp.clustered.layer import RESCALING_BYTES, Depth, LayerSpec, block_pixels
from tinyopt.targets.kernels.dsp.clustered.tiles import NARROW, WIDE
from tinyopt.targets.kernels.dsp.clustered.vector import ROWS

_LOOP_PAIRS = 16  # pairs in the body of a loop over the depth, which ends in three instructions
_LOOP_END = 3
_CALL = 60  # of a micro-kernel, for a block
_PLAIN_GATHERING = 0.6  # of what it is with clustered weights
_TABLE_ENTRY = 3


def with_costs(node: Node, kernel: Kernel, spec: LayerSpec, depth: Depth) -> Kernel:
    """`kernel` with what it wins and pays."""
    constants = [argument for argument in kernel.arguments if isinstance(argument, ConstantArgument)]
    gathering = _gathering(node, depth)
    model = _vector(node, spec, depth) if kernel.name == "dense_clustered" else _blocks(node, spec, depth)
    decoding = Decoding(
        bytes=sum(c.array.nbytes for c in constants if c.role in ("weight", "codebook"))
        - RESCALING_BYTES * node.output.shape[-1],
        int8_bytes=node.input(1).type.elements,
        instructions=round(model + gathering + _table(node, spec)),
        int8_instructions=round(_plain(node, depth) + _PLAIN_GATHERING * gathering),
    )
    return replace(kernel, decoding=decoding)


def _pixels(node: Node) -> int:
    return node.output.type.elements // node.output.shape[-1]


def _pairs(depth: Depth) -> int:
    return len(depth.pairs)


def _gathering(node: Node, depth: Depth) -> float:
    """Reading the activations."""
    per_run = 8 + 2 * depth.run
    return _pixels(node) * ((45 if depth.runs > 1 else 12) + depth.runs * per_run)


def _table(node: Node, spec: LayerSpec) -> float:
    clusters = node.input(1).clusters
    assert clusters is not None
    return _TABLE_ENTRY * len(clusters.codebook) ** 2 if spec.has_table else 0


def _blocks(node: Node, spec: LayerSpec, depth: Depth) -> float:
    def block(width: int) -> float:
        step = decode_instructions(spec.bits) + width * 4 / 3
        finish = (6 if spec.is_clamped else 0) + (13 + bool(spec.residual_shift) if spec.has_residual else 4)
        return _CALL + node.output.shape[-1] * (_pairs(depth) * step + _loop(depth) + 12 + finish * width)

    return sum(block(NARROW if size <= NARROW else WIDE) for size in block_pixels(_pixels(node)))


def _loop(depth: Depth) -> int:
    return _LOOP_END * -(-_pairs(depth) // _LOOP_PAIRS)


def _vector(node: Node, spec: LayerSpec, depth: Depth) -> float:
    step = ROWS * (decode_one_instructions(spec.bits) + 1) + (0.5 if spec.has_table else 1)
    return _CALL + -(-node.output.shape[-1] // ROWS) * (
        _pairs(depth) * step + 46 + (ROWS * 6 if spec.is_clamped else 0)
    )


def _plain(node: Node, depth: Depth) -> float:
    """The tiles of int8 weights: two channels times four pixels; a vector, which has a kernel of its own."""
    pixels, pairs, channels = _pixels(node), _pairs(depth), node.output.shape[-1]
    if node.op == "QDense" and pixels == 1:
        return _CALL + channels * (1.8 * pairs + 11)
    full, rest = divmod(pixels, 4)
    tiles = full * (12 * pairs + _loop(depth) + 32)
    if rest:
        tiles += (8 if rest <= 2 else 12) * pairs + 90
    return -(-channels // 2) * tiles + _CALL * (full + 1)
