"""int8 kernels for cores without the DSP extension: ARMv6-M (`THUMB1`) and ARMv7-M (`THUMB2`).

Each table has, per operator, the planners to try before the scalar ones. Both cores share planners and templates; what
is hot is a micro-kernel in assembly, one for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.thumb.convolution import plan_convolution
from tinyopt.targets.kernels.thumb.dense import plan_dense
from tinyopt.targets.kernels.thumb.depthwise import plan_depthwise
from tinyopt.targets.kernels.thumb.sparse_dense import plan_sparse_dense
from tinyopt.targets.target import layered

__all__ = ["THUMB1", "THUMB2"]


def _kernels(core: str) -> Mapping[str, tuple[KernelPlanner, ...]]:
    return {
        "QConv": (partial(plan_convolution, core), partial(plan_depthwise, core)),
        "QDense": (partial(plan_dense, core),),
    }


_SPARSE: Mapping[str, tuple[KernelPlanner, ...]] = {"QDense": (partial(plan_sparse_dense, "thumb1"),)}

THUMB1 = layered(_SPARSE, _kernels("thumb1"))
THUMB2 = _kernels("thumb2")
