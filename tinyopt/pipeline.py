"""The default pipeline, and running it: each pass verified, recorded, and measured against the graph before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.options import CompileOptions
from tinyopt.pass_cache import run_pass_cached
from tinyopt.pass_manager import Pass, PassContext, PassRecord, Unpruned, installed_passes, with_options
from tinyopt.passes.cluster_weights import ClusterWeights
from tinyopt.passes.clustering.original import is_same_but_clustered
from tinyopt.passes.convert_to_float16 import ConvertToFloat16
from tinyopt.passes.correct_biases import CorrectBiases
from tinyopt.passes.distill import Distill
from tinyopt.passes.distillation.torch_door import require_torch
from tinyopt.passes.drop_idle_branches import IDLE_SHARE, DropIdleBranches
from tinyopt.passes.eliminate_dead_channels import EliminateDeadChannels
from tinyopt.passes.equalize_layers import EqualizeLayers
from tinyopt.passes.fold_batchnorm import FoldBatchNorm
from tinyopt.passes.fold_constants import FoldConstants
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.infer_scales import InferScales
from tinyopt.passes.limit_drop import LimitDrop
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.passes.prune_channels import PruneChannels
from tinyopt.passes.quantize import Quantize
from tinyopt.passes.reestimate_normalization import ReestimateNormalization
from tinyopt.passes.refit_weights import RefitWeights
from tinyopt.passes.round_weights import RoundWeights
from tinyopt.passes.simplify import Simplify
from tinyopt.passes.split_rows import SplitRows
from tinyopt.passes.split_threads import SplitThreads
from tinyopt.samples import Sample, to_input

DRIFT_SAMPLES = 4  # enough to see a pass go wrong; accuracy is measured apart, on all samples

# the canonical pipeline, in running order
DEFAULT_PASSES: tuple[type[Pass], ...] = (
    FoldConstants,
    Simplify,
    FoldBatchNorm,
    NhwcLayout,
    FuseOperators,
    EliminateDeadChannels,
    DropIdleBranches,
    PruneChannels,
    RefitWeights,
    ReestimateNormalization,
    Distill,
    EqualizeLayers,
    ClusterWeights,
    InferScales,
    Quantize,
    RoundWeights,
    CorrectBiases,
    LimitDrop,
    LowerInteger,
    ConvertToFloat16,
    SplitRows,
    SplitThreads,
)

_BUILT_IN = frozenset(step.name for step in DEFAULT_PASSES)

# what --recover names, in rising order of cost, and the passes that each leaves out
_LEFT_OUT = {
    "none": {ReestimateNormalization.name, RefitWeights.name, Distill.name},
    "normalization": {RefitWeights.name, Distill.name},
    "refit": {Distill.name},
    "distill": set[str](),
}


@dataclass(frozen=True)
class Drift:
    """How far the outputs moved from those of the graph before: largest difference, and signal to noise in decibels."""

    max_abs: float
    snr_db: float


@dataclass(frozen=True)
class PipelineStep:
    """One pass's record and the drift that it caused, None where it changed nothing; unpruned: as the pass left it."""

    record: PassRecord
    drift: Drift | None
    unpruned: Unpruned | None = None


def build_pipeline(options: CompileOptions, boundary: str, passes: Sequence[Pass] = ()) -> list[Pass]:
    """The passes to run, with the options applied.

    passes: the caller's own. They and those of other packages run before clustering and quantization, on the fused
    float graph.
    Raises UsageError for an unknown pass or option, and for what contradicts itself.
    """
    if not options.is_quantized and options.weight_bits != 8:
        raise UsageError(f"weights of {options.weight_bits} bits are for quantized models: leave out --no-quantize")
    if options.is_quantized and options.dtype != "float32":
        raise UsageError(f"--dtype {options.dtype} is for models that stay float: say --no-quantize, too")
    steps = [_with_main_options(step, options, boundary) for step in available_passes(passes)]
    known = {step.name: step for step in steps}
    for name in [*options.settings, *options.disabled_passes]:
        if name not in known:
            raise UsageError(f"no pass '{name}'; there are: {', '.join(known)}")
    disabled = _LEFT_OUT[options.recover].union(options.disabled_passes)
    if not options.is_quantized:
        disabled |= {"quantize", "equalize-layers"}
    if options.dtype == "float32":
        disabled |= {ConvertToFloat16.name}
    return [with_options(step, options.settings.get(step.name, {})) for step in steps if step.name not in disabled]


def check_installed(options: CompileOptions) -> None:
    """Raise ToolchainError where a pass that the options ask for lacks its package: now, not after minutes of work."""
    if options.recover == "distill" and Distill.name not in options.disabled_passes:
        require_torch()


def available_passes(passes: Sequence[Pass] = ()) -> list[Pass]:
    """Every pass in running order with its own defaults, those that an option switches on included.

    passes: the caller's own, with their options. Raises UsageError for a pass that cannot be had.
    """
    steps: list[Pass] = [step() for step in DEFAULT_PASSES]
    third_party = foreign_passes(passes)
    before_clustering = next(i for i, step in enumerate(steps) if isinstance(step, ClusterWeights))
    steps[before_clustering:before_clustering] = third_party
    return steps


def foreign_passes(passes: Sequence[Pass] = ()) -> list[Pass]:
    """The passes of other packages with their defaults, then `passes`, the caller's own.

    Raises UsageError for what is no pass, for two of one name, and for an installed one that cannot be had.
    """
    found: dict[str, Pass] = {}
    for name, installed in installed_passes().items():
        if name in _BUILT_IN:
            where = f"{installed.__module__}.{installed.__qualname__}"
            raise UsageError(f"the installed pass {where} has a built-in name: '{name}'")
        try:
            found[name] = installed()
        except TypeError as error:
            raise UsageError(f"the installed pass '{name}' needs a default for each of its options: {error}") from error
    for step in passes:
        _check_is_pass(step)
        if step.name in found or step.name in _BUILT_IN:
            raise UsageError(f"there is another pass named '{step.name}': give yours a name of its own")
        found[step.name] = step
    return list(found.values())


def _check_is_pass(step: object) -> None:
    if not isinstance(step, Pass) or not hasattr(step, "name"):
        raise UsageError(f"passes holds {step!r}: give instances of subclasses of tinyopt.Pass that have a name")


def _with_main_options(step: Pass, options: CompileOptions, boundary: str) -> Pass:
    """The options that have a place of their own on the command line."""
    match step:
        case DropIdleBranches() if options.prune or options.prune_to or options.prune_layers:
            return replace(step, share=IDLE_SHARE, keep=options.keep)
        case PruneChannels():
            return replace(
                step,
                ratio=options.prune,
                to=options.prune_to,
                layers=options.prune_layers,
                keep=options.keep,
                importance=options.importance,
            )
        case Distill():
            return replace(step, parameters=options.recover_parameters)
        case ClusterWeights():
            step = replace(step, layers=options.cluster_layers, cost=options.cluster_cost)
            if options.cluster == "auto":
                return replace(step, is_automatic=True, max_flash=options.max_flash or 0)
            return replace(step, clusters=options.cluster)
        case Quantize():
            return replace(step, method=options.ranges, weight_bits=options.weight_bits)
        case LimitDrop() if options.max_drop is not None:
            return replace(step, max_drop=options.max_drop)
        case LowerInteger():
            return replace(step, boundary=boundary)
        case SplitRows():
            return replace(step, bands=options.patches)
        case SplitThreads():
            return replace(step, threads=options.threads)
        case _:
            return step


def no_observer(_step: PipelineStep) -> None:
    """For pipelines that nobody looks at while they run."""


def run_pipeline(
    graph: Graph,
    steps: Sequence[Pass],
    context: PassContext,
    drift_samples: Sequence[Sample],
    on_step: Callable[[PipelineStep], None] = no_observer,
) -> list[PipelineStep]:
    """Run the passes on `graph` in place; `on_step` is called after each."""
    results: list[PipelineStep] = []
    outputs = real_outputs(graph, drift_samples)
    found = graph.copy()
    for number, step in enumerate(steps):
        context.on_progress(f"pass {step.name}", number, len(steps))
        record = run_pass_cached(step, graph, context, found)
        found = record.graph
        drift = None
        if record.is_changed:
            before, outputs = outputs, real_outputs(graph, drift_samples)
            drift = measure_drift(before, outputs)
        results.append(PipelineStep(record, drift, context.unpruned))
        on_step(results[-1])
    context.on_progress("passes", len(steps), len(steps))
    return results


def float_reference(original: Graph, steps: Sequence[PipelineStep]) -> Graph | None:
    """The float graph that the quantized one is compared with; None where nothing was quantized.

    It is the one from before clustering, for rounding chooses anew among the values of the codebooks, unless other
    passes have changed the graph since.
    """
    graphs = [original, *(step.record.graph for step in steps)]
    places = {step.record.pass_name: place for place, step in enumerate(steps) if step.record.is_changed}
    if Quantize.name not in places:
        return None
    quantized = graphs[places[Quantize.name]]
    if ClusterWeights.name in places:
        before = graphs[places[ClusterWeights.name]]
        return before if is_same_but_clustered(quantized, before) else quantized
    return quantized


def real_outputs(graph: Graph, samples: Sequence[Sample]) -> list[list[Array]]:
    """The outputs as real numbers, for inputs given as real numbers or in the graph's own type.

    Float and QDQ graphs run in onnxruntime; graphs of integer or float16 operators in the reference interpreter.
    """
    is_integer = any(OPERATORS[node.op].quantization is QuantizationRule.INTEGER for node in graph.nodes)
    session = None if is_integer or _computes_in_float16(graph) else OnnxSession(graph)
    results: list[list[Array]] = []
    for sample in samples:
        fed = graph_inputs(graph, sample)
        found = evaluate(graph, fed) if session is None else session.run(fed)
        results.append([as_real(found[value.name], value) for value in graph.outputs])
    return results


def _computes_in_float16(graph: Graph) -> bool:
    """Whether any value is float16: onnxruntime computes those in float32, and rounds where it likes."""
    return any(output.dtype == "float16" for node in graph.nodes for output in node.outputs)


def graph_inputs(graph: Graph, sample: Sample) -> dict[str, Array]:
    """`sample` in the types of the graph's inputs, which a pass may have made int8 meanwhile."""
    return {value.name: to_input(sample[value.name], value) for value in graph.inputs}


def as_real(array: Array, value: Value) -> Array:
    """Integers with a quantization as the numbers that they stand for."""
    if value.quantization is None or array.dtype.kind == "f":
        return array
    return value.quantization.dequantize(array)


def measure_drift(before: Sequence[Sequence[Array]], after: Sequence[Sequence[Array]]) -> Drift:
    """Over all samples and outputs. The ratio is infinite where nothing moved."""
    old = np.concatenate([array.astype(np.float64).ravel() for sample in before for array in sample])
    new = np.concatenate([array.astype(np.float64).ravel() for sample in after for array in sample])
    with np.errstate(all="ignore"):  # the model itself may overflow
        noise = float(np.sum((new - old) ** 2))
        signal = float(np.sum(old**2))
        ratio = np.inf if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise)
        return Drift(float(np.max(np.abs(new - old), initial=0.0)), float(ratio))
