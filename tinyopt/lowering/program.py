"""The lowered model: a list of kernel calls over one arena and constants in flash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.target import Target

ARENA_ALIGNMENT = 16


@dataclass(frozen=True)
class ArenaSlot:
    """`bytes` at `offset` in the arena, or in the memory region of that number."""

    offset: int
    bytes: int
    region: int = 0


@dataclass(frozen=True)
class ArenaBuffer:
    """A tensor or a kernel's scratch in the arena: `bytes` at `offset`, in use from step `first` to step `last`.

    A tensor whose parts do not live equally long is several buffers of one name. Step 0 is before the first call,
    call k runs at step k + 1, and outputs stay until one step after the last call.
    """

    name: str
    offset: int
    bytes: int
    first: int
    last: int
    region: int


@dataclass(frozen=True)
class UsedRegion:
    """A memory region that the user gave: its name in C, what the program needs of it, and what there is."""

    name: str
    bytes: int
    capacity: int


@dataclass(frozen=True, eq=False)
class FlashConstant:
    """An array that is linked into flash, once, however many calls read it. `index` counts them."""

    index: int
    role: str
    array: Array


@dataclass(frozen=True)
class Scalar:
    """An int32 passed by value."""

    value: int


@dataclass(frozen=True)
class Location:
    """Where a pointer argument points, and whether the kernel writes there."""

    place: ArenaSlot | FlashConstant
    is_written: bool


CallArgument: TypeAlias = Location | Scalar


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One node, run by one function."""

    index: int
    node: Node
    kernel: Kernel
    key: str  # of the compiled function
    symbol: str
    arguments: tuple[CallArgument, ...]
    outputs: tuple[ArenaSlot, ...]
    refusals: tuple[str, ...]  # why faster kernels did not take this node

    @property
    def weight_bytes(self) -> int:
        """Bytes of flash that this call reads."""
        places = {
            a.place.index: a.place
            for a in self.arguments
            if isinstance(a, Location) and isinstance(a.place, FlashConstant)
        }
        return sum(place.array.nbytes for place in places.values())


@dataclass(frozen=True)
class Wait:
    """Until another thread has done so many of its calls."""

    thread: int
    calls: int


@dataclass(frozen=True)
class Turn:
    """A thread's next call, by its number in the program, and what the thread waits for before it."""

    call: int
    waits: tuple[Wait, ...]


@dataclass(frozen=True, eq=False)
class Variant:
    """The calls for CPUs that have a feature, see `Target.variants`. feature: empty for those that any CPU can run.

    turns: for each thread its calls in order; empty for a single thread, which runs them all in the order of `calls`.
    """

    name: str
    feature: str
    calls: tuple[KernelCall, ...]
    turns: tuple[tuple[Turn, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """Everything that the generated library consists of.

    variants: what is run, the fastest first; of several the first whose feature the CPU has. All of them run the nodes
    in one order with values in the same places.
    functions: compiled code by key: C text or an object file. places: where each graph input and output lies.
    threads: how many run it. section_sizes: how many calls, one after the other, do not depend on each other.
    arena_bytes: of all regions together. regions: those that the user gave, the fastest first; empty for one arena.
    """

    graph: Graph
    target: Target
    variants: tuple[Variant, ...]
    constants: tuple[FlashConstant, ...]
    places: Mapping[Value, ArenaSlot | FlashConstant]
    functions: Mapping[str, bytes]
    arena_bytes: int
    arena_lower_bound_bytes: int
    buffers: tuple[ArenaBuffer, ...]
    regions: tuple[UsedRegion, ...]
    threads: int
    section_sizes: tuple[int, ...]

    @property
    def sections(self) -> tuple[range, ...]:
        """The calls by number, those together that stand next to each other and do not depend on each other."""
        ends = list(accumulate(self.section_sizes))
        return tuple(range(end - size, end) for end, size in zip(ends, self.section_sizes, strict=True))

    @property
    def calls(self) -> tuple[KernelCall, ...]:
        """Those of the fastest variant."""
        return self.variants[0].calls

    @property
    def all_calls(self) -> tuple[KernelCall, ...]:
        """Those of every variant, one after the other."""
        return tuple(call for variant in self.variants for call in variant.calls)
