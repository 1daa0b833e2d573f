"""The memory plan: buffers that live together lie apart, in an arena as small as it can be where that is known."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import combinations, product

import pytest

from tinyopt.memory_plan import BufferLifetime, Meeting, Part, lower_bound
from tinyopt.memory_search import plan_memory


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


def random_meetings(buffers: Sequence[BufferLifetime], seed: int) -> list[Meeting]:
    """Each buffer may overlap some of those that die when it is born: from a distance on, up to one, or at one."""
    generator = random.Random(seed)
    meetings: list[Meeting] = []
    for (i, later), (j, earlier) in product(enumerate(buffers), repeat=2):
        if earlier.first < later.first == earlier.last and generator.random() < 0.7:
            low, high = -later.bytes, earlier.bytes
            cut = 16 * generator.randint(low // 16, high // 16)
            forbidden = generator.choice([((low, cut),), ((cut, high),), ((low, cut), (cut, high))])
            meetings.append(Meeting(i, j, tuple((a, b) for a, b in forbidden if a < b)))
    return meetings


def assert_is_valid(buffers: Sequence[BufferLifetime], offsets: Sequence[int], meetings: Sequence[Meeting]) -> None:
    met = {(meeting.later, meeting.earlier): meeting for meeting in meetings}
    for (i, a), (j, b) in combinations(enumerate(buffers), 2):
        meeting = met.get((i, j)) or met.get((j, i))
        if meeting is not None:
            distance = offsets[meeting.later] - offsets[meeting.earlier]
            assert not any(low < distance < high for low, high in meeting.forbidden), (meeting, distance)
        elif a.first <= b.last and b.first <= a.last:
            assert offsets[i] + a.bytes <= offsets[j] or offsets[j] + b.bytes <= offsets[i], (a, b)


def smallest_arena(buffers: Sequence[BufferLifetime], meetings: Sequence[Meeting]) -> int:
    """The best of all placements at multiples of 16, by trying them all."""
    best = sum(buffer.bytes for buffer in buffers)
    for offsets in product(range(0, best, 16), repeat=len(buffers)):
        size = max(offset + buffer.bytes for offset, buffer in zip(offsets, buffers, strict=True))
        if size < best:
            try:
                assert_is_valid(buffers, offsets, meetings)
            except AssertionError:
                continue
            best = size
    return best


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


@pytest.mark.parametrize("seed", range(60))
def test_buffers_that_meet_keep_the_distance_that_their_meeting_wants(seed: int) -> None:
    buffers = random_buffers(seed)
    meetings = random_meetings(buffers, seed)
    plan = plan_memory(buffers, 16, meetings)
    assert_is_valid(buffers, plan.offsets, meetings)
    assert plan.lower_bound_bytes == lower_bound(buffers, 16, meetings) <= lower_bound(buffers, 16)
    assert all(
        offset % 16 == 0 and offset + b.bytes <= plan.arena_bytes
        for offset, b in zip(plan.offsets, buffers, strict=True)
    )
    assert plan_memory(buffers, 16, meetings) == plan


@pytest.mark.parametrize("seed", range(25))
def test_no_placement_is_smaller_than_the_bound_and_the_best_is_found_where_all_can_be_tried(seed: int) -> None:
    generator = random.Random(seed)
    buffers: list[BufferLifetime] = []
    for i in range(4):
        first = generator.randint(0, 3)
        buffers.append(BufferLifetime(f"b{i}", 16 * generator.randint(1, 4), first, first + generator.randint(0, 2)))
    meetings = random_meetings(buffers, seed)
    best = smallest_arena(buffers, meetings)
    plan = plan_memory(buffers, 16, meetings)
    assert plan.lower_bound_bytes <= best == plan.arena_bytes


@pytest.mark.parametrize("seed", range(40))
def test_parts_that_live_together_never_overlap_while_the_others_may(seed: int) -> None:
    generator = random.Random(seed)
    buffers: list[BufferLifetime] = []
    for i in range(generator.randint(2, 8)):
        parts: list[Part] = []
        for _ in range(generator.randint(1, 5)):
            offset = parts[-1].offset + parts[-1].bytes if parts else 0
            first = generator.randint(0, 9)
            parts.append(Part(offset, 16 * generator.randint(1, 6), first, first + generator.randint(0, 5)))
        span = min(p.first for p in parts), max(p.last for p in parts)
        buffers.append(BufferLifetime(f"b{i}", sum(p.bytes for p in parts), *span, tuple(parts)))
    plan = plan_memory(buffers, 16)
    pieces = [(i, p, plan.offsets[i] + p.offset) for i, b in enumerate(buffers) for p in b.pieces]
    for (i, a, at), (j, b, bt) in combinations(pieces, 2):
        if i != j and a.first <= b.last and b.first <= a.last:
            assert at + a.bytes <= bt or bt + b.bytes <= at
    used = [sum(p.bytes for _, p, _ in pieces if p.first <= step <= p.last) for step in range(20)]
    assert max(used) == plan.lower_bound_bytes <= plan.arena_bytes


def test_an_output_takes_the_rows_of_its_input_that_are_not_read_any_more() -> None:
    rows = tuple(Part(16 * k, 16, 0, k + 1) for k in range(4))
    results = tuple(Part(16 * k, 16, k + 2, 9) for k in range(4))
    buffers = [BufferLifetime("x", 64, 0, 4, rows), BufferLifetime("y", 64, 2, 9, results)]
    assert plan_memory(buffers, 16).arena_bytes == 64


def test_an_output_that_runs_ahead_of_its_input_begins_below_it() -> None:
    image, result = buffers_of((160, 0, 1), (80, 1, 2))
    plan = plan_memory([image, result], 16, [Meeting(1, 0, ((-24, 160),))])  # 24 bytes ahead: two multiples of 16
    assert (plan.offsets, plan.arena_bytes, plan.lower_bound_bytes) == ((32, 0), 192, 192)


def test_an_output_larger_than_its_input_grows_over_it_from_the_end() -> None:
    image, result, other = buffers_of((80, 0, 1), (160, 1, 2), (48, 1, 1))
    plan = plan_memory([image, result, other], 16, [Meeting(1, 0, ((-160, 16),))])
    assert plan.offsets[1] >= plan.offsets[0] + 16
    assert plan.arena_bytes == plan.lower_bound_bytes == 16 + 160 + 48


def test_an_output_shares_no_more_with_two_inputs_than_its_own_size() -> None:
    meetings = [Meeting(2, 0, ((-32, 0), (0, 32))), Meeting(2, 1, ((-32, 0), (0, 32)))]
    buffers = buffers_of((32, 0, 1), (32, 0, 1), (32, 1, 2))
    assert plan_memory(buffers, 16, meetings).arena_bytes == 64 == lower_bound(buffers, 16, meetings)


def test_a_thousand_buffers_are_planned_in_seconds() -> None:
    generator = random.Random(1)
    buffers = [
        BufferLifetime(f"b{i}", generator.randint(1, 5000), i, i + generator.choice([1, 1, 2, 9])) for i in range(1000)
    ]
    started = time.monotonic()
    plan_memory(buffers, 16, random_meetings(buffers, 1))
    assert time.monotonic() - started < 10
