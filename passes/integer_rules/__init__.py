"""How each float operator between DequantizeLinear and QuantizeLinear becomes an integer one, one file per family."""

from __future__ import annotations

from collections.abc import Mapping

from tinyopt.passes.integer_rules.elementwise import (
    lower_mul,
    lower_prelu,
    lower_sum,
    lower_unary,
    rescaled,
    rescaling_table,
)
from tinyopt.passes.integer_rules.linear import lower_conv, lower_conv_transpose, lower_dense, lower_matmul
from tinyopt.passes.integer_rules.pooling import lower_average_pool, lower_reduction, lower_softmax
from tinyopt.passes.integer_rules.site import Refusal, Rule, Site

__all__ = ["RULES", "Refusal", "Rule", "Site", "rescaled", "rescaling_table"]

RULES: Mapping[str, Rule] = {
    "Conv": lower_conv,
    "ConvTranspose": lower_conv_transpose,
    "Dense": lower_dense,
    "MatMul": lower_matmul,
    "Add": lower_sum,
    "Sub": lower_sum,
    "Mul": lower_mul,
    "Div": lower_unary,
    "PRelu": lower_prelu,
    "Relu": lower_unary,
    "Clip": lower_unary,
    "LeakyRelu": lower_unary,
    "Sigmoid": lower_unary,
    "Tanh": lower_unary,
    "HardSigmoid": lower_unary,
    "HardSwish": lower_unary,
    "Gelu": lower_unary,
    "AveragePool": lower_average_pool,
    "ReduceMean": lower_reduction,
    "ReduceSum": lower_reduction,
    "Softmax": lower_softmax,
}
