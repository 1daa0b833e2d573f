"""What passes that look at samples say and do on small networks, kept as text; numbers may move a little."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.told_networks import classifier, context, differences, half_quantized, story, tangled, upsampler
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass
from tinyopt.passes.cluster_weights import ClusterWeights
from tinyopt.passes.convert_to_float16 import ConvertToFloat16
from tinyopt.passes.correct_biases import CorrectBiases
from tinyopt.passes.distill import Distill
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

GOLDEN = Path(__file__).resolve().parent / "golden"
SHARE = 0.02  # that numbers may move by: sums are formed in another order on another machine

CLUSTERED = ("stem=8", "depth*=4", "logits=8")
GRAPH_PASSES = (FoldConstants(), Simplify(), FoldBatchNorm(), NhwcLayout(), FuseOperators(), EliminateDeadChannels())
STORIES: dict[str, tuple[Callable[[], Graph], Sequence[Pass]]] = {
    "untangled": (tangled, GRAPH_PASSES),
    "pruned_to_macs": (classifier, (PruneChannels(to="macs=14000"), RefitWeights(), ReestimateNormalization())),
    "pruned_and_distilled": (
        classifier,
        (PruneChannels(layers=("left=0.5",), importance="fisher"), Distill(epochs=6, temperature=3.0)),
    ),
    "pruned_upsampler": (upsampler, (PruneChannels(ratio=0.3, importance="fisher"), RefitWeights())),
    "clustered": (classifier, (ClusterWeights(layers=CLUSTERED), Quantize("minmax"), RoundWeights(), LowerInteger())),
    "clustered_to_flash": (classifier, (ClusterWeights(is_automatic=True, max_flash=1000),)),
    "quantized": (
        classifier,
        (EqualizeLayers(), Quantize(), RoundWeights(), CorrectBiases(), LowerInteger("int8")),
    ),
    "quantized_upsampler": (
        upsampler,
        (EqualizeLayers(), Quantize(), RoundWeights(), CorrectBiases(), LowerInteger()),
    ),
    "quantized_to_4_bits": (
        classifier,
        (Quantize("mse", weight_bits=4), CorrectBiases("analytic"), LimitDrop(1.0), LowerInteger()),
    ),
    "quantized_by_entropy": (classifier, (Quantize("entropy", wide_logits=False, per_channel=False),)),
    "quantized_by_percentile": (classifier, (Quantize("percentile", percentile=99.0),)),
    "quantized_by_moving_average": (upsampler, (Quantize("moving-average"),)),
    "halved": (classifier, (ConvertToFloat16(),)),
    "inferred": (half_quantized, (InferScales(), LowerInteger())),
    "lowered_as_it_is": (half_quantized, (LowerInteger(),)),
    "split": (classifier, (Quantize("minmax"), LowerInteger("int8"), SplitRows("2"), SplitThreads(2))),
    "split_in_the_best_way": (
        classifier,
        (Quantize("minmax"), LowerInteger("int8"), SplitRows("auto"), SplitThreads(3)),
    ),
}
SAMPLES = {name: 20 if "quantized" in name else 12 for name in STORIES}  # the others take many runs


@pytest.mark.parametrize("name", STORIES)
def test_passes_say_and_do_on_a_small_network_what_they_did(name: str, request: pytest.FixtureRequest) -> None:
    if "distilled" in name and importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch: pip install 'tinyopt[distill]'")
    network, steps = STORIES[name]
    told = story(steps, network(), context(network(), SAMPLES[name]))
    file = GOLDEN / f"story_{name}.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(told)
    assert differences(told, file.read_text(), SHARE) == [], f"--update-golden writes {file.name} anew"
