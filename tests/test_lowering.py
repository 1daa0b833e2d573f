"""Lowering: one kernel for each node, and no value's memory is taken while somebody still reads it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.arena_machine import run_in_arena
from tests.graph_builder import GraphBuilder, graph_of, outputs_of, random_inputs
from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering import lower as lowering
from tinyopt.lowering.program import ArenaSlot, FlashConstant, Program, Variant
from tinyopt.lowering.request import KernelRequest
from tinyopt.targets import target_named
from tinyopt.targets.kernel import InputArgument, Kernel, KernelPlanner, OutputArgument, Overlap, Refusal
from tinyopt.targets.portable_c import PORTABLE_C

SHAPE = (1, 2, 4, 4)
BYTES = 128


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Graph], Program]:
    """Lower a graph for portable C without compiling any kernel."""

    def compile_nothing(requests: list[KernelRequest], *_: object) -> Mapping[str, bytes]:
        return {request.key: b"" for request in requests}

    monkeypatch.setattr(lowering, "compile_kernels", compile_nothing)
    return lambda graph: lowering.lower(graph, PORTABLE_C, None, lambda _done, _total: None)


def assert_memory_keeps_every_value(program: Program) -> None:
    inputs = random_inputs(program.graph)
    for expected, got in zip(outputs_of(program.graph, inputs), run_in_arena(program, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)


def random_graph(seed: int) -> Graph:
    """Activations, sums, views, splits and concatenations that read one another's results at random."""
    build, generator = GraphBuilder(seed=seed), random.Random(seed)
    values = [build.input("a", SHAPE), build.input("b", SHAPE)]
    for _ in range(generator.randint(1, 14)):
        x, y = generator.choice(values), generator.choice(values)
        match generator.randrange(8):
            case 0 | 1:
                values.append(build("Relu", x))
            case 2 | 3:
                values.append(build("Add", x, y))
            case 4:
                values.append(build("Reshape", build("Reshape", x, shape=(2, 16)), shape=SHAPE))
            case 5:
                halves = build.many("Split", x, outputs=2, axis=1, sizes=(1, 1))
                values.append(build("Concat", halves[1], halves[generator.randrange(2)], axis=1))
            case 6:
                halves = [build("Relu", half) for half in build.many("Split", x, outputs=2, axis=1, sizes=(1, 1))]
                values.append(build("Concat", *halves, axis=1))
            case _:
                values.append(build("Mul", x, build.random(SHAPE)))
    outputs = generator.sample(values, min(len(values), generator.randint(1, 3)))
    return build.graph_of(*outputs)


@pytest.mark.parametrize("seed", range(80))
def test_random_graphs_keep_every_value_until_its_last_reader(seed: int, lowered: Callable[[Graph], Program]) -> None:
    assert_memory_keeps_every_value(lowered(random_graph(seed)))


def kernel_with(*overlaps: Overlap) -> KernelPlanner:
    """A planner of kernels that read all their inputs and whose output may share memory as `overlaps` say."""

    def plan(node: Node) -> Kernel:
        inputs = tuple(InputArgument(i) for i in range(len(node.inputs)))
        return Kernel(kernel_with, None, "test", (*inputs, OutputArgument(0)), overlaps=overlaps)

    return plan


def lowered_with(graph: Graph, **kernels: KernelPlanner) -> Program:
    target = replace(PORTABLE_C, kernels={**PORTABLE_C.kernels, **{op: (plan,) for op, plan in kernels.items()}})
    return lowering.lower(graph, target, None, lambda _done, _total: None)


OVERLAPS = (
    Overlap.in_place(0),
    Overlap.forward(0, 16),
    Overlap.forward(0, -8),
    Overlap.backward(0, 40),
    Overlap.backward(0, -17),
    Overlap(0, -32, 16),
)


@pytest.mark.usefixtures("lowered")
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_of_kernels_that_overlap_at_a_distance_keep_every_value(seed: int) -> None:
    generator = random.Random(seed)
    both = tuple(replace(generator.choice(OVERLAPS), input=index) for index in range(2))
    program = lowered_with(
        random_graph(seed),
        Relu=kernel_with(generator.choice(OVERLAPS)),
        Add=kernel_with(*both),
        Split=kernel_with() if generator.random() < 0.5 else PORTABLE_C.kernels["Split"][0],
        Concat=kernel_with(generator.choice(OVERLAPS)),
    )
    assert_memory_keeps_every_value(program)
    assert program.arena_lower_bound_bytes <= program.arena_bytes


@pytest.mark.usefixtures("lowered")
def test_outputs_larger_and_smaller_than_their_inputs_share_their_memory() -> None:
    def body(build: GraphBuilder) -> Value:
        wide = build("Pad", build.input("x", SHAPE), pads=(0, 0, 0, 0, 0, 2, 0, 0))
        return build("Slice", wide, starts=(0, 0, 0, 0), steps=(1, 1, 1, 2), sizes=(1, 4, 4, 2))

    program = lowered_with(
        graph_of(body), Pad=kernel_with(Overlap.backward(0, 0)), Slice=kernel_with(Overlap.forward(0))
    )
    assert_memory_keeps_every_value(program)
    assert program.arena_bytes == program.arena_lower_bound_bytes == 2 * BYTES


@pytest.mark.usefixtures("lowered")
def test_a_value_that_is_two_inputs_is_overwritten_only_where_both_permit_it() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", SHAPE)
        return build("Add", x, build("Reshape", x, shape=SHAPE))

    one = lowered_with(graph_of(body), Add=kernel_with(Overlap.forward(1)))
    both = lowered_with(graph_of(body), Add=kernel_with(Overlap.in_place(0), Overlap.forward(1)))
    assert [program.arena_bytes for program in (one, both)] == [2 * BYTES, BYTES]
    assert_memory_keeps_every_value(both)


@pytest.mark.usefixtures("lowered")
def test_the_arena_machine_sees_an_output_that_is_nearer_than_its_kernel_permits() -> None:
    graph = graph_of(lambda build: build("Relu", build.input("x", SHAPE)))
    program = lowered_with(graph, Relu=kernel_with(Overlap.forward(0, 16)))
    (call,) = program.calls
    strict = replace(call, kernel=replace(call.kernel, overlaps=(Overlap.forward(0, 17),)))
    with pytest.raises(AssertionError, match="begins -16 bytes after"):
        assert_memory_keeps_every_value(replace(program, variants=(Variant("strict", "", (strict,)),)))


def test_rows_are_sliced_worked_on_and_joined_without_being_moved(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 8, 2, 4))
        bands = [build("Slice", x, starts=(0, k, 0, 0), steps=(1,) * 4, sizes=(1, 4, 2, 4)) for k in (0, 3, 4)]
        return build("Concat", *[build("MaxPool", b, layout="NHWC", strides=(1, 1)) for b in bands], axis=1)

    program = lowered(graph_of(body))
    assert_memory_keeps_every_value(program)
    assert [call.node.op for call in program.calls] == ["MaxPool"] * 3
    # rows of x that no band reads any more are overwritten: 256 bytes of x, 144 of the output, less what both share
    assert program.arena_bytes < 256 + 144


def test_a_slice_whose_first_byte_is_not_aligned_is_copied(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 8, 1, 3))
        return build("Relu", build("Slice", x, starts=(0, 1, 0, 0), steps=(1,) * 4, sizes=(1, 4, 1, 3)))

    program = lowered(graph_of(body))
    assert_memory_keeps_every_value(program)
    assert [call.node.op for call in program.calls] == ["Slice", "Relu"]


def test_a_value_with_a_later_reader_is_not_overwritten_in_place(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", SHAPE)
        once = build("Sigmoid", x)
        return build("Add", build("Relu", once), once)

    program = lowered(graph_of(body))
    assert_memory_keeps_every_value(program)
    assert program.arena_bytes == 2 * BYTES  # the sum takes over one of its inputs


def test_a_view_keeps_the_memory_that_it_looks_at(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Sigmoid", build.input("x", SHAPE))
        view = build("Reshape", x, shape=(2, 16))
        return build("Add", build("Reshape", build("Relu", x), shape=(2, 16)), view)

    program = lowered(graph_of(body))
    assert_memory_keeps_every_value(program)
    assert [call.node.op for call in program.calls] == ["Sigmoid", "Relu", "Add"]


def test_a_chain_of_activations_runs_in_the_input_s_own_memory(lowered: Callable[[Graph], Program]) -> None:
    program = lowered(
        graph_of(lambda b: b("Relu", b("Reshape", b("Sigmoid", b.input("x", SHAPE)), shape=(32,)), name="last"))
    )
    assert_memory_keeps_every_value(program)
    assert program.arena_bytes == BYTES == program.arena_lower_bound_bytes


def test_adding_a_value_to_itself_gives_the_double(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Relu", build.input("x", SHAPE))
        return build("Add", x, build("Identity", x))

    assert_memory_keeps_every_value(lowered(graph_of(body)))


def test_an_output_that_others_read_too_stays_as_it_is(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x = build("Sigmoid", build.input("x", SHAPE))
        view = build("Reshape", x, shape=(32,))
        return [view, build("Relu", x), build("Tanh", view)]

    assert_memory_keeps_every_value(lowered(graph_of(body)))


def test_an_input_that_is_an_output_is_not_overwritten(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x = build.input("x", SHAPE)
        return [x, build("Relu", x)]

    program = lowered(graph_of(body))
    assert_memory_keeps_every_value(program)
    assert program.places[program.graph.inputs[0]] == program.places[program.graph.outputs[0]]


def test_a_constant_output_lies_in_flash_also_behind_a_view(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> list[Value]:
        constant = build.random((4,))
        return [build("Relu", build.input("x", SHAPE)), constant, build("Reshape", constant, shape=(2, 2))]

    program = lowered(graph_of(body))
    places = [program.places[value] for value in program.graph.outputs]
    assert [type(place) for place in places] == [ArenaSlot, FlashConstant, FlashConstant]
    assert places[1] is places[2]


def test_an_unread_output_of_a_split_overwrites_nothing(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", SHAPE)
        kept = build("Sigmoid", x)
        halves = build.many("Split", x, outputs=2, axis=1, sizes=(1, 1))
        return build("Concat", kept, halves[1], axis=1)

    assert_memory_keeps_every_value(lowered(graph_of(body)))


def test_unread_inputs_have_a_place_of_their_own(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> Value:
        build.input("unread", SHAPE)
        return build("Relu", build.input("x", SHAPE))

    program = lowered(graph_of(body))
    assert_memory_keeps_every_value(program)
    places = [program.places[value] for value in program.graph.inputs]
    assert all(isinstance(place, ArenaSlot) for place in places)
    assert places[0] != places[1]


def test_equal_nodes_share_one_function_and_equal_arrays_one_place(lowered: Callable[[Graph], Program]) -> None:
    weights = np.arange(32, dtype=np.float32).reshape(SHAPE)

    def body(build: GraphBuilder) -> Value:
        x = build.input("x", SHAPE)
        once = build("Mul", x, build.constant(weights))
        return build("Mul", once, build.constant(weights.copy()))

    program = lowered(graph_of(body))
    assert len({call.key for call in program.calls}) == 1
    assert len(program.constants) == 1


def test_equal_bytes_of_two_types_are_two_constants(lowered: Callable[[Graph], Program]) -> None:
    def body(build: GraphBuilder) -> list[Value]:
        return [build("Relu", build.input("x", SHAPE)), build.constant([0.0]), build.constant([0], dtype="int32")]

    program = lowered(graph_of(body))
    assert len({program.places[value] for value in program.graph.outputs}) == 3


def test_all_nodes_without_a_kernel_are_listed_at_once() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", SHAPE)
        return build("Tanh", build("Relu", build("Sigmoid", x, name="first")), name="second")

    kernels = {op: planners for op, planners in PORTABLE_C.kernels.items() if op == "Relu"}
    poor = replace(PORTABLE_C, name="poor", kernels=kernels)
    with pytest.raises(UnsupportedOperatorError) as caught:
        lowering.lower(graph_of(body), poor, None, lambda _done, _total: None)
    assert str(caught.value) == "no kernel for poor: Sigmoid 'first'; Tanh 'second'"


def test_why_the_faster_kernels_did_not_take_a_node_is_kept(lowered: Callable[[Graph], Program]) -> None:
    def too_good(_node: Node) -> Refusal:
        return Refusal("only on Sundays")

    kernels = {op: (too_good, *planners) for op, planners in PORTABLE_C.kernels.items()}
    picky = replace(PORTABLE_C, kernels=kernels)
    graph = graph_of(lambda build: build("Relu", build.input("x", SHAPE)))
    (call,) = lowering.lower(graph, picky, None, lambda _done, _total: None).calls
    assert call.refusals == ("only on Sundays",)
    assert call.kernel.name == lowered(graph).calls[0].kernel.name


@pytest.mark.parametrize("target", ["c", "cortex-m4", "arm", "host"])
def test_lowering_twice_gives_the_same_program(target: str, lowered: Callable[[Graph], Program]) -> None:
    del lowered  # only its patch is wanted: no kernel is compiled
    first, second = (
        lowering.lower(random_graph(3), target_named(target), None, lambda _done, _total: None) for _ in range(2)
    )
    assert [(c.symbol, c.outputs) for c in first.calls] == [(c.symbol, c.outputs) for c in second.calls]
    assert first.arena_bytes == second.arena_bytes
