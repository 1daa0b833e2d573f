"""What the tiles of convolutions must know of a machine's vectors, and what its instructions cost them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Operands = Literal["lane", "memory"]


@dataclass(frozen=True)
class VectorMachine:
    """The vectors of one kind of CPU.

    lanes: of 32 bits in a vector. registers: those that a tile may fill; the rest is left to the compiler.
    operands: where a product takes the image word that all its lanes share: from a lane of a vector that holds several
        words (Arm), or from memory, broadcast as it is loaded (x86).
    is_fused: it has an instruction that multiplies and adds floats, rounding once.
    """

    lanes: int
    registers: int
    operands: Operands
    is_fused: bool = True


ARM_VECTORS = VectorMachine(lanes=4, registers=30, operands="lane")  # of 32 registers; also for any other LLVM target
ARM_FLOAT_VECTORS = replace(ARM_VECTORS, registers=31)  # float tiles keep no constants while they multiply
SSE2_VECTORS = VectorMachine(lanes=4, registers=16, operands="memory", is_fused=False)
AVX2_VECTORS = VectorMachine(lanes=8, registers=16, operands="memory")
AVX512_VECTORS = VectorMachine(lanes=16, registers=32, operands="memory")
