"""One library for several CPUs: one arena serves the kernels of all, and what they have in common is there once."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.arena_machine import run_in_arena
from tests.graph_builder import GraphBuilder, outputs_of, random_inputs
from tests.test_lowering import OVERLAPS, SHAPE, random_graph
from tinyopt.ir import Graph, Node
from tinyopt.lowering import lower as lowering
from tinyopt.lowering.program import Program
from tinyopt.lowering.request import KernelRequest
from tinyopt.lowering.variants import memory_needs
from tinyopt.targets.kernel import (
    Argument,
    InputArgument,
    Kernel,
    KernelPlanner,
    OutputArgument,
    Overlap,
    ScratchArgument,
)
from tinyopt.targets.portable_c import PORTABLE_C
from tinyopt.targets.target import CpuFeature, Target


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(requests: list[KernelRequest], *_: object) -> Mapping[str, bytes]:
        return {request.key: str(request.target["mcpu"]).encode() for request in requests}

    monkeypatch.setattr(lowering, "compile_kernels", compile_nothing)


def template_of_tests(_spec: object) -> None:
    """No kernel is written here."""


def kernel(name: str, scratch: tuple[int, ...] = (), overlaps: tuple[Overlap, ...] = ()) -> KernelPlanner:
    """A planner of kernels that read all their inputs; the first scratch comes before them."""

    def plan(node: Node) -> Kernel:
        needed: list[Argument] = [ScratchArgument(size, 16) for size in scratch]
        inputs = [InputArgument(i) for i in range(len(node.inputs))]
        arguments = (*needed[:1], *inputs, *needed[1:], OutputArgument(0))
        return Kernel(template_of_tests, name, name, arguments, overlaps=overlaps)

    return plan


def variant(name: str, feature: CpuFeature, **kernels: KernelPlanner) -> Target:
    table = {**PORTABLE_C.kernels, **{operator: (plan,) for operator, plan in kernels.items()}}
    return replace(PORTABLE_C, name=name, feature=feature, tvm={"mcpu": name}, kernels=table)


def lowered(graph: Graph, *variants: Target) -> Program:
    return lowering.lower(graph, replace(PORTABLE_C, variants=variants), None, lambda _done, _total: None)


@pytest.mark.parametrize("seed", range(40))
def test_in_one_arena_the_kernels_of_every_variant_keep_every_value(seed: int) -> None:
    generator = random.Random(seed)

    def some_kernels(name: str) -> dict[str, KernelPlanner]:
        def one() -> KernelPlanner:
            scratch = tuple(generator.choice((16, 48, 160)) for _ in range(generator.randrange(3)))
            return kernel(name, scratch, (generator.choice(OVERLAPS),))

        return {"Relu": one(), "Add": one(), "Mul": one()}

    program = lowered(
        random_graph(seed),
        variant("fast", "dotprod", **some_kernels("fast")),
        variant("plain", "", **some_kernels("plain")),
    )
    inputs = random_inputs(program.graph)
    for chosen in program.variants:
        found = run_in_arena(replace(program, variants=(chosen,)), inputs)
        for expected, got in zip(outputs_of(program.graph, inputs), found, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_scratch_is_that_of_the_kernel_that_needs_most_and_overlaps_are_those_that_all_permit() -> None:
    node = random_graph(0).nodes[0]
    some = kernel("a", (16, 400), (Overlap(0, -32, 16), Overlap.in_place(1)))(node)
    others = kernel("b", (64,), (Overlap(0, None, -8), Overlap(0, 8, None)))(node)
    assert isinstance(some, Kernel)
    assert isinstance(others, Kernel)
    needs = memory_needs([some, others])
    assert needs.arguments == (ScratchArgument(64, 16), ScratchArgument(400, 16))
    assert needs.overlaps == (Overlap(0, -32, -8), Overlap(0, 8, 16))


def two_sums() -> Graph:
    build = GraphBuilder()
    x = build.input("x", SHAPE)
    return build.graph_of(build("Relu", build("Add", x, x)))


def test_what_two_variants_call_is_compiled_once_for_the_one_that_asks_for_less() -> None:
    program = lowered(
        two_sums(),
        variant("i8mm", "i8mm", Add=kernel("fast"), Relu=kernel("common")),
        variant("dotprod", "dotprod", Add=kernel("fast"), Relu=kernel("other")),
        variant("neon", "", Add=kernel("slow"), Relu=kernel("common")),
    )
    assert [[call.kernel.name for call in v.calls] for v in program.variants] == [
        ["fast", "common"],
        ["fast", "other"],
        ["slow", "common"],
    ]
    machines = {call.kernel.name: program.functions[call.key] for call in program.all_calls}
    assert machines == {"fast": b"dotprod", "common": b"neon", "other": b"dotprod", "slow": b"neon"}
    assert len(program.functions) == 4


def test_variants_that_run_the_same_functions_are_one() -> None:
    add = kernel("sum")
    program = lowered(
        two_sums(),
        variant("i8mm", "i8mm", Add=kernel("fast")),
        variant("dotprod", "dotprod", Add=add),
        variant("neon", "", Add=add),
    )
    assert [v.name for v in program.variants] == ["i8mm", "neon"]
