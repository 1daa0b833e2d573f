"""What the tiles of convolutions must know of a machine's vectors, and what its instructions cost them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tinyopt.ir import Node

Operands = Literal["lane", "memory"]
Float = Literal["float32", "float16"]


@dataclass(frozen=True)
class VectorMachine:
    """The vectors of one kind of CPU.

    lanes: of a vector of accumulators; they have 32 bits, but for float16.
    registers: those that a tile may fill; the rest is left to the compiler.
    operands: where a product takes the image word that all its lanes share: from a lane of a vector that holds several
        words (Arm), or from memory, broadcast as it is loaded (x86).
    is_fused: it has an instruction that multiplies and adds floats, rounding once.
    element: of float kernels, one to a lane.
    """

    lanes: int
    registers: int
    operands: Operands
    is_fused: bool = True
    element: Float = "float32"


ARM_VECTORS = VectorMachine(lanes=4, registers=30, operands="lane")  # of 32 registers; also for any other LLVM target
ARM_FLOAT_VECTORS = replace(ARM_VECTORS, registers=31)  # float tiles keep no constants while they multiply
ARM_HALF_VECTORS = replace(ARM_FLOAT_VECTORS, lanes=8, element="float16")  # FEAT_FP16
NARROW_HALF_VECTORS = replace(ARM_HALF_VECTORS, lanes=4)
SSE2_VECTORS = VectorMachine(lanes=4, registers=16, operands="memory", is_fused=False)
AVX2_VECTORS = VectorMachine(lanes=8, registers=16, operands="memory")
AVX512_VECTORS = VectorMachine(lanes=16, registers=32, operands="memory")


def float_vectors(node: Node) -> VectorMachine:
    """Arm's vectors for the float type that `node` reads."""
    return ARM_HALF_VECTORS if node.input(0).dtype == ARM_HALF_VECTORS.element else ARM_FLOAT_VECTORS
