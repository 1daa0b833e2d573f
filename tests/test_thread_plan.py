"""Who runs what and waits for whom: nothing is overwritten that is still read, and nobody waits in vain."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.arena_machine import run_in_arena
from tests.graph_builder import GraphBuilder, context_for, outputs_of, random_inputs
from tests.quantized_graphs import Q
from tests.test_split_rows import qconv
from tinyopt.artifact.c_source import CSource, Names
from tinyopt.artifact.write import write_sources
from tinyopt.evaluate import evaluate_all
from tinyopt.ir import Graph
from tinyopt.lowering import lower as lowering
from tinyopt.lowering.program import ArenaSlot, KernelCall, Location, Program, Turn
from tinyopt.pass_manager import run_pass
from tinyopt.passes.split_threads import SplitThreads
from tinyopt.targets import target_named

THREADS = (2, 3, 5)


def network() -> Graph:
    """Blocks that widen, filter and narrow, with a sum; layers for one thread; branches that do not need each other."""
    build = GraphBuilder()
    x = build.input("image", (1, 34, 32, 8), "int8", Q(0.1, 3))
    x = qconv(build, x, 32, stride=1)
    for _ in range(2):
        wide = qconv(build, qconv(build, x, 64, kernel=1), 64, depthwise=True)
        x = qconv(build, wide, 32, kernel=1, residual=x)
    small = qconv(build, x, 8, kernel=1, stride=2)
    return build.graph_of(small, qconv(build, x, 24, stride=2), qconv(build, x, 16, kernel=5))


def lowered(monkeypatch: pytest.MonkeyPatch, threads: int) -> Program:
    monkeypatch.setattr(lowering, "compile_kernels", lambda requests, *_: {request.key: b"" for request in requests})
    graph = network()
    assert run_pass(SplitThreads(threads), graph, context_for()).is_changed
    return lowering.lower(graph, target_named("host"), None, lambda _done, _total: None, threads=threads)


def places(call: KernelCall, is_written: bool) -> list[ArenaSlot]:
    located = [argument for argument in call.arguments if isinstance(argument, Location)]
    return [a.place for a in located if a.is_written == is_written and isinstance(a.place, ArenaSlot)]


def collide(one: KernelCall, other: KernelCall) -> bool:
    """Whether one of two calls writes what the other touches."""
    pairs = itertools.chain(
        itertools.product(places(one, True), places(other, True) + places(other, False)),
        itertools.product(places(one, False), places(other, True)),
    )
    return any(a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes for a, b in pairs)


def earlier_calls(turns: Sequence[Sequence[Turn]]) -> Mapping[int, set[int]]:
    """For each call those that are over before it begins, whatever the threads' speed."""
    earlier: dict[int, set[int]] = {}
    while len(earlier) < sum(map(len, turns)):
        for own in turns:
            for position, turn in enumerate(own):
                before = [own[position - 1].call] if position else []
                before += [turns[wait.thread][wait.calls - 1].call for wait in turn.waits]
                if all(call in earlier for call in before):
                    earlier[turn.call] = set(before).union(*(earlier[call] for call in before))
    return earlier


def unordered(program: Program, turns: Sequence[Sequence[Turn]]) -> list[tuple[int, int]]:
    """The calls that touch the same bytes, one of them writing, without the first one being over before the second."""
    earlier = earlier_calls(turns)
    pairs = itertools.combinations(range(len(program.calls)), 2)
    return [(a, b) for a, b in pairs if a not in earlier[b] and collide(program.calls[a], program.calls[b])]


@pytest.mark.parametrize("threads", THREADS)
def test_calls_that_share_bytes_are_in_order_and_every_wait_is_needed_for_that(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    program = lowered(monkeypatch, threads)
    turns = program.variants[0].turns
    assert sorted(turn.call for own in turns for turn in own) == list(range(len(program.calls)))
    assert not unordered(program, turns)
    for thread, own in enumerate(turns):
        for position, turn in enumerate(own):
            for wait in turn.waits:
                fewer = replace(turn, waits=tuple(other for other in turn.waits if other is not wait))
                changed = [*turns[:thread], (*own[:position], fewer, *own[position + 1 :]), *turns[thread + 1 :]]
                assert unordered(program, changed), (turn, wait)


@pytest.mark.parametrize("threads", THREADS)
def test_threads_of_any_speed_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    program = lowered(monkeypatch, threads)
    inputs = random_inputs(network())
    expected = outputs_of(network(), inputs)
    generator = np.random.default_rng(threads)
    for speeds in [*np.eye(threads) + 1e-9, *generator.random((4, threads))]:
        order = interleaved(program.variants[0].turns, speeds, generator)
        for got, wanted in zip(run_in_arena(program, inputs, order), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def interleaved(turns: Sequence[Sequence[Turn]], speeds: Sequence[float], generator: np.random.Generator) -> list[int]:
    """An order of the calls in which threads run that have nothing to wait for, faster ones more often."""
    done, order = [0] * len(turns), list[int]()
    while len(order) < sum(map(len, turns)):
        ready = [
            thread
            for thread, own in enumerate(turns)
            if done[thread] < len(own) and all(done[w.thread] >= w.calls for w in own[done[thread]].waits)
        ]
        chances = np.array([speeds[thread] for thread in ready])
        thread = int(generator.choice(ready, p=chances / chances.sum()))
        order.append(turns[thread][done[thread]].call)
        done[thread] += 1
    return order


def test_a_layer_with_its_neighbours_rows_done_first_lets_the_others_begin_before_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = lowered(monkeypatch, 2)
    turns = program.variants[0].turns
    awaited = {(wait.thread, wait.calls) for own in turns for turn in own for wait in turn.waits}
    followers = [turns[thread][calls].call for thread, calls in awaited if calls < len(turns[thread])]
    rows = [program.calls[call].node.outputs[0].shape[1] for call in followers]
    assert sum(count > 12 for count in rows) >= 4  # what is left of a band when a neighbour may go on


def test_no_work_is_moved_and_threads_have_about_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lowered(monkeypatch, 2)
    assert not {"Slice", "Concat"} & {call.node.op for call in program.calls}
    shares = [
        sum(program.calls[turn.call].node.outputs[0].type.elements for turn in own) for own in program.variants[0].turns
    ]
    assert max(shares) < 1.2 * min(shares)


def test_a_race_detector_finds_no_race_between_threads_nor_callers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The library's C code with kernels that touch every byte they are given, under ThreadSanitizer."""
    program = lowered(monkeypatch, 3)
    inputs = random_inputs(network())
    write_sources(program, Names("model"), tmp_path, "", inputs, evaluate_all(program.graph, inputs))
    (tmp_path / "kernels.c").write_text(touching_kernels(program))
    (tmp_path / "main.c").write_text(_CALLERS)
    sources = ["main.c", "model.c", "kernels.c"]
    command = ["gcc", "-std=gnu99", "-O1", "-g", "-fsanitize=thread", *sources, "-o", "callers", "-lpthread"]
    if subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("no gcc with ThreadSanitizer")
    result = subprocess.run(["./callers"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("ThreadSanitizer does not run here")
    assert result.returncode == 0, result.stderr[:3000]


def test_a_model_with_nothing_to_share_is_compiled_for_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "compile_kernels", lambda requests, *_: {request.key: b"" for request in requests})
    build = GraphBuilder()
    x = build.input("image", (1, 8, 8, 8), "int8", Q(0.1, 3))
    small = build.graph_of(qconv(build, qconv(build, qconv(build, x, 8), 8), 8))
    one, two = (
        lowering.lower(small.copy(), target_named("host"), None, lambda _done, _total: None, threads=threads)
        for threads in (1, 2)
    )
    assert (two.threads, two.arena_bytes, two.variants[0].turns) == (1, one.arena_bytes, ())


def touching_kernels(program: Program) -> str:
    """Functions in place of the kernels, which read and write all bytes of their arguments, and the constants."""
    functions: dict[str, str] = {}
    source = CSource(program, Names("model"))
    for call in program.calls:
        located = [argument for argument in call.arguments if isinstance(argument, Location)]
        parameters = ", ".join(f"unsigned char *p{i}" for i in range(len(located)))
        body = "".join(
            f"for (i = 0; i < {a.place.bytes}; i += 8) {f'p{i}[i] = 1' if a.is_written else f'sum += p{i}[i]'};"
            for i, a in enumerate(located)
            if isinstance(a.place, ArenaSlot)
        )
        functions[call.symbol] = (
            f"void {call.symbol}({parameters}) {{ volatile int sum = 0; int i; {body} (void)sum; }}"
        )
    constants = [f"const unsigned char {source.constant_name(constant)}[1];" for constant in program.constants]
    return "\n".join([*functions.values(), *constants])


_CALLERS = """\
#include <pthread.h>
#include "model.h"

static unsigned char arenas[3][MODEL_ARENA_BYTES] __attribute__((aligned(64)));

static void *caller(void *arena) {
  int run;
  for (run = 0; run < 20; run++)
    if (model_run(arena) != MODEL_OK) return arena;
  return 0;
}

int main(void) {
  pthread_t callers[3];
  int i, failed = 0;
  void *result;
  if (caller(arenas[0])) return 1;
  for (i = 0; i < 3; i++) pthread_create(&callers[i], 0, caller, arenas[i]);
  for (i = 0; i < 3; i++) {
    pthread_join(callers[i], &result);
    failed |= result != 0;
  }
  return failed;
}
"""
