"""A model as its file tells it: nodes of any operator, tensors of any type, for what need not understand them.

Constants are tensors, whether they lie in initializers or in Constant nodes. A tensor's identity tells it apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from tinyopt.ir import Array

Dimension: TypeAlias = int | str | None  # a size, a name, or nothing


@dataclass(frozen=True, eq=False)
class Tensor:
    """A graph input, a node's output, or a constant. `dtype` is "" and `shape` None where the file does not say."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None
    array: Array | None = None

    @cached_property
    def digest(self) -> str:
        """Stands for the content of a constant, its type and shape included."""
        assert self.array is not None, f"{self.name} is not a constant"
        data = np.ascontiguousarray(self.array)
        content = repr(data.tolist()).encode() if data.dtype.hasobject else data.tobytes()
        return hashlib.sha256(f"{self.dtype}{self.shape}".encode() + content).hexdigest()

    @property
    def type_text(self) -> str:
        """Such as `float32[1,3,N,?]`."""
        if self.shape is None:
            return f"{self.dtype or '?'}[...]"
        return f"{self.dtype or '?'}[{','.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, eq=False)
class Operation:
    """A node. `op` is `domain.Operator` outside of the standard domain; attributes with their defaults filled in.

    `name` may be empty, and need not be unique. Absent inputs are None.
    """

    op: str
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Its name, or what it produces."""
        return self.name or (self.outputs[0].name if self.outputs else "")

    @property
    def constants(self) -> Iterator[tuple[int, Tensor]]:
        """The constant inputs with their positions."""
        return ((i, tensor) for i, tensor in enumerate(self.inputs) if tensor is not None and tensor.array is not None)


@dataclass(frozen=True, eq=False)
class Outline:
    """A model: `operations` in the order of the file, which is one in which they can run."""

    name: str
    opsets: Mapping[str, int]  # by domain; the standard one is ""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operations: tuple[Operation, ...]

    @cached_property
    def producers(self) -> Mapping[int, tuple[int, int]]:
        """For the id() of each tensor that a node gives: the node's position, and which of its outputs it is."""
        return {id(t): (i, k) for i, item in enumerate(self.operations) for k, t in enumerate(item.outputs)}

    @cached_property
    def consumers(self) -> Mapping[int, tuple[tuple[int, int], ...]]:
        """For the id() of each tensor that nodes read: their positions, and which of their inputs it is."""
        readers: dict[int, list[tuple[int, int]]] = {}
        for i, operation in enumerate(self.operations):
            for position, tensor in enumerate(operation.inputs):
                if tensor is not None:
                    readers.setdefault(id(tensor), []).append((i, position))
        return {key: tuple(places) for key, places in readers.items()}

    @cached_property
    def input_positions(self) -> Mapping[int, int]:
        return {id(tensor): position for position, tensor in enumerate(self.inputs)}

    @cached_property
    def output_positions(self) -> Mapping[int, tuple[int, ...]]:
        positions: dict[int, tuple[int, ...]] = {}
        for position, tensor in enumerate(self.outputs):
            positions[id(tensor)] = (*positions.get(id(tensor), ()), position)
        return positions
