"""Two builds of a model, layer by layer: matched by the ONNX nodes that the layers came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.execution.profile import LayerProfile


@dataclass(frozen=True)
class LayerPair:
    """Layers of two builds that do the same work: several where one build fused what the other did not; or none."""

    before: tuple[LayerProfile, ...]
    after: tuple[LayerProfile, ...]

    @property
    def instructions(self) -> tuple[int, int]:
        return sum(layer.instructions for layer in self.before), sum(layer.instructions for layer in self.after)


def pair_layers(before: Sequence[LayerProfile], after: Sequence[LayerProfile]) -> list[LayerPair]:
    """Every layer of both builds once, in running order. Layers that share an origin belong together."""
    groups = _Groups()
    for layer in (*before, *after):
        groups.join(_work(layer))
    members: dict[str, tuple[list[LayerProfile], list[LayerProfile]]] = {}
    for side, layers in enumerate((before, after)):
        for layer in layers:
            members.setdefault(groups.root(_work(layer)[0]), ([], []))[side].append(layer)
    pairs = [LayerPair(tuple(old), tuple(new)) for old, new in members.values()]
    return sorted(pairs, key=lambda pair: min(layer.index for layer in (pair.before or pair.after)))


def _work(layer: LayerProfile) -> tuple[str, ...]:
    """What a layer does, as names that both builds know; what a build added itself goes by its own name."""
    return layer.origins or (f"\0{layer.name}",)


class _Groups:
    """Sets of names that grow together."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, name: str) -> str:
        while self._parents.setdefault(name, name) != name:
            name = self._parents[name]
        return name

    def join(self, names: Sequence[str]) -> None:
        for name in names[1:]:
            self._parents[self.root(name)] = self.root(names[0])
