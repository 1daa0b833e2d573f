"""Kernels for cores with Helium (MVE). `MVE`: per operator, the planners to try before those for the DSP."""

from __future__ import annotations

from functools import partial

from tinyopt.targets.kernels.activation_types import reading_int8, without_int16
from tinyopt.targets.kernels.decoding import InstructionsPerMac, plan_modelled
from tinyopt.targets.kernels.dsp.clustered import clustered_kernel, dense_kernel
from tinyopt.targets.kernels.mve.convolution import plan_convolution
from tinyopt.targets.kernels.mve.dense import plan_dense, plan_vector
from tinyopt.targets.kernels.mve.depthwise import plan_depthwise
from tinyopt.targets.kernels.mve.elementwise import plan_add, plan_lookup, plan_multiply
from tinyopt.targets.kernels.mve.movement import plan_concat, plan_pad, plan_slice
from tinyopt.targets.kernels.mve.pointwise import plan_pointwise
from tinyopt.targets.kernels.mve.pool import plan_average_pool, plan_max_pool, plan_reduce_sum
from tinyopt.targets.target import layered

__all__ = ["MVE"]

_INT8 = InstructionsPerMac(convolution=0.15, depthwise=0.66, dense=0.17)

# Clustered weights are decoded by the kernels for the DSP.
_FOR_INT8 = without_int16(
    {
        "QConv": (partial(plan_modelled, _INT8, clustered_kernel), plan_pointwise, plan_depthwise, plan_convolution),
        "QDense": (partial(plan_modelled, _INT8, dense_kernel), plan_dense),
        "QAdd": (plan_add,),
        "QMul": (plan_multiply,),
        "QLookup": (plan_lookup,),
        "QAveragePool": (plan_average_pool,),
        "QReduceSum": (plan_reduce_sum,),
        "MaxPool": (plan_max_pool,),
        "Concat": (plan_concat,),
        "Slice": (plan_slice,),
        "Pad": (plan_pad,),
    }
)
_TO_INT16 = reading_int8({"QDense": (partial(plan_modelled, _INT8, dense_kernel), plan_vector)})

MVE = layered(_FOR_INT8, _TO_INT16)
