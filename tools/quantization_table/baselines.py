"""onnxruntime's own static quantization on the same model and data, to compare with."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tinyopt.ir import Array
from tinyopt.onnx_session import OnnxSession
from tinyopt.samples import Sample
from tools.measured.scores import Answers, session_answers
from tools.measured.subject import Subject
from tools.quantization_table.rows import Row, row_of

GROUP = "onnxruntime.quantization.quantize_static, QDQ int8 per channel"
BASELINES = ("MinMax", "Entropy", "Percentile")


def measure_baselines(subject: Subject) -> Iterator[Row]:
    """A row for each calibration method; where one fails, the row says why."""
    for name in BASELINES:
        started = time.perf_counter()
        try:
            with redirect_stdout(sys.stderr):  # it tells its progress
                model = _quantized(subject, name)
            seconds = time.perf_counter() - started
            yield row_of(subject, GROUP, name, _answers(model, subject.samples), seconds)
        except Exception as error:  # whatever another project's code raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Row(subject.name, GROUP, name, len(subject.samples), failure=reason)


def _quantized(subject: Subject, name: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="tinyopt-baseline-") as text_folder:
        prepared, output = Path(text_folder) / "prepared.onnx", Path(text_folder) / "quantized.onnx"
        quant_pre_process(str(subject.file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(output),
            _Reader(subject.calibration),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, name),
        )
        return onnx.load(str(output))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration samples, one after the other."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, Array] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """None where there are no more, as quantize_static takes it."""
        sample = next(self._samples, None)
        return None if sample is None else dict(sample)


def _answers(model: onnx.ModelProto, samples: Sequence[Sample]) -> Answers:
    output, logits = model.graph.output[0].name, _logits_of(model.graph)
    if logits is not None:
        model.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, None))
    return session_answers(OnnxSession(model), samples, output, logits)


def _logits_of(graph: Any) -> str | None:
    """What the Softmax reads that gives the first output, through QuantizeLinear and DequantizeLinear behind it."""
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(graph.output[0].name)
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = producers.get(node.input[0])
    return str(node.input[0]) if node is not None and node.op_type == "Softmax" else None
