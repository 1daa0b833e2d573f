"""Kernels in vectors, for TVM's LLVM code generator.

`VECTOR` runs on any machine that LLVM knows. `NEON` (64-bit Arm), `SDOT` (with the dot product) and `I8MM` (with the
matrix product) hold what is quicker there, for the integer products only: ask them first, `I8MM` before `SDOT`, then
`VECTOR`, then the scalar kernels, which take everything but float16. That is for CPUs with instructions for it; the
kernels of `VECTOR` use them where a node is float16.
"""

from __future__ import annotations

from tinyopt.targets.kernels.activation_types import reading_int8, without_int16
from tinyopt.targets.kernels.scalar.pointwise import plan_half_cast
from tinyopt.targets.kernels.vector.elementwise import (
    plan_binary,
    plan_clip,
    plan_dequantize,
    plan_float_cast,
    plan_quantize,
    plan_quantized_add,
    plan_relu,
)
from tinyopt.targets.kernels.vector.float_convolution import plan_float_convolution, plan_float_dense
from tinyopt.targets.kernels.vector.float_depthwise import plan_float_depthwise
from tinyopt.targets.kernels.vector.integer_convolution import (
    plan_neon_convolution,
    plan_neon_dense,
    plan_sdot_convolution,
    plan_sdot_dense,
    plan_widened_convolution,
    plan_widened_dense,
)
from tinyopt.targets.kernels.vector.mull_convolution import plan_mull_convolution, plan_mull_dense
from tinyopt.targets.kernels.vector.mull_depthwise import plan_neon_depthwise
from tinyopt.targets.kernels.vector.pooling import plan_average_pool, plan_max_pool, plan_quantized_average_pool
from tinyopt.targets.kernels.vector.sdot_depthwise import plan_sdot_depthwise
from tinyopt.targets.kernels.vector.smmla_convolution import plan_smmla_convolution, plan_smmla_dense
from tinyopt.targets.kernels.vector.widened_depthwise import plan_widened_depthwise
from tinyopt.targets.kernels.vector.winograd import plan_winograd
from tinyopt.targets.kernels.vector.x86 import AVX2, SSE2, VNNI512
from tinyopt.targets.target import layered

__all__ = ["AVX2", "I8MM", "NEON", "SDOT", "SSE2", "VECTOR", "VNNI512"]

_OTHERS = without_int16(
    {
        "Conv": (plan_winograd, plan_float_convolution, plan_float_depthwise),
        "Dense": (plan_float_dense,),
        "AveragePool": (plan_average_pool,),
        "MaxPool": (plan_max_pool,),
        "Add": (plan_binary,),
        "Sub": (plan_binary,),
        "Mul": (plan_binary,),
        "Relu": (plan_relu,),
        "Clip": (plan_clip,),
        "QuantizeLinear": (plan_quantize,),
        "DequantizeLinear": (plan_dequantize,),
        "QAdd": (plan_quantized_add,),
        "QAveragePool": (plan_quantized_average_pool,),
        "Cast": (plan_float_cast, plan_half_cast),
    }
)
_WIDENED = reading_int8(
    {
        "QConv": (plan_widened_convolution, plan_widened_depthwise),
        "QDense": (plan_widened_dense,),
    }
)
VECTOR = layered(_OTHERS, _WIDENED)

NEON = reading_int8(
    {
        "QConv": (plan_mull_convolution, plan_neon_convolution, plan_neon_depthwise),
        "QDense": (plan_mull_dense, plan_neon_dense),
    }
)

SDOT = reading_int8(
    {
        "QConv": (plan_sdot_convolution, plan_sdot_depthwise),
        "QDense": (plan_sdot_dense,),
    }
)

I8MM = reading_int8(
    {
        "QConv": (plan_smmla_convolution,),
        "QDense": (plan_smmla_dense,),
    }
)
