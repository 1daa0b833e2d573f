"""Tables of kernels for x86-64: the vector width of the machine, and its instructions for int8 products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.activation_types import reading_int8
from tinyopt.targets.kernels.vector.float_convolution import plan_float_convolution, plan_float_dense
from tinyopt.targets.kernels.vector.machine import AVX2_VECTORS, AVX512_VECTORS, SSE2_VECTORS, VectorMachine
from tinyopt.targets.kernels.vector.vnni_depthwise import plan_vnni_depthwise
from tinyopt.targets.kernels.vector.x86_convolution import X86Method, plan_x86_convolution, plan_x86_dense
from tinyopt.targets.kernels.vector.x86_depthwise import plan_x86_depthwise
from tinyopt.targets.target import layered


def _floats(machine: VectorMachine) -> dict[str, tuple[KernelPlanner, ...]]:
    """float32 products in vectors of this machine."""
    return {
        "Conv": (
            partial(plan_float_convolution, machine=machine),
            partial(plan_x86_depthwise, machine=machine),
        ),
        "Dense": (partial(plan_float_dense, machine=machine),),
    }


def _integers(method: X86Method) -> Mapping[str, tuple[KernelPlanner, ...]]:
    """int8 products."""
    return reading_int8(
        {
            "QConv": (partial(plan_x86_convolution, method=method),),
            "QDense": (partial(plan_x86_dense, method=method),),
        }
    )


SSE2 = _floats(SSE2_VECTORS)
AVX2 = layered(_floats(AVX2_VECTORS), _integers("madd"))
VNNI512 = layered(_floats(AVX512_VECTORS), _integers("vnni"), reading_int8({"QConv": (plan_vnni_depthwise,)}))
