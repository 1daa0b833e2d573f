"""The one door to onnxruntime: runs ONNX models, and graphs by way of their ONNX form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from onnx import ModelProto, helper

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_export import export_model

_THREADS = 2
_ERRORS_ONLY = 3


class OnnxSession:
    """A model that is ready to run.

    QuantizeLinear and DequantizeLinear are computed as they stand: onnxruntime's own integer convolutions saturate
    sums on some x86 machines, and so are no reference.
    """

    def __init__(self, model: ModelProto | Graph, extra_outputs: Sequence[Value] = ()) -> None:
        """Load a model, or a graph with `extra_outputs`: values inside it that `run` shall return too.

        Raises InvalidModelError where onnxruntime does not take the model.
        """
        assert isinstance(model, Graph) or not extra_outputs, "extra outputs are values of a graph"
        proto = export_model(model, extra_outputs) if isinstance(model, Graph) else model
        self._types = {
            item.name: helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type) for item in proto.graph.input
        }
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), _options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no base class of its own
            raise InvalidModelError(f"onnxruntime does not take model '{proto.graph.name}': {error}") from error
        self.input_names: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())

    def run(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name for one sample: an array for each input, by name.

        Raises InvalidModelError where the sample does not fit the model's inputs.
        """
        if missing := [name for name in self.input_names if name not in sample]:
            raise InvalidModelError(f"no data for input '{missing[0]}' of the model")
        feed = {name: np.asarray(sample[name], self._types[name]) for name in self.input_names}
        try:
            results = self._session.run(list(self.output_names), feed)
        except Exception as error:  # onnxruntime has no base class of its own
            raise InvalidModelError(f"onnxruntime cannot run the model: {error}") from error
        return dict(zip(self.output_names, map(np.asarray, results), strict=True))


def _options() -> onnxruntime.SessionOptions:
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # runs are short, and cores are shared
    return options
