"""What quantization costs, layer by layer, and graphs in which only some layers are quantized."""

from tinyopt.quantization_error.analysis import analyze_errors, analyze_layers
from tinyopt.quantization_error.model import QuantizedLayer, QuantizedModel, evenly_spaced
from tinyopt.quantization_error.report import ChannelError, ErrorReport, LayerError
from tinyopt.quantization_error.unrounded import beside_itself
from tinyopt.quantization_error.variants import Precision, all_float, with_precision

__all__ = [
    "ChannelError",
    "ErrorReport",
    "LayerError",
    "Precision",
    "QuantizedLayer",
    "QuantizedModel",
    "all_float",
    "analyze_errors",
    "analyze_layers",
    "beside_itself",
    "evenly_spaced",
    "with_precision",
]
