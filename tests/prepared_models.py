"""The larger models as the compression passes see them: folded, in NHWC, fused."""

from __future__ import annotations

from pathlib import Path

from graph_builder import context_for

from tinyopt.ir import Graph
from tinyopt.onnx_import import import_model
from tinyopt.pass_manager import run_pass
from tinyopt.passes.eliminate_dead_channels import EliminateDeadChannels
from tinyopt.pipeline import DEFAULT_PASSES


def prepared(model: Path) -> Graph:
    """The model after the default pipeline's passes before the first compression pass."""
    graph = import_model(model, {}).graph
    for step in DEFAULT_PASSES[: DEFAULT_PASSES.index(EliminateDeadChannels)]:
        run_pass(step(), graph, context_for())
    return graph
