"""Which nodes of two models differ, and by how much.

A node differs where it is in one model only, or where its operator, an attribute, a constant or what it reads is not
the same. Names of nodes and of inner tensors do not count; nor does a shape that only follows from a change elsewhere,
nor a reader that now sees through a node that was removed or put in between: both follow from what is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinyopt.graph_matching import Matching, readings
from tinyopt.ir import Array
from tinyopt.outline import Operation, Outline, Tensor


@dataclass(frozen=True)
class NodeName:
    """How a node is called, and where it stands in its outline; `name` may be empty."""

    op: str
    name: str
    output: str  # its first output
    position: int


@dataclass(frozen=True)
class Difference:
    """Nodes of the old model, nodes of the new one in their place, and what is not the same about them."""

    kind: Literal["added", "removed", "changed", "replaced"]
    old: tuple[NodeName, ...]
    new: tuple[NodeName, ...]
    details: tuple[str, ...]


@dataclass(frozen=True)
class GraphDiff:
    """Everything that two models differ in. `renamed` and `reshaped` are told, but are no differences.

    model: what is not the same about inputs, outputs and opsets. same: how many nodes are. reshaped: nodes that are the
    same, whose outputs have another type because something before them changed. pairs: the positions of all nodes that
    stand for the same in both models, changed or not.
    """

    model: tuple[str, ...]
    differences: tuple[Difference, ...]
    same: int
    renamed: tuple[tuple[NodeName, NodeName], ...]
    reshaped: tuple[tuple[NodeName, str], ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def is_equal(self) -> bool:
        return not self.model and not self.differences

    def count(self, kind: str) -> int:
        return sum(1 for difference in self.differences if difference.kind == kind)

    @property
    def cost(self) -> int:
        """How many nodes this reading of the two models says are different."""
        return len(self.model) + sum(max(len(item.old), len(item.new)) for item in self.differences)


def diff_outlines(old: Outline, new: Outline) -> GraphDiff:
    """Compare two models. Of all readings the one with the fewest differences is taken, the first where equal."""
    best: GraphDiff | None = None
    for matching in readings(old, new):
        found = _Comparison(old, new, matching).diff()
        if best is None or found.cost < best.cost:
            best = found
        if not best.cost:
            break
    assert best is not None, "there is always at least one reading"
    return best


class _Comparison:
    """Two models under one matching."""

    def __init__(self, old: Outline, new: Outline, matching: Matching) -> None:
        self._old, self._new = old, new
        self._twins = matching.twin_of_old
        self._old_origins = _Origins(old, {i: i for i in self._twins})
        # nodes of the new model that have a twin go by the old one's position, so that both sides can be compared
        self._new_origins = _Origins(new, matching.twin_of_new)
        self._removed = [i for i in range(len(old.operations)) if i not in matching.twin_of_old]
        self._added = [i for i in range(len(new.operations)) if i not in matching.twin_of_new]

    def diff(self) -> GraphDiff:
        details = {i: self._details(i, j) for i, j in sorted(self._twins.items())}
        changed = [(i, self._changed(i, found)) for i, found in details.items() if found]
        unpaired = self._unpaired()
        ordered = sorted([*changed, *unpaired], key=lambda item: item[0])
        pairs = sorted(self._twins.items())
        names = [(_name(self._old, i), _name(self._new, j)) for i, j in pairs]
        return GraphDiff(
            tuple(self._model()),
            tuple(difference for _, difference in ordered),
            len(pairs) - len(changed),
            tuple((a, b) for a, b in names if a.name and b.name and a.name != b.name),
            tuple(
                (_name(self._new, j), f"{_types(self._old, i)} -> {_types(self._new, j)}")
                for i, j in pairs
                if not details[i] and _is_reshaped(self._old.operations[i], self._new.operations[j])
            ),
            tuple(pairs),
        )

    def _changed(self, position: int, details: Sequence[str]) -> Difference:
        names = _name(self._old, position), _name(self._new, self._twins[position])
        return Difference("changed", names[:1], names[1:], tuple(details))

    # Nodes without a twin

    def _unpaired(self) -> list[tuple[float, Difference]]:
        """Removed and added nodes; those that lie between the same neighbours replace one another."""
        places: dict[object, tuple[list[int], list[int]]] = {}
        for i in self._removed:
            places.setdefault(self._old_origins.place(i), ([], []))[0].append(i)
        for i in self._added:
            places.setdefault(self._new_origins.place(i), ([], []))[1].append(i)
        found: list[tuple[float, Difference]] = []
        for olds, news in places.values():
            before = tuple(_name(self._old, i) for i in olds)
            after = tuple(_name(self._new, i) for i in news)
            if olds and news:
                found.append((olds[0], Difference("replaced", before, after, ())))
                continue
            found.extend((i, Difference("removed", (name,), (), ())) for i, name in zip(olds, before, strict=True))
            found.extend(
                (self._position_in_old(i), Difference("added", (), (name,), self._where(i)))
                for i, name in zip(news, after, strict=True)
            )
        return found

    def _position_in_old(self, added: int) -> float:
        """Just behind the last node before it that the old model has, too."""
        known = [source[1] for source in self._new_origins.of_node(added) if source[0] == "node"]
        return max(known, default=-1) + 0.5

    def _where(self, added: int) -> tuple[str, ...]:
        producers = self._new.producers
        operation = self._new.operations[added]
        makers = [producers[id(t)][0] for t in operation.inputs if t is not None and id(t) in producers]
        labels = [f"{self._new.operations[i].op} '{self._new.operations[i].label}'" for i in dict.fromkeys(makers)]
        return (f"after {', '.join(labels)}",) if labels else ()

    # Nodes with a twin

    def _details(self, i: int, j: int) -> list[str]:
        old, new = self._old.operations[i], self._new.operations[j]
        found = [] if old.op == new.op else [f"{old.op} -> {new.op}"]
        found += _attribute_differences(old.attributes, new.attributes)
        for position in range(max(len(old.inputs), len(new.inputs))):
            before = old.inputs[position] if position < len(old.inputs) else None
            after = new.inputs[position] if position < len(new.inputs) else None
            found += self._input_difference(position, before, after)
        return found

    def _input_difference(self, position: int, old: Tensor | None, new: Tensor | None) -> list[str]:
        if old is None and new is None:
            return []
        if old is not None and new is not None and old.array is not None and new.array is not None:
            return _constant_difference(position, old, old.array, new, new.array)
        is_variable = old is not None and new is not None and old.array is None and new.array is None
        if is_variable and old is not None and new is not None and self._is_same_source(old, new):
            return []
        return [f"input {position}: {_source_text(old)} -> {_source_text(new)}"]

    def _is_same_source(self, old: Tensor, new: Tensor) -> bool:
        return self._old_origins.of_tensor(old) == self._new_origins.of_tensor(new)

    # The whole

    def _model(self) -> list[str]:
        old, new = _used_opsets(self._old), _used_opsets(self._new)
        found = [
            f"opset of '{domain or 'ai.onnx'}': {old[domain]} -> {new[domain]}"
            for domain in sorted({*old} & {*new})
            if old[domain] != new[domain]
        ]
        found += _boundary_differences("input", self._old.inputs, self._new.inputs)
        found += _boundary_differences("output", self._old.outputs, self._new.outputs)
        for before, after in zip(self._old.outputs, self._new.outputs, strict=False):
            if not self._is_same_source(before, after):
                found.append(f"output '{after.name}' comes from another node than '{before.name}' did")
        return found


class _Origins:
    """For each tensor the nodes with a twin (and the graph inputs) that it comes from, through nodes without one."""

    def __init__(self, outline: Outline, numbers: Mapping[int, int]) -> None:
        self._outline = outline
        self._numbers = numbers
        self._known: dict[int, frozenset[tuple[str, int, int]]] = {}
        self._sinks: dict[int, frozenset[tuple[str, int, int]]] = {}
        for i in range(len(outline.operations)):
            self._known[i] = self._gathered(i)
        for i in reversed(range(len(outline.operations))):
            self._sinks[i] = self._spread(i)

    def of_tensor(self, tensor: Tensor) -> frozenset[tuple[str, int, int]]:
        if tensor.array is not None:
            return frozenset()
        maker = self._outline.producers.get(id(tensor))
        if maker is None:
            return frozenset([("input", self._outline.input_positions.get(id(tensor), -1), 0)])
        if maker[0] in self._numbers:
            return frozenset([("node", self._numbers[maker[0]], maker[1])])
        return self._known.get(maker[0], frozenset())

    def of_node(self, position: int) -> frozenset[tuple[str, int, int]]:
        return self._known[position]

    def place(self, position: int) -> tuple[object, object]:
        """What stands before and behind a node without a twin."""
        return self._known[position], self._sinks[position]

    def _gathered(self, position: int) -> frozenset[tuple[str, int, int]]:
        inputs = self._outline.operations[position].inputs
        return frozenset(source for tensor in inputs if tensor is not None for source in self.of_tensor(tensor))

    def _spread(self, position: int) -> frozenset[tuple[str, int, int]]:
        found: set[tuple[str, int, int]] = set()
        for tensor in self._outline.operations[position].outputs:
            found.update(("output", place, 0) for place in self._outline.output_positions.get(id(tensor), ()))
            for reader, place in self._outline.consumers.get(id(tensor), ()):
                if reader in self._numbers:
                    found.add(("node", self._numbers[reader], place))
                else:
                    found |= self._sinks.get(reader, frozenset())
        return frozenset(found)


def _used_opsets(outline: Outline) -> dict[str, int]:
    """Those that the version of some node comes from."""
    used = {operation.op.rpartition(".")[0] for operation in outline.operations}
    return {domain: version for domain, version in outline.opsets.items() if domain in used}


def _boundary_differences(what: str, olds: Sequence[Tensor], news: Sequence[Tensor]) -> list[str]:
    found = [f"{what} '{extra.name}' {extra.type_text} is gone" for extra in olds[len(news) :]]
    found += [f"{what} '{extra.name}' {extra.type_text} is new" for extra in news[len(olds) :]]
    for old, new in zip(olds, news, strict=False):
        if (old.name, old.dtype, _sizes(old)) != (new.name, new.dtype, _sizes(new)):
            found.append(f"{what} '{old.name}' {old.type_text} -> '{new.name}' {new.type_text}")
    return found


def _sizes(tensor: Tensor) -> tuple[int | None, ...] | None:
    """The shape without the names of unknown dimensions, which exporters invent."""
    return None if tensor.shape is None else tuple(size if isinstance(size, int) else None for size in tensor.shape)


def _attribute_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {_value_text(old.get(key))} -> {_value_text(new.get(key))}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _value_text(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, tuple):
        return f"[{', '.join(_value_text(item) for item in value)}]"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _constant_difference(position: int, old: Tensor, before: Array, new: Tensor, after: Array) -> list[str]:
    """How much two constants differ."""
    if old.digest == new.digest:
        return []
    name = f"'{old.name}'" if old.name == new.name else f"'{old.name}' -> '{new.name}'"
    if before.shape != after.shape or old.dtype != new.dtype:
        return [f"input {position} {name}: {old.type_text} -> {new.type_text}"]
    if before.dtype.kind not in "fiub":
        return [f"input {position} {name}: other values"]
    left, right = before.astype(np.float64), after.astype(np.float64)
    differing = (left != right) & ~(np.isnan(left) & np.isnan(right))
    count = int(np.count_nonzero(differing))
    if not count:  # such as 0 and -0
        return []
    if before.size == 1:
        return [f"{left.item():.7g} -> {right.item():.7g} in input {position} {name}"]
    with np.errstate(invalid="ignore", over="ignore"):
        moved = np.abs(right - left)[differing]
    largest, span = float(np.max(moved)), float(np.max(np.abs(left), initial=0.0))
    share = (
        f" ({100 * largest / span:.3g} % of the largest value)" if span and np.isfinite([largest, span]).all() else ""
    )
    how_much = f"{count:,} of {before.size:,} values by up to {largest:.4g}{share}"
    return [f"{how_much} in input {position} {name} {old.type_text}"]


def _source_text(tensor: Tensor | None) -> str:
    if tensor is None:
        return "none"
    return f"constant '{tensor.name}' {tensor.type_text}" if tensor.array is not None else f"'{tensor.name}'"


def _name(outline: Outline, position: int) -> NodeName:
    operation = outline.operations[position]
    return NodeName(operation.op, operation.name, operation.outputs[0].name if operation.outputs else "", position)


def _is_reshaped(old: Operation, new: Operation) -> bool:
    """Only types that both files know are compared."""
    pairs = zip(old.outputs, new.outputs, strict=False)
    return any(a.shape is not None and b.shape is not None and _sizes(a) != _sizes(b) for a, b in pairs)


def _types(outline: Outline, position: int) -> str:
    return ", ".join(tensor.type_text for tensor in outline.operations[position].outputs)
