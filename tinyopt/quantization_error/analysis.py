"""Measure what the quantization of each layer costs: at its own output, accumulated, and at the model's outputs.

Two sessions run side by side. The float graph gets a twin of each layer whose constants are rounded and whose inputs
are exact, so that one run measures every layer alone; the QDQ graph shows what accumulates. For the model's outputs
one more graph for each layer is run, in which all others are float. Only sums of squares are kept.

Source: Nagel et al., arXiv:2106.08295, section 3.5 (debugging by quantizing one layer at a time).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.quantization_error.model import QuantizedLayer, QuantizedModel, evenly_spaced
from tinyopt.quantization_error.report import ErrorReport
from tinyopt.quantization_error.statistics import Energies, LayerStatistics
from tinyopt.quantization_error.variants import Precision, all_float, with_precision
from tinyopt.samples import Sample

Progress = Callable[[str, int, int], None]

DEFAULT_SAMPLES = 32
_FEWEST_SAMPLES = 4
_ELEMENTS = 400_000_000  # numbers whose errors are summed, over all layers and samples: about a minute
_MACS = 250_000_000_000  # multiply-accumulates spent on the graphs with one quantized layer: about a minute
_VARIANTS = 200  # graphs with one quantized layer: each is written, loaded and optimized


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def analyze_errors(
    model: QuantizedModel,
    samples: Sequence[Sample],
    count: int = DEFAULT_SAMPLES,
    on_progress: Progress = no_progress,
) -> ErrorReport:
    """The error of each layer, over at most `count` samples that are spread evenly over `samples`.

    Large models are measured on fewer samples, and a model of very many layers at its outputs only for those that are
    worst at their own, so that the time is bounded.
    Raises InvalidModelError where a sample does not fit the model.
    """
    chosen = evenly_spaced(samples, min(count, _affordable(_ELEMENTS, _elements(model))))
    statistics, total = _at_their_outputs(model, samples, chosen, on_progress)
    order = sorted(range(len(model.layers)), key=lambda index: statistics[index].alone.snr_db)
    measured = [model.layers[index] for index in order][:_VARIANTS]
    at_model = evenly_spaced(samples, min(count, _affordable(_MACS, _macs(model.float_graph) * len(measured))))
    ratios = _at_the_models_outputs(model, measured, samples, at_model, on_progress)
    layers = tuple(each.error(ratios.get(each.layer.name)) for each in statistics)
    return ErrorReport(layers, total.snr_db, len(chosen), len(at_model))


def analyze_layers(
    model: QuantizedModel,
    samples: Sequence[Sample],
    count: int = DEFAULT_SAMPLES,
    on_progress: Progress = no_progress,
) -> ErrorReport:
    """`analyze_errors` without what each layer costs at the model's outputs: two sessions for all layers together."""
    chosen = evenly_spaced(samples, min(count, _affordable(_ELEMENTS, _elements(model))))
    statistics, total = _at_their_outputs(model, samples, chosen, on_progress)
    return ErrorReport(tuple(each.error(None) for each in statistics), total.snr_db, len(chosen), 0)


def _affordable(budget: int, cost: int) -> int:
    return max(budget // max(cost, 1), _FEWEST_SAMPLES)


def _elements(model: QuantizedModel) -> int:
    return sum(layer.value.type.elements for layer in model.layers)


def _macs(graph: Graph) -> int:
    return sum(OPERATORS[node.op].macs(node) for node in graph.nodes)


def _at_their_outputs(
    model: QuantizedModel, samples: Sequence[Sample], indices: Sequence[int], on_progress: Progress
) -> tuple[list[LayerStatistics], Energies]:
    """The statistics of every layer, and the errors at the model's outputs."""
    exact_graph, taps, twins = _with_twins(model)
    given = set(exact_graph.inputs)
    exact_session = OnnxSession(exact_graph, [value for value in (*taps, *twins) if value not in given])
    ends = [layer.levels or layer.value for layer in model.layers]
    session = OnnxSession(model.graph, ends)
    statistics, total = [LayerStatistics(layer) for layer in model.layers], Energies()
    for done, index in enumerate(indices):
        sample = samples[index]
        exact, found = {**sample, **exact_session.run(sample)}, session.run(sample)
        _add_outputs(total, model.float_graph, exact, found)
        for each, tap, twin, end in zip(statistics, taps, twins, ends, strict=True):
            each.add(exact[tap.name], exact[twin.name], _real(found[end.name], end))
        on_progress("errors of layers", done + 1, len(indices))
    return statistics, total


def _add_outputs(total: Energies, graph: Graph, exact: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    for output in graph.outputs:
        total.add(exact[output.name].reshape(-1, 1), found[output.name].reshape(-1, 1))


def _with_twins(model: QuantizedModel) -> tuple[Graph, list[Value], list[Value]]:
    """A copy of the float graph with a twin of each layer that reads rounded constants.

    Returns it with each layer's output and its twin's, which is the same value where the layer has no constants.
    """
    graph = model.float_graph.copy()
    here = {layer.name: layer for layer in QuantizedModel(graph, model.graph).layers}
    taps = [here[layer.name].exact for layer in model.layers]
    return graph, taps, [_twin(graph, here[layer.name]) for layer in model.layers]


def _twin(graph: Graph, layer: QuantizedLayer) -> Value:
    node = layer.exact_node
    if node is None or not layer.constants:
        return layer.exact
    inputs = list(node.inputs)
    for index, levels in layer.constants.items():
        assert levels.quantization is not None, levels.name
        rounded = levels.quantization.dequantize(levels.data)
        inputs[index] = Value.of(graph.unique_name(f"{levels.name}_rounded"), rounded)
    name = graph.unique_name(f"{node.name}_rounded")
    output = Value(graph.unique_name(f"{name}_out"), node.output.type)
    graph.nodes.append(Node(node.op, name, inputs, [output], dict(node.attributes), node.origins))
    return output


def _real(array: Array, value: Value) -> Array:
    if value.quantization is None or array.dtype == np.float32:
        return array
    return value.quantization.dequantize(array)


def _at_the_models_outputs(
    model: QuantizedModel,
    layers: Sequence[QuantizedLayer],
    samples: Sequence[Sample],
    indices: Sequence[int],
    on_progress: Progress,
) -> dict[str, float]:
    """The ratio at the model's outputs with each layer quantized alone."""
    ratios: dict[str, float] = {}
    session = OnnxSession(model.float_graph)
    expected = [session.run(samples[index]) for index in indices]
    for done, layer in enumerate(layers):
        session, total = OnnxSession(with_precision(model, {**all_float(model), layer.name: Precision()})), Energies()
        for index, exact in zip(indices, expected, strict=True):
            _add_outputs(total, model.float_graph, exact, session.run(samples[index]))
        ratios[layer.name] = total.snr_db
        on_progress("errors at the outputs", done + 1, len(layers))
    return ratios
