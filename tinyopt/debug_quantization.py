"""Quantize a model without compiling it, and measure what that broke, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyopt.api import load_calibration, no_progress, optimize
from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.quantization_error import analyze_errors
from tinyopt.report.quantization import quantization_section, quantized_model
from tinyopt.samples import load_samples
from tinyopt.targets import target_named

DEFAULT_SAMPLES = 32
_AFTER_QUANTIZATION = ("lower-integer", "split-rows")


def debug_quantization(
    model: Path,
    options: CompileOptions,
    data: str | None = None,
    samples: int = DEFAULT_SAMPLES,
    on_progress: Callable[[str, int, int], None] = no_progress,
) -> dict[str, Any]:
    """The section `quantization` of the report for the ONNX file `model`, with the cost of each layer at the outputs.

    data: samples to measure on, those of the calibration without them. samples: measure on at most so many.
    Raises UsageError without calibration samples, InvalidModelError where nothing is quantized.
    """
    if options.calibration is None:
        raise UsageError("no calibration data: give --calib")
    imported = import_model(model, options.shapes)
    original = imported.graph.copy()
    calibration = load_calibration(imported.graph, options, on_progress)
    measured = calibration.samples
    if data is not None:
        mean, scale = options.calibration_mean, options.calibration_scale
        measured = load_samples(data, original.inputs, mean, scale, on_progress=on_progress)
    without = replace(options, disabled_passes=(*options.disabled_passes, *_AFTER_QUANTIZATION))
    target, labels = target_named(options.target), calibration.labels
    steps = optimize(imported.graph, target, without, calibration.samples, on_progress, labels=labels)
    found = quantized_model(original, steps)
    if found is None:
        remarks = [r.message for s in steps if s.record.pass_name == "quantize" for r in s.record.remarks]
        raise InvalidModelError(f"{model}: nothing is quantized: {'; '.join(remarks) or 'quantize is disabled'}")
    section = quantization_section(found, analyze_errors(found, measured, samples, on_progress))
    return {"model": {"file": model.name}, "target": options.target, "quantization": section}
