"""Kernels for clustered weights on cores with the DSP extension: indices are decoded in the inner loop.

`plan_clustered` and `plan_clustered_dense` stand before the planners for int8 weights.
"""

from __future__ import annotations

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.dsp.clustered.convolution import plan_clustered_convolution
from tinyopt.targets.kernels.dsp.clustered.dense import plan_clustered_dense
from tinyopt.targets.kernels.dsp.clustered.depthwise import plan_clustered_depthwise
from tinyopt.targets.kernels.dsp.clustered.pointwise import is_pointwise, plan_clustered_pointwise

__all__ = ["plan_clustered", "plan_clustered_dense"]


def plan_clustered(node: Node) -> Kernel | Refusal:
    """QConv with clustered weights."""
    if node.int("group") > 1:
        return plan_clustered_depthwise(node)
    return plan_clustered_pointwise(node) if is_pointwise(node) else plan_clustered_convolution(node)
