"""Train a pruned graph to answer as the one before pruning, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tinyopt.errors import UsageError
from tinyopt.ir import DTYPES, Graph
from tinyopt.ops.facts import graph_macs
from tinyopt.pass_manager import Pass, PassContext, Unpruned
from tinyopt.passes.calibration_samples import FEWEST_SAMPLES, split
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.distillation.heads import Head, find_heads
from tinyopt.passes.distillation.parameters import SUBSETS, choose_parameters, find_trained, store
from tinyopt.passes.distillation.torch_door import require_torch
from tinyopt.quantization_error import evenly_spaced

if TYPE_CHECKING:
    from tinyopt.passes.distillation.module import TorchGraph
    from tinyopt.passes.distillation.symmetries import Symmetry
    from tinyopt.passes.distillation.training import Outcome, Samples

_MOST_SAMPLES = 4096
_SAMPLE_BYTES = 128 << 20  # of samples held in memory
_BATCH_BYTES = 256 << 20  # of activations held for one batch
_LARGEST_BATCH = 50
_MACS = 4e12  # of one distillation: three to six minutes
_BACKWARD = 2  # times the multiply-accumulates of a forward run


@dataclass(frozen=True)
class Distill(Pass):
    """Train a pruned graph to answer as the one before pruning, without labels.

    What: gradient descent on the constants of the pruned graph. On each batch the graph before pruning says what is
        right: the logits at each output with classes, the numbers at others, and what each layer gives in the channels
        that it kept. Samples are mirrored and shifted where the answers of the graph before pruning stay; then a third
        of each batch stay as they are, and the others are mixtures of two, which never repeat: a few hundred samples
        are not learned by heart. A fifth of the samples is held out; the constants that are best
        on them are kept. Labels of the samples, where given, are learned from as well.
    Before -> After: the same graph with other constants
    Exactness: the outputs come closer to those before pruning; the remark says how much, on the samples held out.
    Refuses when: nothing was pruned; fewer than 10 samples; an operator that cannot be trained through; inputs that
        are no float32; training does not make it better on the samples held out. Needs PyTorch: tinyopt[distill].
    Source: Hinton et al., arXiv:1503.02531; mixtures: Beyer et al., arXiv:2106.05237; layers: Romero et al., FitNets,
        arXiv:1412.6550.

    parameters: "all" constants, "bias-scale" for biases and one gain for each output channel, "last" for the last layer
    with weights before each output. epochs: over the samples, fewer for models that would take more than minutes.
    rate: of the first steps, relative to the size of each tensor; it falls to 0. mixed: the share of mixtures in a
    batch. layer_weight: of the layers' relative squared errors beside the outputs'. divergence_weight: of the
    divergence of the classes' distributions at `temperature`.
    """

    name: ClassVar[str] = "distill"
    is_costly: ClassVar[bool] = True

    parameters: str = "all"
    epochs: int = 500
    rate: float = 0.004
    mixed: float = 0.67
    layer_weight: float = 10.0
    divergence_weight: float = 0.1
    temperature: float = 2.0

    def run(self, graph: Graph, context: PassContext) -> bool:
        self._check_options()
        if context.unpruned is None:
            context.declined("nothing was pruned")
            return False
        require_torch()
        if reason := _refusal(graph, context):
            context.declined(reason)
            return False
        return self._train(graph, context.unpruned, context)

    def _check_options(self) -> None:
        if self.parameters not in SUBSETS:
            raise UsageError(f"distill.parameters is '{self.parameters}', not one of {', '.join(SUBSETS)}")
        positive = ("epochs", "rate", "temperature")
        if wrong := next((key for key in positive if not 0 < getattr(self, key) < math.inf), None):
            raise UsageError(f"distill.{wrong} is a number above 0, not {getattr(self, wrong):g}")
        if not 0 <= self.mixed <= 1:
            raise UsageError(f"distill.mixed is a share from 0 to 1, not {self.mixed:g}")
        weights = ("layer_weight", "divergence_weight")
        if wrong := next((key for key in weights if not 0 <= getattr(self, key) < math.inf), None):
            raise UsageError(f"distill.{wrong} is a number from 0 on, not {getattr(self, wrong):g}")

    def _train(self, graph: Graph, unpruned: Unpruned, context: PassContext) -> bool:
        from tinyopt.passes.distillation import module, objective, training

        constants = module.real_constants(graph)
        heads = find_heads(graph, unpruned.graph)
        trained = choose_parameters(graph, constants, self.parameters, heads)
        if not trained:
            context.declined(f"no constant can be trained (parameters: {self.parameters})")
            return False
        samples = _held_samples(graph, context, heads)
        used, held_out = (samples.chosen(indices) for indices in split(len(samples)))
        original, batch = module.TorchGraph(unpruned.graph), _batch(graph, unpruned.graph)
        symmetries = _symmetries(original, heads, used, batch)
        schedule = training.Schedule(
            _steps(graph, unpruned.graph, self.epochs, len(used)),
            batch,
            self.rate,
            self.mixed,
            symmetries,
            context.seed,
        )
        outcome = training.train(
            objective.Objective(
                module.TorchGraph(graph),
                original,
                heads,
                objective.find_matches(graph, unpruned),
                self.temperature,
                self.divergence_weight,
                self.layer_weight,
            ),
            trained,
            constants,
            used,
            held_out,
            schedule,
            context.on_progress,
        )
        if symmetries:
            context.note(f"samples may be {', '.join(each.name for each in symmetries)}: their classes stay")
        return _keep(graph, outcome, context)


def _symmetries(original: TorchGraph, heads: Sequence[Head], samples: Samples, batch: int) -> tuple[Symmetry, ...]:
    """How samples may be changed; not at all where there are no classes that would tell."""
    from tinyopt.passes.distillation import objective, symmetries

    head = heads[0]
    if head.axis is None:
        return ()
    return symmetries.find_symmetries(samples.inputs, objective.classes_by(original, head.original, head.axis, batch))


def _refusal(graph: Graph, context: PassContext) -> str | None:
    """Why nothing can be trained, or None."""
    from tinyopt.passes.distillation.module import unsupported_node

    assert context.unpruned is not None
    if trained := find_trained(graph):
        return f"'{trained.name}' is trained already"
    if len(context.samples) < FEWEST_SAMPLES:
        return f"{len(context.samples)} calibration samples are too few to train on: {FEWEST_SAMPLES} or more"
    if value := next((value for value in graph.inputs if value.dtype != "float32"), None):
        return f"input '{value.name}' is {value.dtype}: samples of it cannot be mixed"
    for each in (graph, context.unpruned.graph):
        if node := unsupported_node(each):
            return f"{node.op} '{label_of(node)}' cannot be trained through"
    return None


def _held_samples(graph: Graph, context: PassContext, heads: Sequence[Head]) -> Samples:
    """As many calibration samples as may be held in memory, evenly spaced, with labels where they say classes."""
    from tinyopt.passes.distillation import module, objective, training

    bytes_each = max(1, sum(value.type.bytes for value in graph.inputs))
    count = max(FEWEST_SAMPLES, min(_MOST_SAMPLES, _SAMPLE_BYTES // bytes_each))
    chosen = evenly_spaced(context.samples, count)
    arrays = {value.name: np.empty((len(chosen), *value.shape), DTYPES[value.dtype]) for value in graph.inputs}
    for place, index in enumerate(chosen):
        sample = context.samples[index]
        for name, array in arrays.items():
            array[place] = sample[name]
    labels = None
    if context.labels is not None and objective.takes_labels(heads):
        classes, present = heads[0].pruned.type.elements, context.labels[chosen]
        if present.min() < 0 or present.max() >= classes:
            context.declined(
                f"the labels are not used: they reach from {present.min()} to {present.max()}, and the "
                f"model has {classes} classes"
            )
        else:
            labels = module.to_tensor(present)
    return training.Samples({name: module.to_tensor(array) for name, array in arrays.items()}, labels)


def _batch(graph: Graph, original: Graph) -> int:
    """The samples of one batch, by what its activations and their gradients take: 2 or more, to be mixed."""
    trained = 2 * sum(output.type.bytes for node in graph.nodes for output in node.outputs)
    taught = sum(output.type.bytes for node in original.nodes for output in node.outputs)
    return max(2, min(_LARGEST_BATCH, _BATCH_BYTES // (trained + taught)))


def _steps(graph: Graph, original: Graph, epochs: int, samples: int) -> int:
    """The steps of gradient descent: so many epochs, or fewer where that would take more than minutes."""
    batch = _batch(graph, original)
    macs = batch * ((1 + _BACKWARD) * graph_macs(graph) + graph_macs(original))
    return max(1, min(math.ceil(epochs * samples / batch), int(_MACS / max(macs, 1))))


def _keep(graph: Graph, outcome: Outcome, context: PassContext) -> bool:
    """Put the best constants into the graph, where there are any that are better than the present ones."""
    if not outcome.arrays:
        context.declined(
            f"{outcome.steps} steps of training made it no better on samples held out (loss {outcome.loss_before:.3g})"
        )
        return False
    store(graph, outcome.arrays)
    context.did(
        f"{outcome.steps} steps of training on {len(outcome.arrays)} constants: the loss against the model before "
        f"pruning was {outcome.loss_before:.3g}, now {outcome.loss_after:.3g}, on samples held out"
    )
    return True
