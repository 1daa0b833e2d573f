"""Which node of one model is which node of another: by structure, by content and by name.

Nodes that stand for the same are found in rounds. Each round gives every node that is still alone a key, and pairs the
nodes whose keys are equal in both models (equally many, in their order). The keys, strictest first:

- what the node is (operator, attributes, constants) together with all that it depends on and all that depends on it,
- the same with one of the two sides only: what lies before a change, and what lies behind it,
- the content of its weights, its name,
- the same operators on the way to it and from it, whatever their numbers.

Then pairs spread along the edges. Names can be right (an edit by hand) or wrong (a tool that numbers nodes anew), and
equal neighbours can be told apart from one side better than from the other. So there are several readings: names before
structure, structure before names, from the begin or from the end. `tinyopt.graph_diff` takes the one that explains the
models with the fewest differences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tinyopt.outline import Operation, Outline, Tensor

CONTENT_ELEMENTS_MIN = 8  # constants of fewer elements are equal by chance


@dataclass
class Matching:
    """Pairs of positions in the operations of two outlines."""

    twin_of_old: dict[int, int] = field(default_factory=dict[int, int])
    twin_of_new: dict[int, int] = field(default_factory=dict[int, int])

    def pair(self, old: int, new: int) -> None:
        self.twin_of_old[old] = new
        self.twin_of_new[new] = old

    def is_free(self, old: int, new: int) -> bool:
        return old not in self.twin_of_old and new not in self.twin_of_new


@dataclass(frozen=True)
class _Keys:
    """What is known of each node, by position."""

    before: list[str]  # the node and all that it depends on
    after: list[str]  # the node and all that depends on it
    shape_before: list[str]  # the same of operators and the shapes of constants alone
    shape_after: list[str]
    content: list[str | None]  # its operator and weights
    names: list[Hashable]


_Round = Callable[[_Keys, int], Hashable | None]

_BY_NAME: tuple[_Round, ...] = (lambda keys, i: keys.names[i],)
_BOTH_SIDES: tuple[_Round, ...] = (
    lambda keys, i: (keys.before[i], keys.after[i], keys.names[i]),
    lambda keys, i: (keys.before[i], keys.after[i]),
)
_FROM_BEGIN: tuple[_Round, ...] = (
    lambda keys, i: (keys.before[i], keys.names[i]),
    lambda keys, i: keys.before[i],
)
_FROM_END: tuple[_Round, ...] = (
    lambda keys, i: (keys.after[i], keys.names[i]),
    lambda keys, i: keys.after[i],
)
_BY_CONTENT: tuple[_Round, ...] = (lambda keys, i: keys.content[i],)
_BY_SHAPE: tuple[_Round, ...] = (
    lambda keys, i: (keys.shape_before[i], keys.shape_after[i]),
    lambda keys, i: keys.shape_before[i],
    lambda keys, i: keys.shape_after[i],
)


_BY_STRUCTURE = (*_BOTH_SIDES, *_FROM_BEGIN, *_FROM_END, *_BY_CONTENT)

# an empty sequence of rounds stands for spreading along the edges
_READINGS: tuple[tuple[tuple[_Round, ...], ...], ...] = (
    (_BY_NAME, _BY_STRUCTURE, (), _BY_SHAPE, ()),
    (_BY_STRUCTURE, (), _BY_NAME, (), _BY_SHAPE, ()),
    ((*_BOTH_SIDES, *_FROM_END, *_FROM_BEGIN, *_BY_CONTENT), (), _BY_NAME, (), _BY_SHAPE, ()),
)


def readings(old: Outline, new: Outline) -> Iterator[Matching]:
    """Several ways to see `new` as a changed `old`, the one that trusts names first."""
    keys = _keys(old), _keys(new)
    return (_match(old, new, keys, rounds) for rounds in _READINGS)


def _match(old: Outline, new: Outline, keys: tuple[_Keys, _Keys], rounds: Sequence[Sequence[_Round]]) -> Matching:
    matching = Matching()
    for group in rounds:
        for key in group:
            _pair_equal(matching, keys, key)
        if not group:
            _spread(old, new, matching)
    return matching


def _pair_equal(matching: Matching, keys: tuple[_Keys, _Keys], key: _Round) -> None:
    buckets = [
        _bucketed((i, key(side, i)) for i in range(len(side.before)) if i not in taken)
        for side, taken in zip(keys, (matching.twin_of_old, matching.twin_of_new), strict=True)
    ]
    for content, olds in buckets[0].items():
        news = buckets[1].get(content, [])
        if len(olds) == len(news):
            for old, new in zip(olds, news, strict=True):
                matching.pair(old, new)


def _bucketed(items: Iterable[tuple[int, Hashable | None]]) -> dict[Hashable, list[int]]:
    buckets: dict[Hashable, list[int]] = {}
    for position, key in items:
        if key is not None:
            buckets.setdefault(key, []).append(position)
    return buckets


# Spreading


def _spread(old: Outline, new: Outline, matching: Matching) -> None:
    """Pair nodes of equal operators at the same place beside nodes that are paired, until nothing more is found."""
    waiting = list(matching.twin_of_old.items())
    found = [
        *(pair for a, b in zip(old.inputs, new.inputs, strict=False) for pair in _readers(old, new, a, b, matching)),
        *(pair for a, b in zip(old.outputs, new.outputs, strict=False) for pair in _makers(old, new, a, b)),
    ]
    while True:
        for pair in found:
            if matching.is_free(*pair):
                matching.pair(*pair)
                waiting.append(pair)
        if not waiting:
            return
        before, after = (side.operations[i] for side, i in zip((old, new), waiting.pop(), strict=True))
        found = [
            *(p for a, b in zip(before.inputs, after.inputs, strict=False) if a and b for p in _makers(old, new, a, b)),
            *(
                p
                for a, b in zip(before.outputs, after.outputs, strict=False)
                for p in _readers(old, new, a, b, matching)
            ),
        ]


def _makers(old: Outline, new: Outline, before: Tensor, after: Tensor) -> list[tuple[int, int]]:
    """The two nodes that give these tensors, where they may be one."""
    left, right = old.producers.get(id(before)), new.producers.get(id(after))
    if left is None or right is None or left[1] != right[1]:
        return []
    return [(left[0], right[0])] if old.operations[left[0]].op == new.operations[right[0]].op else []


def _readers(old: Outline, new: Outline, before: Tensor, after: Tensor, matching: Matching) -> list[tuple[int, int]]:
    """The free nodes that read these tensors, where only one of each operator does at that input."""
    left = _bucketed((i, (old.operations[i].op, place)) for i, place in old.consumers.get(id(before), ()))
    right = _bucketed((i, (new.operations[i].op, place)) for i, place in new.consumers.get(id(after), ()))
    free = [
        ([i for i in olds if i not in matching.twin_of_old], [i for i in right[key] if i not in matching.twin_of_new])
        for key, olds in left.items()
        if key in right
    ]
    return [(olds[0], news[0]) for olds, news in free if len(olds) == len(news) == 1]


# Keys


def _keys(outline: Outline) -> _Keys:
    local = [_hash(item.op, sorted(item.attributes.items()), _constants(item, True)) for item in outline.operations]
    loose = [_hash(item.op, _constants(item, False)) for item in outline.operations]
    return _Keys(
        _before(outline, local),
        _after(outline, local),
        _before(outline, loose),
        _after(outline, loose),
        [_content(item) for item in outline.operations],
        [(item.op, item.label) if item.label else None for item in outline.operations],
    )


def _constants(operation: Operation, with_content: bool) -> list[tuple[int, str]]:
    return [(i, tensor.digest if with_content else tensor.type_text) for i, tensor in operation.constants]


def _content(operation: Operation) -> str | None:
    large = [t.digest for _, t in operation.constants if t.array is not None and t.array.size >= CONTENT_ELEMENTS_MIN]
    return _hash(operation.op, large) if large else None


def _before(outline: Outline, local: Sequence[str]) -> list[str]:
    hashes: list[str] = []
    for i, operation in enumerate(outline.operations):
        sources: list[object] = []
        for tensor in operation.inputs:
            maker = None if tensor is None else outline.producers.get(id(tensor))
            if tensor is None or tensor.array is not None:
                sources.append("constant" if tensor else "absent")
            elif maker is None or maker[0] >= i:
                sources.append(outline.input_positions.get(id(tensor), "elsewhere"))
            else:
                sources.append((hashes[maker[0]], maker[1]))
        hashes.append(_hash(local[i], sources))
    return hashes


def _after(outline: Outline, local: Sequence[str]) -> list[str]:
    hashes = [""] * len(local)
    for i in reversed(range(len(local))):
        sinks = [
            (
                sorted((hashes[reader], place) for reader, place in outline.consumers.get(id(tensor), ())),
                outline.output_positions.get(id(tensor), ()),
            )
            for tensor in outline.operations[i].outputs
        ]
        hashes[i] = _hash(local[i], sinks)
    return hashes


def _hash(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
