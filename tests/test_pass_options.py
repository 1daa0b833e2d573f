"""The options of passes: the last number that is taken on either side, and the first that is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tests.graph_builder import GraphBuilder, context_for
from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass
from tinyopt.passes.cluster_weights import ClusterWeights
from tinyopt.passes.distill import Distill
from tinyopt.passes.drop_idle_branches import DropIdleBranches
from tinyopt.passes.equalize_layers import EqualizeLayers
from tinyopt.passes.infer_scales import InferScales
from tinyopt.passes.limit_drop import LimitDrop
from tinyopt.passes.prune_channels import PruneChannels
from tinyopt.passes.quantize import Quantize
from tinyopt.passes.split_rows import SplitRows
from tinyopt.passes.split_threads import SplitThreads

TINY = math.ulp(0.0)
BELOW_ONE, ABOVE_ONE = math.nextafter(1, 0), math.nextafter(1, 2)
ABOVE_50, ABOVE_100 = math.nextafter(50, 51), math.nextafter(100, 101)

# the option, values at the edges of what is taken, values just outside
EDGES: list[tuple[Pass, str, tuple[Any, ...], tuple[Any, ...]]] = [
    (ClusterWeights(), "clusters", (0, 2, 256), (-1, 1, 257)),
    (ClusterWeights(), "cost", (1.0, math.inf), (BELOW_ONE, math.nan)),
    (ClusterWeights(is_automatic=True, max_flash=1), "max_flash", (1,), (0, -1)),
    (ClusterWeights(is_automatic=True, max_flash=1), "clusters", (0,), (2,)),
    (ClusterWeights(), "layers", (("fc=0",), ("f*=2",), ("fc=256",)), (("fc=1",), ("fc=257",), ("=2",), ("no=2",))),
    (Distill(), "epochs", (1,), (0, -1)),
    (Distill(), "rate", (TINY,), (0.0, math.inf, math.nan)),
    (Distill(), "temperature", (TINY,), (0.0, math.inf, math.nan)),
    (Distill(), "mixed", (0.0, 1.0), (-TINY, ABOVE_ONE)),
    (Distill(), "layer_weight", (0.0,), (-TINY, math.inf)),
    (Distill(), "divergence_weight", (0.0,), (-TINY, math.inf)),
    (Distill(), "parameters", ("all", "bias-scale", "last"), ("first",)),
    (DropIdleBranches(), "share", (0.0, BELOW_ONE), (-TINY, 1.0)),
    (EqualizeLayers(), "gain", (TINY,), (0.0, math.nan)),
    (InferScales(), "percentile", (ABOVE_50, 100.0), (50.0, ABOVE_100)),
    (LimitDrop(), "max_drop", (0.0, math.inf), (-TINY, math.nan)),
    (PruneChannels(), "ratio", (0.0, BELOW_ONE), (-TINY, 1.0)),
    (PruneChannels(), "to", ("macs=1", "cycles=1.5M", "flash=0.5K"), ("macs=0", "macs=50%", "time=1")),
    (PruneChannels(), "layers", (("fc=0",), ("f*=.5",)), (("fc=1",), ("=.5",), ("no=.5",))),
    (PruneChannels(ratio=0.1), "to", ("",), ("macs=1",)),
    (Quantize(), "percentile", (ABOVE_50, 100.0), (50.0, ABOVE_100)),
    (Quantize(), "cost", (1.0, math.inf), (BELOW_ONE, math.nan)),
    (Quantize(), "weight_bits", (4, 8), (3, 5, 7, 9)),
    (SplitRows(), "bands", ("off", "auto", "2"), ("1", "-2", "two", "")),
    (SplitThreads(), "threads", (1, 64), (0, 65)),
]


def layer() -> Graph:
    build = GraphBuilder()
    return build.graph_of(build("Dense", build.input("x", (1, 3)), build.random((4, 3)), name="fc"))


@pytest.mark.parametrize(("step", "option", "taken", "refused"), EDGES, ids=lambda each: getattr(each, "name", None))
def test_options_are_taken_up_to_their_edges(step: Pass, option: str, taken: Any, refused: Any) -> None:
    for value in taken:
        replace(step, **{option: value}).run(layer(), context_for())
    for value in refused:
        with pytest.raises(UsageError):
            replace(step, **{option: value}).run(layer(), context_for())
