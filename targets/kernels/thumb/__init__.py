"""Kernels for cores without the DSP extension: ARMv6-M (`THUMB1`) and ARMv7-M (`THUMB2`).

Each table has, per operator, the planners to try before the scalar ones. Both cores share planners and templates; what
is hot is a micro-kernel in assembly, one for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.activation_types import reading_int8, without_int16
from tinyopt.targets.kernels.decoding import InstructionsPerMac, plan_estimated
from tinyopt.targets.kernels.scalar.clustered import plan_clustered_qconv, plan_clustered_qdense
from tinyopt.targets.kernels.thumb.convolution import plan_convolution
from tinyopt.targets.kernels.thumb.dense import plan_dense, plan_vector
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


def _clustered(plain: InstructionsPerMac, decoded: InstructionsPerMac) -> Mapping[str, tuple[KernelPlanner, ...]]:
    """The scalar kernels, which decode clustered weights, where they are worthwhile."""
    return {
        "QConv": (partial(plan_estimated, plain, decoded, plan_clustered_qconv),),
        "QDense": (partial(plan_estimated, plain, decoded, plan_clustered_qdense),),
    }


_THUMB1_INT8 = InstructionsPerMac(convolution=2.8, depthwise=10.9, dense=2.5)
_THUMB1_DECODED = InstructionsPerMac(convolution=8.5, depthwise=19.9, dense=10.5)
_THUMB2_INT8 = InstructionsPerMac(convolution=1.9, depthwise=7.6, dense=1.7)
_THUMB2_DECODED = InstructionsPerMac(convolution=5.4, depthwise=9.9, dense=5.3)


def _to_int16(core: str, clustered: Mapping[str, tuple[KernelPlanner, ...]]) -> Mapping[str, tuple[KernelPlanner, ...]]:
    return reading_int8({"QDense": (*clustered["QDense"], partial(plan_vector, core))})


_THUMB1 = _clustered(_THUMB1_INT8, _THUMB1_DECODED)
_THUMB2 = _clustered(_THUMB2_INT8, _THUMB2_DECODED)

THUMB1 = layered(without_int16(layered(_THUMB1, _SPARSE, _kernels("thumb1"))), _to_int16("thumb1", _THUMB1))
THUMB2 = layered(without_int16(layered(_THUMB2, _kernels("thumb2"))), _to_int16("thumb2", _THUMB2))
