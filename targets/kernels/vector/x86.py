"""Tables of kernels for x86-64: the vector width of the machine, and its instructions for int8 products."""

from __future__ import annotations

from functools import partial

from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.vector.float_convolution import plan_float_convolution, plan_float_dense
from tinyopt.targets.kernels.vector.machine import AVX2_VECTORS, AVX512_VECTORS, SSE2_VECTORS, VectorMachine
from tinyopt.targets.kernels.vector.x86_depthwise import plan_x86_depthwise


def _floats(machine: VectorMachine) -> dict[str, tuple[KernelPlanner, ...]]:
    """float32 products in vectors of this machine."""
    return {
        "Conv": (
            partial(plan_float_convolution, machine=machine),
            partial(plan_x86_depthwise, machine=machine),
        ),
        "Dense": (partial(plan_float_dense, machine=machine),),
    }


SSE2 = _floats(SSE2_VECTORS)
AVX2 = _floats(AVX2_VECTORS)
VNNI512 = _floats(AVX512_VECTORS)
