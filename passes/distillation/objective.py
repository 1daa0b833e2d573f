"""How far a pruned graph is from the one before pruning: at its outputs, and at the channels that its layers kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tinyopt.ir import Graph, Value
from tinyopt.pass_manager import Unpruned
from tinyopt.passes.channel_links import weight_use
from tinyopt.passes.distillation.heads import Head
from tinyopt.passes.distillation.module import TorchGraph
from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()
functional = load_torch("nn.functional")

_LABEL_WEIGHT = 0.3  # of the cross-entropy with labels, beside the teacher's answers
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Match:
    """A layer's output in both graphs. kept: the channels of the original that stay, along `axis`; None for all."""

    pruned: Value
    original: Value
    axis: int
    kept: Tensor


def find_matches(graph: Graph, unpruned: Unpruned) -> list[Match]:
    """The layers with weights and what gave their outputs before pruning: the same layer, or a sum that it replaces."""
    twins = {node.name: node for node in unpruned.graph.nodes}
    found: list[Match] = []
    for node in graph.nodes:
        use, twin = weight_use(node), twins.get(node.name)
        if use is None or twin is None or len(twin.outputs) != 1 or twin.output.type.rank != node.output.type.rank:
            continue
        kept = unpruned.kept.get(node.name)
        shape = list(twin.output.shape)
        shape[use.channel_axis] = shape[use.channel_axis] if kept is None else len(kept)
        if shape == list(node.output.shape):
            indices = None if kept is None else torch.from_numpy(kept)
            found.append(Match(node.output, twin.output, use.channel_axis, indices))
    return found


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of the pruned graph against the original.

    heads: by their squared error relative to the original's; classes by that of their logits, less each sample's mean,
    and by the divergence of their distributions at `temperature`, times `divergence_weight`. matches: by the mean of
    their relative squared errors, times `layer_weight`.
    """

    pruned: TorchGraph
    original: TorchGraph
    heads: Sequence[Head]
    matches: Sequence[Match]
    temperature: float
    divergence_weight: float
    layer_weight: float

    def loss(
        self, inputs: Mapping[str, Tensor], parameters: Mapping[Value, Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """One number for inputs [samples, ...]. labels: the classes of the first samples, for the first head."""
        with torch.no_grad():
            wanted = self.original.run(
                inputs, [*(head.original for head in self.heads), *(match.original for match in self.matches)]
            )
        found = self.pruned.run(
            inputs, [*(head.pruned for head in self.heads), *(match.pruned for match in self.matches)], parameters
        )
        count = len(self.heads)
        loss = sum(map(self._head_loss, self.heads, found[:count], wanted[:count]))
        layers = [
            relative_error(x, y if match.kept is None else y.index_select(match.axis + 1, match.kept))
            for match, x, y in zip(self.matches, found[count:], wanted[count:], strict=True)
        ]
        if layers:
            loss = loss + self.layer_weight * sum(layers) / len(layers)
        if labels is not None and len(labels):
            loss = loss + _LABEL_WEIGHT * _label_loss(self.heads[0], found[0][: len(labels)], labels)
        return loss

    def _head_loss(self, head: Head, found: Tensor, wanted: Tensor) -> Tensor:
        if head.axis is None:
            return relative_error(found, wanted)
        axis = head.axis + 1
        error = relative_error(_centred(found, axis), _centred(wanted, axis))
        return error + self.divergence_weight * _divergence(found, wanted, axis, self.temperature)


def _centred(logits: Tensor, axis: int) -> Tensor:
    """A Softmax does not see what all logits have in common."""
    return logits - logits.mean(axis, keepdim=True)


def _divergence(found: Tensor, wanted: Tensor, axis: int, temperature: float) -> Tensor:
    """Kullback and Leibler's, of the softened distributions, in nats."""
    own = torch.log_softmax(found / temperature, axis)
    aim = torch.log_softmax(wanted / temperature, axis)
    # squared: the gradient of a soft distribution is smaller (Hinton et al., arXiv:1503.02531, section 2)
    return temperature**2 * (aim.exp() * (aim - own)).sum(axis).mean()


def relative_error(x: Tensor, y: Tensor) -> Tensor:
    """Squared error of x against y, over the square of y."""
    return ((x - y) ** 2).sum() / ((y**2).sum() + _TINY)


def takes_labels(heads: Sequence[Head]) -> bool:
    """Whether the first output is one vector of classes."""
    return bool(heads) and heads[0].axis is not None and heads[0].pruned.type.elements == heads[0].pruned.shape[-1]


def _label_loss(head: Head, found: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(found.reshape(len(labels), head.pruned.type.elements), labels)


def classes_by(graph: TorchGraph, head: Value, axis: int, batch: int) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function that gives the class of each sample, by the largest logit of `head` along its `axis`."""

    def classes(inputs: Mapping[str, Tensor]) -> Tensor:
        count = len(next(iter(inputs.values())))
        found: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, count, batch):
                part = {name: x[start : start + batch] for name, x in inputs.items()}
                found.append(graph.run(part, [head])[0].argmax(axis + 1))
        return torch.cat(found)

    return classes
