"""Top-1 of a model as it came and as it was compiled, and the limit on what it may lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import AccuracyError
from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.ir import Graph
from tinyopt.lowering.program import Program
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import LabelledSamples
from tinyopt.pipeline import as_real, graph_inputs, real_outputs
from tinyopt.report.build import Evaluation
from tinyopt.toolchain import CompilerChoice


def evaluate_compiled(
    original: Graph,
    program: Program,
    labelled: LabelledSamples,
    options: CompileOptions,
    folder: Path,
) -> Evaluation:
    """Top-1 of the model as it came and as it was compiled.

    On targets that run here the compiled library itself is asked, elsewhere the numpy reference, whose bytes it gives.
    """
    samples, labels = labelled.samples, labelled.labels
    before = np.array([outputs[0].argmax() for outputs in real_outputs(original, samples)])
    fed = [graph_inputs(program.graph, sample) for sample in samples]
    output = program.graph.outputs[0]
    if program.target.emulator.kind == "native":
        runs = run_built_model(
            load_built_model(folder), fed, "run", CompilerChoice(options.cc), options.cache_dir or default_cache_dir()
        )
        found, source = [run[output.name] for run in runs.outputs], "the compiled library"
    else:
        found, source = [evaluate_all(program.graph, sample)[output] for sample in fed], "the numpy reference"
    after = np.array([as_real(array, output).argmax() for array in found])
    return Evaluation(
        len(labels),
        float_top1=float(np.mean(before == labels)),
        compiled_top1=float(np.mean(after == labels)),
        agreement=float(np.mean(before == after)),
        source=source,
    )


def require_accuracy(evaluated: Evaluation, max_drop: float | None) -> None:
    """The accuracy gate over everything: pruning, clustering, quantization, and the integer operators themselves."""
    drop = 100 * (evaluated.float_top1 - evaluated.compiled_top1)
    if max_drop is not None and drop > max_drop + 1e-9:
        raise AccuracyError(
            f"the compiled model loses {drop:.2f} points of top-1 on {evaluated.samples} labelled samples "
            f"({evaluated.source}); --max-drop allows {max_drop:.2f} points: allow more, or prune and cluster less"
        )
