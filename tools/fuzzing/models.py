"""Random ONNX models: typed, valid by construction, checked by onnx and run by onnxruntime before they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.shape_inference
import onnxruntime
from numpy.typing import NDArray

from tools.fuzzing.elementwise import ELEMENTWISE
from tools.fuzzing.further import FURTHER
from tools.fuzzing.layers import LAYERS
from tools.fuzzing.movement import MOVEMENT
from tools.fuzzing.network import Array, Network, UnfitError

OLDEST_OPSET, NEWEST_OPSET = 7, 23
_MOST_OPERATIONS = 14
_NUDGE = 1e-6  # relative, of the inputs: how far the outputs go with it is how exactly they can be asked for
_LARGEST_OUTPUT = 1e4
_STEEPEST = 1e-3
FURTHER_SEEDS, FURTHER_OPSET = 10_000, 26
"""From this seed on models are made of all operators and opsets; those of smaller seeds stay what they were."""

_FIRST_MAKERS = {**LAYERS, **ELEMENTWISE, **MOVEMENT}
_ALL_MAKERS = {**_FIRST_MAKERS, **FURTHER}


@dataclass(frozen=True, eq=False)
class RandomModel:
    """A model with inputs, the outputs that onnxruntime gives for them, and what each may differ by at every element.

    name: its seed or its file. samples: more inputs, for calibration.
    """

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    tolerances: dict[str, NDArray[np.float64]]
    samples: list[dict[str, Array]]


def random_model(seed: int) -> RandomModel | None:
    """The model of this seed; None where onnxruntime does not run what was drawn, or it is no use as a measure."""
    newest = NEWEST_OPSET if seed < FURTHER_SEEDS else FURTHER_OPSET
    net = Network(seed, int(np.random.default_rng([seed, 1]).integers(OLDEST_OPSET, newest + 1)))
    _grow(net)
    outputs = net.leaves()
    if not outputs:
        return None
    if len(outputs) > 3:
        outputs = [outputs[-1], *(net.choice(outputs[:-1]) for _ in range(net.integer(0, 2)))]
        outputs = list(dict.fromkeys(outputs))
    model = net.model(outputs)
    onnx.checker.check_model(model, full_check=True)
    inputs, *samples = net.samples(9, {value.name: value for value in model.graph.input})
    exact = {x.name for x in net.inputs if x.is_exact}
    return measured(f"seed-{seed}", model, inputs, samples, exact)


def model_of_file(path: Path) -> RandomModel | None:
    """The model in `path` with random inputs; None where onnxruntime does not run it, or it is no use as a measure.

    Dimensions of inputs that are not known become 1.
    """
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    for dimension in (d for value in values for d in value.type.tensor_type.shape.dim):
        if not dimension.HasField("dim_value"):
            dimension.dim_value = 1
    random = np.random.default_rng(0)
    inputs, *samples = ({value.name: random_numbers(random, value) for value in values} for _ in range(9))
    if not _is_finite_throughout(model, inputs):
        return None
    return measured(path.stem, model, inputs, samples, set())


def _is_finite_throughout(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> bool:
    """Whether no value on the way is infinite or NaN: which of those is the smallest, for one, is not specified."""
    watched = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(value for value in watched.graph.value_info if value.name not in known)
    session = _session(watched)
    arrays = None if session is None else _run(session, inputs)
    return arrays is not None and all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def random_numbers(random: np.random.Generator, value: onnx.ValueInfoProto) -> Array:
    """Of floats multiples of 1/8 from -2 to 2, of integers -16 to 16 or what there is of these, truth values."""
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    levels = random.integers(0 if dtype.kind in "ub" else -16, 2 if dtype.kind == "b" else 17, size=shape)
    return (levels / 8 if dtype.kind == "f" else levels).astype(dtype)


def measured(
    name: str,
    model: onnx.ModelProto,
    inputs: dict[str, Array],
    samples: list[dict[str, Array]],
    exact: set[str],
) -> RandomModel | None:
    """A model with what onnxruntime gives for it; None where it gives nothing to compare with.

    exact: inputs that are not nudged.
    """
    names = [output.name for output in model.graph.output]
    session = _session(model)
    if session is None:
        return None
    expected = _run(session, inputs)
    nudged = {
        key: array if key in exact or array.dtype != np.float32 else (array * np.float32(1 + _NUDGE))
        for key, array in inputs.items()
    }
    moved = _run(session, nudged)
    if expected is None or moved is None or not _is_declared(model, expected):
        return None
    if not all(_is_moderate(array) for array in expected):
        return None
    tolerances = {key: _tolerance(*pair) for key, pair in zip(names, zip(expected, moved, strict=True), strict=True)}
    if any(tolerance is None for tolerance in tolerances.values()):
        return None
    known = {key: tolerance for key, tolerance in tolerances.items() if tolerance is not None}
    return RandomModel(name, model, inputs, dict(zip(names, expected, strict=True)), known, samples)


def _grow(net: Network) -> None:
    side = net.integer(2, 9)
    net.input((net.choice([1, 1, 1, 2]), net.integer(1, 12), side, side + net.integer(-1, 2)), net.chance(0.3))
    for _ in range(net.integer(0, 2)):
        rank = net.integer(1, 4)
        net.input(tuple(net.integer(1, 7) for _ in range(rank)), net.chance(0.5))
    makers = _FIRST_MAKERS if net.seed < FURTHER_SEEDS else _ALL_MAKERS
    names = list(makers)
    weights = np.array([makers[name][1] for name in names])
    for _ in range(net.integer(1, _MOST_OPERATIONS)):
        maker = makers[str(net.random.choice(names, p=weights / weights.sum()))][0]
        try:
            maker(net)
        except UnfitError:
            continue


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession | None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # its own fusions are not what we want to be measured against
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its many exceptions have no common base: what it cannot run is no measure
        return None


def _run(session: onnxruntime.InferenceSession, inputs: Mapping[str, Array]) -> list[Array] | None:
    try:
        return [np.asarray(array) for array in session.run(None, dict(inputs))]
    except Exception:
        return None


def _is_moderate(array: Array) -> bool:
    if array.dtype.kind != "f":
        return True
    return bool(np.isfinite(array).all() and np.abs(array).max(initial=0) < _LARGEST_OUTPUT)


def _is_declared(model: onnx.ModelProto, outputs: Sequence[Array]) -> bool:
    """Whether onnxruntime gives the shapes of onnx's inference: of pools with ceil_mode they think differently."""
    declared = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.output]
    return all(
        len(sizes) == array.ndim and all(a in (0, b) for a, b in zip(sizes, array.shape, strict=True))
        for sizes, array in zip(declared, outputs, strict=True)
    )


def _tolerance(expected: Array, moved: Array) -> NDArray[np.float64] | None:
    """For each element; None where the output is too steep to say anything about it."""
    if expected.dtype.kind != "f":
        return np.zeros(expected.shape) if np.array_equal(expected, moved) else None
    scale = float(np.abs(expected).max(initial=0)) + 1e-3
    steepness = np.abs(moved.astype(np.float64) - expected).max(initial=0)
    if steepness > _STEEPEST * scale:
        return None
    share = 2e-2 if expected.dtype == np.float16 else 1e-4
    tolerance: NDArray[np.float64] = share * (scale + np.abs(expected.astype(np.float64))) + 10 * steepness
    return tolerance
