"""The memory plan: buffers that live together lie apart, in an arena as small as it can be where that is known."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tinyopt.memory_plan import BufferLifetime, lower_bound, plan_memory


def buffers_of(*lifetimes: tuple[int, int, int]) -> list[BufferLifetime]:
    """Buffers of (bytes, first, last)."""
    return [BufferLifetime(f"b{i}", size, first, last) for i, (size, first, last) in enumerate(lifetimes)]


def random_buffers(seed: int) -> list[BufferLifetime]:
    generator = random.Random(seed)
    lifetimes: list[tuple[int, int, int]] = []
    for _ in range(generator.randint(1, 30)):
        first = generator.randint(0, 20)
        lifetimes.append((generator.choice([0, 1, 15, 16, 17, 100, 1000]), first, first + generator.randint(0, 8)))
    return buffers_of(*lifetimes)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("alignment", [1, 16])
def test_random_buffers_that_live_together_never_overlap_and_keep_their_alignment(seed: int, alignment: int) -> None:
    buffers = random_buffers(seed)
    plan = plan_memory(buffers, alignment)
    for (a, at), (b, bt) in combinations(zip(buffers, plan.offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last:
            assert at + a.bytes <= bt or bt + b.bytes <= at, (a, at, b, bt)
    for buffer, offset in zip(buffers, plan.offsets, strict=True):
        assert offset % alignment == 0
        assert offset >= 0
        assert offset + buffer.bytes <= plan.arena_bytes
    alive = [sum(b.bytes for b in buffers if b.first <= step <= b.last) for step in range(30)]
    assert max(alive) <= plan.lower_bound_bytes <= plan.arena_bytes
    assert plan.lower_bound_bytes == lower_bound(buffers, alignment)
    assert plan_memory(buffers, alignment) == plan


def test_a_chain_takes_its_two_largest_neighbours() -> None:
    chain = buffers_of((100, 0, 1), (400, 1, 2), (300, 2, 3), (50, 3, 4))
    assert plan_memory(chain, 1).arena_bytes == 700


def test_a_residual_kept_over_a_chain_is_not_overwritten() -> None:
    residual, *chain = buffers_of((64, 0, 4), (128, 1, 2), (128, 2, 3), (64, 3, 4))
    plan = plan_memory([residual, *chain], 16)
    assert plan.arena_bytes == 64 + 256
    assert all(not plan.offsets[0] < offset + 64 <= plan.offsets[0] + 64 for offset in plan.offsets[1:])


def test_where_placing_the_largest_first_wastes_bytes_another_order_is_found() -> None:
    buffers = buffers_of((8, 0, 2), (4, 1, 4), (8, 5, 6), (5, 3, 6))  # largest first takes 17
    plan = plan_memory(buffers, 1)
    assert plan.arena_bytes == plan.lower_bound_bytes == 13


def test_sizes_are_rounded_up_so_that_the_next_buffer_is_aligned() -> None:
    assert plan_memory(buffers_of((1, 0, 0), (1, 0, 0)), 16).arena_bytes == 32


def test_no_buffers_need_no_arena() -> None:
    plan = plan_memory([], 16)
    assert (plan.offsets, plan.arena_bytes, plan.lower_bound_bytes) == ((), 0, 0)
