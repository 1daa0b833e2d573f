"""Does the compiled library give the bytes of the reference? Layer by layer, and against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import BuiltModel
from tinyopt.execution.runner import run_built_model
from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.toolchain import CompilerChoice


@dataclass(frozen=True)
class Tolerance:
    """How far float sums may differ: in proportion to a result, and to the largest magnitude of its tensor.

    step: what one step is worth, in reals made of integers that may be one step off.
    """

    relative: float
    of_range: float
    step: float = 0.0


FLOAT32 = Tolerance(1e-3, 1e-4)  # by the order of their terms
FLOAT16 = Tolerance(1e-2, 2e-2)  # in graphs that compute in float16: kernels round each sum, the reference once

# float operators whose result is the same on every machine: one correctly rounded operation per element
_EXACT_FLOAT_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Validation:
    """What was compared, and the first thing that differs.

    exact_layers, float_layers: how many layers were compared bit for bit, and by tolerance.
    first_difference: one line that names sample, layer and values; None where all is as it must be.
    different_bytes: of all outputs, in elements that differ from the numpy reference (floats: beyond the tolerance).
    onnxruntime_steps: the largest difference of an integer output from onnxruntime's, in steps.
    onnxruntime_error: the largest absolute difference of a float output from onnxruntime's.
    variant: the kernels that the library picked on the CPU that ran it; None where it has no others.
    """

    samples: int
    exact_layers: int
    float_layers: int
    first_difference: str | None
    different_bytes: int
    output_bytes: int
    onnxruntime_steps: int
    onnxruntime_error: float
    variant: str | None


def validate(
    built: BuiltModel, samples: Sequence[Mapping[str, Array]], choice: CompilerChoice, cache_dir: Path
) -> Validation:
    """Run `samples` on the target and compare every layer with the numpy reference and the outputs with onnxruntime."""
    result = run_built_model(built, samples, "trace", choice, cache_dir)
    by_name = {node.name: node for node in built.graph.nodes}
    nodes = [by_name[layer["name"]] for layer in built.layers]
    inexact = tolerances(built.graph)
    session = OnnxSession(built.graph)
    first: str | None = None
    different = total = steps = 0
    error = 0.0
    for number, sample in enumerate(samples):
        reference = evaluate_all(built.graph, sample)
        if first is None:
            first = _first_difference(number, nodes, result.traces[number], reference, inexact)
        if first is None:
            first = _wrong_output(number, built.graph, result.outputs[number], reference, inexact)
        for name, theirs in session.run(sample).items():
            ours = result.outputs[number][name]
            value = next(v for v in built.graph.outputs if v.name == name)
            expected = reference[value]
            different += ours.itemsize * int(np.count_nonzero(~_equal(ours, expected, inexact.get(value))))
            total += ours.nbytes
            gap = _largest_gap(ours, theirs)
            if ours.dtype.kind == "f":
                error = max(error, gap)
            else:
                steps = max(steps, int(gap))
    exact = sum(node.outputs[0] not in inexact for node in nodes)
    return Validation(len(samples), exact, len(nodes) - exact, first, different, total, steps, error, result.variant)


def tolerances(graph: Graph) -> dict[Value, Tolerance]:
    """Of the values that depend on float arithmetic, which moves by rounding from machine to machine."""
    inexact: dict[Value, Tolerance] = {}
    has_float16 = any(value.dtype == "float16" for node in graph.nodes for value in node.outputs)
    tolerance = FLOAT16 if has_float16 else FLOAT32
    for node in graph.nodes:
        is_float = any(v.dtype.startswith("float") for v in [*node.variable_inputs, *node.outputs])
        if (is_float and node.op not in _EXACT_FLOAT_OPS) or any(v in inexact for v in node.present_inputs):
            step = _step(node) if node.op == "DequantizeLinear" else 0.0
            inexact.update(dict.fromkeys(node.outputs, replace(tolerance, step=step)))
    return inexact


def _step(dequantize: Node) -> float:
    quantization = dequantize.input(0).quantization
    return 0.0 if quantization is None else float(max(quantization.scale))


def _first_difference(
    sample: int,
    nodes: Sequence[Node],
    trace: Sequence[Array],
    reference: Mapping[Value, Array],
    inexact: Mapping[Value, Tolerance],
) -> str | None:
    """The first layer whose first output differs."""
    for index, (node, ours) in enumerate(zip(nodes, trace, strict=True)):
        value = node.outputs[0]
        if difference := _difference(ours, reference[value], inexact.get(value)):
            return f"sample {sample}, layer {index} ({node.op} '{node.name}'): {difference}"
    return None


def _wrong_output(
    sample: int,
    graph: Graph,
    outputs: Mapping[str, Array],
    reference: Mapping[Value, Array],
    inexact: Mapping[Value, Tolerance],
) -> str | None:
    """The first graph output that differs: a layer's second output, and a view of an input, are no layer's result."""
    for value in graph.outputs:
        if difference := _difference(outputs[value.name], reference[value], inexact.get(value)):
            return f"sample {sample}, output '{value.name}': {difference}"
    return None


def _difference(ours: Array, expected: Array, tolerance: Tolerance | None) -> str | None:
    wrong = ~_equal(ours, expected, tolerance)
    if not wrong.any():
        return None
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {ours.size} elements differ, "
        f"first at {place}: {ours[place]}, reference {expected[place]}"
    )


def _equal(ours: Array, expected: Array, tolerance: Tolerance | None) -> Array:
    """tolerance: None where every bit must be the same."""
    if tolerance is None:
        return np.asarray(ours == expected) | (np.isnan(ours) & np.isnan(expected) if ours.dtype.kind == "f" else False)
    if ours.dtype.kind == "f":
        finite = np.abs(expected[np.isfinite(expected)])
        of_range = tolerance.of_range * float(np.max(finite.astype(np.float32), initial=0.0))
        wide = expected.astype(np.float64)
        return np.isclose(
            ours.astype(np.float64), wide, rtol=tolerance.relative, atol=of_range + tolerance.step, equal_nan=True
        )
    return np.asarray(np.abs(ours.astype(np.int64) - expected.astype(np.int64)) <= 1)


def _largest_gap(ours: Array, theirs: Array) -> float:
    """The largest absolute difference; infinite where only one of two elements is a number."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    gaps = np.abs(a[unequal] - b[unequal])
    return float(np.max(np.where(np.isnan(gaps), np.inf, gaps), initial=0.0))
