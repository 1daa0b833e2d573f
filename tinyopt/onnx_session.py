"""The one door to onnxruntime: runs ONNX models, and graphs by way of their ONNX form."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_export import export_model

_THREADS = 2
_AHEAD = 2  # samples of `run_each` that wait, beside the one that is looked at
_ERRORS_ONLY = 3
_LARGE_BYTES = 2**20
_MOST_COPIED_BYTES = 2**26  # of weights, of which onnxruntime else makes copies in layouts of its own
_MOST_OPTIMIZED_NODES = 2_000  # onnxruntime's own optimizations take time with the square of the nodes


class OnnxSession:
    """A model that is ready to run.

    QuantizeLinear and DequantizeLinear are computed as they stand: onnxruntime's own integer convolutions saturate
    sums on some x86 machines, and so are no reference.
    """

    def __init__(self, model: ModelProto | Graph, extra_outputs: Sequence[Value] = (), threads: int = _THREADS) -> None:
        """Load a model, or a graph with `extra_outputs`: values inside it that `run` shall return too.

        threads: for one run; the results do not depend on them.
        Raises InvalidModelError where onnxruntime does not take the model.
        """
        assert isinstance(model, Graph) or not extra_outputs, "extra outputs are values of a graph"
        proto = export_model(model, extra_outputs) if isinstance(model, Graph) else model
        self._types = {
            item.name: helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type) for item in proto.graph.input
        }
        options = _options(threads)
        self._weights = _handed_over(proto, options) if isinstance(model, Graph) else []
        if sum(array.nbytes for array in self._weights) > _MOST_COPIED_BYTES:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.add_session_config_entry("session.disable_prepacking", "1")
        if len(proto.graph.node) > _MOST_OPTIMIZED_NODES:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        name, content = proto.graph.name, proto.SerializeToString()
        del proto
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no base class of its own
            raise InvalidModelError(f"onnxruntime does not take model '{name}': {error}") from error
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

    def run_each(
        self, samples: Iterable[Mapping[str, Array]]
    ) -> Iterator[tuple[Mapping[str, Array], dict[str, Array]]]:
        """Each sample with its outputs, in order; the next ones run while the caller looks at this one.

        Samples are read here, one after the other, and few are in memory at a time. Raises as `run` does.
        """
        waiting: deque[tuple[Mapping[str, Array], Future[dict[str, Array]]]] = deque()
        with ThreadPoolExecutor(_AHEAD) as pool:
            for sample in samples:
                waiting.append((sample, pool.submit(self.run, sample)))
                if len(waiting) > _AHEAD:
                    first, outputs = waiting.popleft()
                    yield first, outputs.result()
            for first, outputs in waiting:
                yield first, outputs.result()


def _handed_over(proto: ModelProto, options: onnxruntime.SessionOptions) -> list[Array]:
    """Large weights, taken out of the model: onnxruntime reads them where they are, and copies those in a model twice.

    They must live as long as the session.
    """
    large = [tensor for tensor in proto.graph.initializer if len(tensor.raw_data) > _LARGE_BYTES]
    arrays = [numpy_helper.to_array(tensor) for tensor in large]
    for tensor in large:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="memory")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    options.add_external_initializers([tensor.name for tensor in large], values)
    return arrays


def _options(threads: int) -> onnxruntime.SessionOptions:
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # runs are short, and cores are shared
    return options
