"""The table of all import rules: which function makes IR nodes of which ONNX operator."""

from __future__ import annotations

from tinyopt.onnx_import.along_axis import ALONG_AXIS_RULES
from tinyopt.onnx_import.convolution import import_conv, import_conv_integer, import_conv_transpose
from tinyopt.onnx_import.dense import import_gemm, import_matmul, import_matmul_integer
from tinyopt.onnx_import.einsum import EINSUM_RULES
from tinyopt.onnx_import.elementwise import ELEMENTWISE_RULES, Rule
from tinyopt.onnx_import.generators import GENERATOR_RULES
from tinyopt.onnx_import.indexing import INDEXING_RULES
from tinyopt.onnx_import.movement import MOVEMENT_RULES
from tinyopt.onnx_import.normalization import NORMALIZATION_RULES
from tinyopt.onnx_import.pointwise import POINTWISE_RULES
from tinyopt.onnx_import.pooling import (
    import_average_pool,
    import_global_average_pool,
    import_global_lp_pool,
    import_global_max_pool,
    import_lp_pool,
    import_max_pool,
)
from tinyopt.onnx_import.qlinear import QLINEAR_RULES
from tinyopt.onnx_import.quantization import QUANTIZATION_RULES
from tinyopt.onnx_import.recurrent import RECURRENT_RULES
from tinyopt.onnx_import.reduction import REDUCTION_RULES
from tinyopt.onnx_import.resize import RESIZE_RULES
from tinyopt.onnx_import.sampling import SAMPLING_RULES
from tinyopt.onnx_import.slicing import SLICING_RULES
from tinyopt.onnx_import.tabulated import TABULATED_RULES

RULES: dict[tuple[str, str], Rule] = {
    ("", "Conv"): import_conv,
    ("", "ConvTranspose"): import_conv_transpose,
    ("", "Gemm"): import_gemm,
    ("", "MatMul"): import_matmul,
    ("", "MaxPool"): import_max_pool,
    ("", "AveragePool"): import_average_pool,
    ("", "GlobalMaxPool"): import_global_max_pool,
    ("", "GlobalAveragePool"): import_global_average_pool,
    ("", "MatMulInteger"): import_matmul_integer,
    ("", "ConvInteger"): import_conv_integer,
    ("", "LpPool"): import_lp_pool,
    ("", "GlobalLpPool"): import_global_lp_pool,
    **ELEMENTWISE_RULES,
    **POINTWISE_RULES,
    **NORMALIZATION_RULES,
    **MOVEMENT_RULES,
    **SLICING_RULES,
    **INDEXING_RULES,
    **GENERATOR_RULES,
    **TABULATED_RULES,
    **SAMPLING_RULES,
    **RESIZE_RULES,
    **REDUCTION_RULES,
    **ALONG_AXIS_RULES,
    **RECURRENT_RULES,
    **EINSUM_RULES,
    **QUANTIZATION_RULES,
    **QLINEAR_RULES,
}
"""By domain ("" for the standard operators) and operator."""
