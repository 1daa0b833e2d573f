"""Estimated instructions of float nodes as they will be run: quantized if they will be, by the kernels they get."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from tinyopt.ir import Node, Value
from tinyopt.lowering.draft import Drafting
from tinyopt.lowering.lower import choose_kernel
from tinyopt.lowering.views import VIEWS
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.kernel_costs import Shape, kernel_costs
from tinyopt.targets.target import Target


@dataclass(frozen=True, eq=False)
class NodeEstimates:
    """Estimates for one target, by the models of tinyopt.targets.kernel_costs; nodes alike are looked at once.

    A kernel that looks clustered weights up says itself what it takes. Where a kernel was never counted, the target's
    mean for each multiply-accumulate and element stands in.
    """

    target: Target
    is_quantized: bool
    _known: dict[Hashable, float] = field(default_factory=dict[Hashable, float])

    def instructions(self, node: Node) -> float:
        """Of one run of `node`, a node of the fused NHWC float graph; its values need types but no constants.

        The node is looked at by itself: what its neighbours would have it do beside (rescale what a Concat joins, give
        int16 to a Softmax) is not in it. Nothing for what is computed from constants alone, and for the boundaries of
        integers in a model that came quantized: they become part of the operators beside them.
        """
        if not node.variable_inputs or node.op in ("QuantizeLinear", "DequantizeLinear"):
            return 0.0
        key = _content(node)
        if key not in self._known:
            drafting = Drafting.of_nodes(self.target.facts, self.is_quantized)
            self._known[key] = sum(self.of_lowered(lowered) for lowered in drafting.draft_node(node))
        return self._known[key]

    def of_lowered(self, node: Node) -> float:
        """The same for a node of a graph that is ready to be lowered."""
        if node.op in VIEWS or not node.variable_inputs:
            return 0.0
        choice = choose_kernel(node, self.target)
        return self._mean(node) if choice is None else self._of_kernel(node, choice[0])

    def _of_kernel(self, node: Node, kernel: Kernel) -> float:
        if kernel.decoding is not None:
            return kernel.decoding.instructions
        model = kernel_costs(self.target.costs.family).get(kernel.name)
        return self._mean(node) if model is None else model.instructions(Shape.of(node))

    def _mean(self, node: Node) -> float:
        return self.target.costs.instructions(node)


def _content(node: Node) -> Hashable:
    """All that the estimate depends on."""
    values = tuple(None if value is None else _value_content(value) for value in node.inputs)
    outputs = tuple(value.type for value in node.outputs)
    return node.op, values, outputs, tuple(sorted(node.attributes.items()))


def _value_content(value: Value) -> Hashable:
    clusters = value.clusters
    return value.type, value.is_constant, None if clusters is None else (len(clusters.codebook), clusters.cost_limit)
