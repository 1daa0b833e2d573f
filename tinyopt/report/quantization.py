"""What quantization broke: the section `quantization` of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tinyopt.ir import Graph
from tinyopt.pipeline import PipelineStep, float_reference
from tinyopt.quantization_error import ErrorReport, QuantizedLayer, QuantizedModel, analyze_layers, beside_itself
from tinyopt.report.suspects import advice
from tinyopt.samples import Sample

COMPILE_SAMPLES = 8  # a second for the models of a microcontroller; `tinyopt debug-quant` takes more


def quantized_model(original: Graph, steps: Sequence[PipelineStep]) -> QuantizedModel | None:
    """The graph before and after it was quantized; of a model that came quantized, without and with its rounding.

    None where nothing is quantized.
    """
    graphs = [original, *(step.record.graph for step in steps)]
    changed = {step.record.pass_name: place for place, step in enumerate(steps) if step.record.is_changed}
    graph = graphs[changed.get("lower-integer", len(steps))]
    exact = float_reference(original, steps)
    return beside_itself(graph) if exact is None else QuantizedModel(exact, graph)


def compiled_quantization(
    original: Graph,
    steps: Sequence[PipelineStep],
    samples: Sequence[Sample],
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Any] | None:
    """The section of a compilation: errors of layers, without what each costs at the model's outputs."""
    model = quantized_model(original, steps)
    if model is None or not samples or not model.layers:
        return None
    return quantization_section(model, analyze_layers(model, samples, COMPILE_SAMPLES, on_progress))


def quantization_section(model: QuantizedModel, errors: ErrorReport) -> dict[str, Any]:
    """As docs/report-schema.md says: layers in running order, the suspects in the order to look at."""
    by_name = {layer.name: layer for layer in model.layers}
    return {
        "samples": errors.samples,
        "model_samples": errors.model_samples,
        "snr_db": errors.snr_db,
        "layers": [
            {
                **asdict(layer),
                "widest_channel": {"index": layer.widest_channel[0], "ratio": layer.widest_channel[1]},
                "is_measured_at_outputs": layer.snr_model_db is not None,
                "output": _output_type(by_name[layer.name]),
                "constants": "int8" if by_name[layer.name].constants else "none or float",
                "advice": advice(layer),
            }
            for layer in errors.layers
        ],
        "suspects": [layer.name for layer in errors.suspects()],
    }


def _output_type(layer: QuantizedLayer) -> str:
    return "float32" if layer.levels is None else layer.levels.dtype
