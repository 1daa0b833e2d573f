"""Kernels for cores with the DSP extension. `DSP`: per operator, the planners to try before the scalar ones."""

from __future__ import annotations

from tinyopt.targets.kernels.activation_types import PlannerTable, reading_int8, without_int16
from tinyopt.targets.kernels.dsp.clustered import plan_clustered, plan_clustered_dense
from tinyopt.targets.kernels.dsp.convolution import plan_convolution
from tinyopt.targets.kernels.dsp.dense import plan_dense, plan_vector
from tinyopt.targets.kernels.dsp.depthwise import plan_depthwise
from tinyopt.targets.kernels.dsp.elementwise import plan_add, plan_lookup, plan_mul
from tinyopt.targets.kernels.dsp.pointwise import plan_pointwise
from tinyopt.targets.kernels.dsp.pool import plan_average_pool, plan_max_pool
from tinyopt.targets.kernels.dsp.wide import plan_wide_convolution, plan_wide_dense
from tinyopt.targets.target import layered

__all__ = ["DSP"]

_INT8 = without_int16(
    {
        "QConv": (plan_clustered, plan_pointwise, plan_depthwise, plan_convolution),
        "QDense": (plan_clustered_dense, plan_dense),
        "QAdd": (plan_add,),
        "QLookup": (plan_lookup,),
        "QMul": (plan_mul,),
        "QAveragePool": (plan_average_pool,),
        "MaxPool": (plan_max_pool,),
    }
)
_TO_INT16 = reading_int8({"QDense": (plan_clustered_dense, plan_vector)})

_WIDE: PlannerTable = {"QConv": (plan_wide_convolution,), "QDense": (plan_wide_dense,)}

DSP = layered(_INT8, _TO_INT16, _WIDE)
