"""One library for several CPUs: what its variants share of memory and of code.

Each variant has kernels of its own for the same nodes. All of them run in one arena with every value in the same place,
so that it does not matter to anybody outside which one runs; and a function that two of them call is there once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from tinyopt.lowering.program import Variant
from tinyopt.lowering.request import KernelRequest, request_for
from tinyopt.targets.kernel import Kernel, Overlap, ScratchArgument
from tinyopt.targets.target import Target


def memory_needs(kernels: Sequence[Kernel]) -> Kernel:
    """A kernel that needs of the arena what any of `kernels` needs: to plan with, not to call.

    Its arguments are scratch alone: the k-th is as large as the largest k-th of them. It permits the overlaps that
    all of them permit.
    """
    scratch = zip_longest(*([a for a in k.arguments if isinstance(a, ScratchArgument)] for k in kernels))
    arguments = tuple(_largest([argument for argument in same if argument is not None]) for same in scratch)
    overlaps = kernels[0].overlaps
    for kernel in kernels[1:]:
        overlaps = tuple(_common(overlaps, kernel.overlaps))
    return replace(kernels[0], arguments=arguments, overlaps=overlaps)


def _largest(arguments: Sequence[ScratchArgument]) -> ScratchArgument:
    return ScratchArgument(max(a.bytes for a in arguments), max(a.alignment for a in arguments))


def _common(some: Sequence[Overlap], others: Sequence[Overlap]) -> Iterator[Overlap]:
    """The distances that are in one range of both."""
    for a in some:
        for b in others:
            first = _tighter(max, a.first, b.first)
            last = _tighter(min, a.last, b.last)
            if a.input == b.input and (first is None or last is None or first <= last):
                yield Overlap(a.input, first, last)


def _tighter(pick: Callable[[int, int], int], a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else pick(a, b)


def shared_requests(machines: Sequence[Target], kernels: Sequence[Sequence[Kernel]]) -> list[list[KernelRequest]]:
    """What to compile for each machine's kernels; `machines` are sorted, the one that every CPU can stand in for last.

    A function that several machines have is compiled for the last of them alone.
    """
    humblest = {
        _content(kernel): machine.tvm
        for machine, its_kernels in zip(machines, kernels, strict=True)
        for kernel in its_kernels
    }
    return [[request_for(kernel, humblest[_content(kernel)]) for kernel in its_kernels] for its_kernels in kernels]


def _content(kernel: Kernel) -> str:
    return request_for(kernel, {}).key


def without_repetitions(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Without the variants that do what the next one, which asks for less, does as well."""
    following = [*variants[1:], None]
    return tuple(v for v, other in zip(variants, following, strict=True) if other is None or not _is_same(v, other))


def _is_same(a: Variant, b: Variant) -> bool:
    return [(call.key, call.arguments) for call in a.calls] == [(call.key, call.arguments) for call in b.calls]
