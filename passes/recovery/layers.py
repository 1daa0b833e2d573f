"""The layers of a pruned graph beside those of the graph before pruning, and what both compute for some samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import PassContext, Unpruned
from tinyopt.passes.calibration_samples import chosen_samples, split, too_few
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.linear_layers import LAYERS_WITH_BIAS, RESIDUAL, has_residual, output_axis
from tinyopt.passes.quantization.walk import Walk

REFITTED = ".refitted"  # ends the names of refitted weights, so that a second run knows them

Rows = NDArray[np.float32]  # [rows, channels]: a layer's outputs, one row for each pixel


@dataclass(frozen=True, eq=False)
class PrunedLayer:
    """A Conv, ConvTranspose or Dense of the pruned graph that comes next in two walks over the same samples.

    twin: what gave its output before pruning, the same layer or a sum whose place it took. kept: which of the twin's
    output channels it still has; None for all.
    """

    node: Node
    twin: Node
    kept: NDArray[np.int64] | None
    exact: Walk
    pruned: Walk
    samples: int

    @property
    def channels(self) -> int:
        """How many output channels are left."""
        return self.node.output.shape[output_axis(self.node)]

    @property
    def fitted(self) -> Sequence[int]:
        """The samples to propose by."""
        return split(self.samples)[0]

    @property
    def held_out(self) -> Sequence[int]:
        """Every fifth sample, to judge by."""
        return split(self.samples)[1]

    @cached_property
    def sample_weights(self) -> NDArray[np.float64]:
        """How much each sample counts, [samples]: loud ones less, so that none outweighs all the others.

        A squared error is divided by the sample's energy and the mean energy; quiet samples, which hardly matter behind
        the layer, count no more than by the latter.
        """
        read = self.exact.arrays(self.twin.variable_inputs[0])
        energies = np.array([float(np.vdot(x, x)) for x in read])
        return np.asarray(1.0 / np.maximum(energies + energies.mean(), np.finfo(np.float32).tiny), np.float64)

    def inputs(self, index: int) -> Array:
        """What the layer reads in the pruned model."""
        return self.pruned.arrays(self.node.input(0))[index]

    def residual(self, index: int) -> Rows | None:
        """What is added to the layer's sums in the pruned model, [rows, channels]; None where nothing is."""
        if not has_residual(self.node):
            return None
        return _rows(self.node, self.pruned.arrays(self.node.input(RESIDUAL))[index])

    def wanted(self, index: int) -> Rows:
        """What the layer gives in the unpruned model before the clamp, of the channels that are left."""
        exact = _rows(self.node, self._exact_sums(self.exact, index))
        return exact if self.kept is None else exact[:, self.kept]

    def given(self, index: int) -> Rows:
        """What it gives in the pruned model before the clamp."""
        return _rows(self.node, self._pruned_sums(self.pruned, index))

    def clamped(self, sums: Rows) -> Rows:
        """The outputs for sums that the residual was added to."""
        return np.clip(sums, self.node.float("clamp_low"), self.node.float("clamp_high"))

    @property
    def is_clamped(self) -> bool:
        return self.node.float("clamp_low") > -math.inf or self.node.float("clamp_high") < math.inf

    @cached_property
    def _exact_sums(self) -> Callable[[Walk, int], Array]:
        return _unclamped(self.twin)

    @cached_property
    def _pruned_sums(self) -> Callable[[Walk, int], Array]:
        return _unclamped(self.node)


def visit_layers(
    name: str,
    graph: Graph,
    context: PassContext,
    refusal: Callable[[Node], str | None],
    change: Callable[[PrunedLayer], bool],
) -> bool:
    """Change layer after layer of a pruned graph, each by what it reads by then; returns whether any was changed.

    name: of the pass, for the progress. Layers with a refusal are left with a remark.
    """
    unpruned = context.unpruned
    if unpruned is None:
        context.declined("nothing was pruned")
        return False
    if reason := too_few(context.samples):
        context.declined(reason)
        return False
    samples = chosen_samples(unpruned.graph, context.samples)
    exact, pruned = Walk(unpruned.graph, samples), Walk(graph, samples)
    twins = _twins(graph, unpruned)
    layers = [node for node in graph.nodes if node.op in LAYERS_WITH_BIAS]
    is_changed = False
    for done, node in enumerate(layers):
        context.on_progress(name, done, len(layers))
        twin = twins.get(node)
        reason = "nothing in the unpruned model is its like" if twin is None else refusal(node)
        if twin is None or reason:
            context.declined(f"{label_of(node)}: {reason}", [node])
            continue
        exact.run_before(twin)
        pruned.run_before(node)
        is_changed |= change(PrunedLayer(node, twin, unpruned.kept.get(node.name), exact, pruned, len(samples)))
    context.on_progress(name, len(layers), len(layers))
    return is_changed


def constants_refusal(node: Node, shared: set[Value]) -> str | None:
    """Why a layer's weights and bias cannot be changed; None where they can. shared: see `shared_constants`."""
    weights, bias = node.input(1), node.optional_input(2)
    if not weights.is_constant or not (bias is None or bias.is_constant):
        return "its weights are not constants"
    return "its weights are shared" if weights in shared or bias in shared else None


def shared_constants(graph: Graph) -> set[Value]:
    """The constants that are read more than once."""
    reads = Counter(value for node in graph.nodes for value in node.present_inputs if value.is_constant)
    return {value for value, count in reads.items() if count > 1}


def replace_constants(
    graph: Graph, layer: PrunedLayer, weights: NDArray[np.float64], bias: NDArray[np.float64], mark: str
) -> None:
    """Give the layer other weights, in the order of the present ones, and a bias; both belong to it alone.

    mark: ends the weights' name from now on.
    """
    old, old_bias = layer.node.input(1), layer.node.optional_input(2)
    old.constant = np.ascontiguousarray(weights.reshape(old.shape), np.float32)
    old.name = graph.unique_name(old.name + mark)
    if old_bias is None:
        name = graph.unique_name(f"{layer.node.name}.bias")
        layer.node.inputs[2] = Value.of(name, bias.reshape(-1).astype(np.float32))
    else:
        old_bias.constant = bias.reshape(-1).astype(np.float32)


def _twins(graph: Graph, unpruned: Unpruned) -> dict[Node, Node]:
    """For each layer what gave its output in the unpruned graph; in the running order of both graphs."""
    named = {node.name: (place, node) for place, node in enumerate(unpruned.graph.nodes)}
    found: dict[Node, Node] = {}
    last = -1
    for node in graph.nodes:
        place, twin = named.get(node.name, (-1, node))
        if node.op in LAYERS_WITH_BIAS and place > last and _is_twin(node, twin, unpruned.kept.get(node.name)):
            found[node] = twin
            last = place
    return found


def _is_twin(node: Node, twin: Node, kept: NDArray[np.int64] | None) -> bool:
    """Whether both have outputs of one shape but for the channels that went."""
    if twin.op not in (*LAYERS_WITH_BIAS, "Add") or not twin.variable_inputs:
        return False
    axis, shape = output_axis(node), twin.output.shape
    channels = shape[axis] if kept is None else len(kept)
    return node.output.shape == (*shape[:axis], channels, *shape[axis + 1 :])


def _unclamped(node: Node) -> Callable[[Walk, int], Array]:
    """Runs a layer or a sum without its clamp, on what a walk has for one sample."""
    free = {**node.attributes, "clamp_low": -math.inf, "clamp_high": math.inf}
    inputs = list(dict.fromkeys(node.variable_inputs))
    alone = Node(node.op, node.name, list(node.inputs), list(node.outputs), free, node.origins)
    session = OnnxSession(Graph("layer", inputs, list(node.outputs), [alone]))

    def run(walk: Walk, index: int) -> Array:
        return session.run({value.name: walk.arrays(value)[index] for value in inputs})[node.output.name]

    return run


def _rows(node: Node, outputs: Array) -> Rows:
    channels_last = np.moveaxis(outputs, output_axis(node), -1)
    return np.asarray(channels_last.reshape(-1, channels_last.shape[-1]), np.float32)
