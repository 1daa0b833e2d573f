"""What lowering and a target agree on: a kernel, its arguments, and the refusal of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from tinyopt.ir import Array, Node
from tinyopt.targets.kernels.intrinsic import Intrinsic


@dataclass(frozen=True)
class InputArgument:
    """A pointer to the node's input `index` (constants that the kernel takes as they are included)."""

    index: int


@dataclass(frozen=True)
class OutputArgument:
    """A pointer to the node's output `index`."""

    index: int


@dataclass(frozen=True, eq=False)
class ConstantArgument:
    """A pointer to an array in flash: weights in the kernel's own packing, bias, multipliers, tables.

    `role` names it in the generated C and in the report: weight, bias, multiplier, table, codebook.
    """

    role: str
    array: Array


@dataclass(frozen=True)
class ScratchArgument:
    """A pointer to working memory in the arena, which nobody else uses while the kernel runs."""

    bytes: int
    alignment: int


@dataclass(frozen=True)
class ScalarArgument:
    """An int32 passed by value."""

    value: int


@dataclass(frozen=True)
class Overlap:
    """An input whose memory the output may share, because what is overwritten has been read by then.

    The output may begin `first` to `last` bytes after the input begins (negative: before it); None is no limit. Where
    a kernel has several, the output may share all their inputs' memory at once, as long as each keeps its distance.
    """

    input: int
    first: int | None
    last: int | None

    @classmethod
    def in_place(cls, index: int) -> Overlap:
        """The output begins where the input does."""
        return cls(index, 0, 0)

    @classmethod
    def forward(cls, index: int, lead: int = 0) -> Overlap:
        """A kernel that runs from the first element to the last: the output begins at least `lead` bytes earlier."""
        return cls(index, None, -lead)

    @classmethod
    def backward(cls, index: int, distance: int) -> Overlap:
        """A kernel that runs from the last element to the first: the output begins `distance` bytes later, or more."""
        return cls(index, distance, None)


Argument: TypeAlias = InputArgument | OutputArgument | ConstantArgument | ScratchArgument | ScalarArgument


@dataclass(frozen=True)
class Decoding:
    """What a kernel that looks clustered weights up as it runs wins and pays against int8 weights.

    bytes: of packed indices and codebook. Instructions are those of the planner's model, for the whole layer.
    """

    bytes: int
    int8_bytes: int
    instructions: int
    int8_instructions: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """How one node is computed: a template, the numbers that specialize it, and what is passed at run time.

    template: the function that writes the PrimFunc from `spec`; a module-level function of tinyopt.targets.kernels.
    spec: a frozen dataclass of ints, strings and tuples. Nodes of equal (template, spec) share one function in flash,
        so whatever need not be known when the function is compiled is better passed as an argument.
    name: what it is called in C and in reports, such as "conv_smlad".
    intrinsics: those that the template may call.
    overlaps: inputs whose memory the (first) output may share.
    decoding: where the weights are clustered and decoded in this kernel.
    has_numbers: the first argument is an array of numbers that layers which share the function may differ in; those in
        which the layers of a model agree are made part of the code (tinyopt.lowering.specialization): of `spec.known`.
    """

    template: Callable[[Any], Any]
    spec: Any
    name: str
    arguments: tuple[Argument, ...]
    intrinsics: tuple[Intrinsic, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    decoding: Decoding | None = None
    has_numbers: bool = False

    @property
    def may_alias(self) -> bool:
        """Whether the output may share memory with an input."""
        return bool(self.overlaps)


@dataclass(frozen=True)
class Refusal:
    """Why a kernel does not take a node."""

    reason: str


class KernelPlanner(Protocol):
    """Looks at a node and says how a kernel would compute it, or why it cannot."""

    def __call__(self, node: Node, /) -> Kernel | Refusal: ...
