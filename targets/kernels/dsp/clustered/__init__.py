"""Kernels for clustered weights on cores with the DSP extension: indices are decoded in the inner loop.

`plan_clustered` and `plan_clustered_dense` stand before the planners for int8 weights. `clustered_kernel` and
`dense_kernel` do not ask whether decoding is worthwhile.
"""

from __future__ import annotations

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.decoding import worthwhile
from tinyopt.targets.kernels.dsp.clustered.convolution import convolution_kernel
from tinyopt.targets.kernels.dsp.clustered.dense import dense_kernel
from tinyopt.targets.kernels.dsp.clustered.depthwise import depthwise_kernel
from tinyopt.targets.kernels.dsp.clustered.pointwise import is_pointwise, pointwise_kernel

__all__ = ["clustered_kernel", "dense_kernel", "plan_clustered", "plan_clustered_dense"]


def plan_clustered(node: Node) -> Kernel | Refusal:
    """QConv with clustered weights, where decoding is worthwhile."""
    return worthwhile(node, clustered_kernel(node))


def plan_clustered_dense(node: Node) -> Kernel | Refusal:
    """QDense with clustered weights, where decoding is worthwhile."""
    return worthwhile(node, dense_kernel(node))


def clustered_kernel(node: Node) -> Kernel | Refusal:
    """QConv with clustered weights."""
    if node.int("group") > 1:
        return depthwise_kernel(node)
    return pointwise_kernel(node) if is_pointwise(node) else convolution_kernel(node)
