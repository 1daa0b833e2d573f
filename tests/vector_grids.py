"""Grids of at least 200 shapes for each family of vector kernels, of which a sample runs unless --full-grids is given.

A grid is a list that does not change from run to run: the edge cases of `vector_edges`, then random layers. A sample is
its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import vector_cases as cases
import vector_edges as edges
import vector_layers as layers
from shape_grids import first_of
from vector_cases import Sample
from vector_harness import Case

from tinyopt.ir import Node
from tinyopt.lowering.specialization import specialized
from tinyopt.targets.kernel import ConstantArgument, Kernel, KernelPlanner, Refusal
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.vector import VECTOR
from tinyopt.targets.kernels.vector.depthwise import plan_depthwise
from tinyopt.targets.kernels.vector.float_convolution import plan_float_convolution, plan_float_dense
from tinyopt.targets.kernels.vector.float_depthwise import (
    channel_vectors,
    depthwise_kernel,
    depthwise_specs,
    plan_float_depthwise,
)
from tinyopt.targets.kernels.vector.float_ending import Clamp
from tinyopt.targets.kernels.vector.integer_convolution import (
    plan_neon_convolution,
    plan_neon_dense,
    plan_sdot_convolution,
    plan_sdot_dense,
    plan_widened_convolution,
    plan_widened_dense,
)
from tinyopt.targets.kernels.vector.machine import float_vectors
from tinyopt.targets.kernels.vector.mull_convolution import plan_mull_convolution, plan_mull_dense
from tinyopt.targets.kernels.vector.mull_depthwise import plan_neon_depthwise
from tinyopt.targets.kernels.vector.sdot_depthwise import plan_sdot_depthwise
from tinyopt.targets.kernels.vector.smmla_convolution import plan_smmla_convolution, plan_smmla_dense
from tinyopt.targets.kernels.vector.widened_depthwise import plan_widened_depthwise
from tinyopt.targets.kernels.vector.window import Window, window_of
from tinyopt.targets.kernels.vector.winograd import plan_winograd, winograd_kernel
from tinyopt.targets.kernels.vector.winograd_tiling import winograd_specs
from tinyopt.targets.target import layered

SHAPES, RANDOM = 210, 10  # of a grid; layers of a sample beside the edges
Draw = Callable[[np.random.Generator], Sample]
PlanAny = Callable[[Node, np.random.Generator], Kernel | Refusal]


@dataclass(frozen=True)
class Family:
    """Kernels that are tested together.

    edges: layers that are in every run. plan: what is made of them. draw: a random layer. plan_any: what is made of
    that, None for the same; refused layers are passed over. needs: LLVM's names of instructions that not every 64-bit
    Arm has.
    """

    edges: Callable[[], Iterable[Sample]]
    plan: KernelPlanner
    draw: Draw
    plan_any: PlanAny | None = None
    needs: tuple[str, ...] = ()


def edge_cases(family: Family) -> list[Case]:
    """The family's edges, with the same data in each run."""
    return _as_lowered(_edges(family))


def grid(family: Family, is_full: bool) -> list[Case]:
    """The edges, then random layers, no two of one shape."""
    found = _edges(family)
    count = SHAPES if is_full else len(found) + RANDOM
    random = np.random.default_rng(5)
    shapes = {_shape(case.node) for case in found}
    for _ in range(20 * count):
        if len(found) >= count:
            break
        node, arrays = family.draw(random)
        plan = family.plan_any(node, random) if family.plan_any else family.plan(node)
        if isinstance(plan, Kernel) and _shape(node) not in shapes:
            found.append(Case(node, plan, arrays))
            shapes.add(_shape(node))
    assert len(found) >= count, f"{len(found)} shapes"
    return _as_lowered(found)


def _edges(family: Family) -> list[Case]:
    cases.begin_with(7)
    return [Case(node, _kernel(family.plan(node)), arrays) for node, arrays in family.edges()]


def _as_lowered(found: list[Case]) -> list[Case]:
    """Kernels that read numbers at run time know, in turn, all of them, some of them, and none, as in models."""
    return [replace(case, kernel=_knowing(case.kernel, number)) for number, case in enumerate(found)]


def _knowing(kernel: Kernel, number: int) -> Kernel:
    if not kernel.has_numbers or number % 3 == 2:
        return kernel
    numbers = kernel.arguments[0]
    assert isinstance(numbers, ConstantArgument)
    other = numbers.array + (np.arange(len(numbers.array)) * 7 % 10 < number % 3 * 5)
    sharing = replace(kernel, arguments=(ConstantArgument("parameters", other), *kernel.arguments[1:]))
    return specialized([kernel, sharing])[0]


def _kernel(plan: Kernel | Refusal) -> Kernel:
    assert isinstance(plan, Kernel), plan.reason
    return plan


def _shape(node: Node) -> tuple[Any, ...]:
    return node.op, tuple(value and value.shape for value in node.inputs), repr(node.attributes)


def _by_operator(**planners: KernelPlanner) -> KernelPlanner:
    return lambda node: planners[node.op](node)


def _without_chance(plan: KernelPlanner) -> PlanAny:
    return lambda node, _random: plan(node)


def _any_winograd(node: Node, random: np.random.Generator) -> Kernel | Refusal:
    """The image cut in a random way; for each size of tiles as often, though there are more ways for the one."""
    window = window_of(node, (3, 3))
    assert isinstance(window, Window)
    outputs, machine = layers.pick(random, (2, 4)), float_vectors(node)
    if min(window.channels, node.output.shape[3]) < machine.lanes:
        return Refusal("fewer channels than a vector has lanes")
    specs = winograd_specs(window, node.output.shape[3], node.optional_input(3) is not None, machine)
    chosen = [spec for spec in specs if spec.outputs == outputs]
    return winograd_kernel(node, layers.pick(random, chosen)) if chosen else Refusal("no block of tiles fits")


def _any_float_depthwise(node: Node, random: np.random.Generator) -> Kernel | Refusal:
    """Pixels grouped in a random way."""
    machine = channel_vectors(node)
    shape = plan_depthwise(node, machine.element, machine.lanes, machine.lanes)
    assert not isinstance(shape, Refusal)
    specs = list(depthwise_specs(shape, Clamp.of(node), node.optional_input(3) is not None))
    return depthwise_kernel(node, layers.pick(random, specs))


def _integer_products() -> list[Sample]:
    return [*edges.integer_convolutions(), *edges.integer_dense()]


def _smmla_products() -> list[Sample]:
    """Those that are not left to the dot product, and some more."""
    samples = [*_integer_products(), *edges.pointwise_convolutions()]
    return [(node, arrays) for node, arrays in samples if isinstance(_SMMLA(node), Kernel)]


def _of_any_target(edges: Callable[[], Iterable[Sample]], draw: Draw) -> Family:
    """Kernels that may leave edges (broadcasts, few channels) to the scalar ones."""
    return Family(edges, first_of(layered(VECTOR, SCALAR)), draw, _without_chance(first_of(VECTOR)))


_SMMLA = _by_operator(QConv=plan_smmla_convolution, QDense=plan_smmla_dense)
_SDOT = _by_operator(QConv=plan_sdot_convolution, QDense=plan_sdot_dense)
_MULL = _by_operator(QConv=plan_mull_convolution, QDense=plan_mull_dense)
_NEON = _by_operator(QConv=plan_neon_convolution, QDense=plan_neon_dense)
_WIDENED = _by_operator(QConv=plan_widened_convolution, QDense=plan_widened_dense)

PORTABLE: Mapping[str, Family] = {
    "float convolution": Family(edges.float_convolutions, plan_float_convolution, layers.float_convolution),
    "float dense": Family(edges.float_dense, plan_float_dense, layers.float_dense),
    "float depthwise": Family(
        edges.float_depthwise, plan_float_depthwise, layers.float_depthwise, _any_float_depthwise
    ),
    "winograd": Family(edges.winograd, plan_winograd, layers.winograd, _any_winograd),
    "float pools": _of_any_target(edges.float_pools, layers.float_pool),
    "float elementwise": _of_any_target(edges.float_elementwise, layers.float_elementwise),
    "widened products": Family(_integer_products, _WIDENED, layers.integer_product),
    "widened depthwise": Family(edges.integer_depthwise, plan_widened_depthwise, layers.integer_depthwise),
    "integer pools": _of_any_target(edges.integer_pools, layers.integer_pool),
    "integer sums": _of_any_target(edges.integer_sums, layers.integer_sum),
}
ARM: Mapping[str, Family] = {
    "mull products": Family(_integer_products, _MULL, layers.integer_product),
    "neon products": Family(_integer_products, _NEON, layers.integer_product),
    "neon depthwise": Family(edges.integer_depthwise, plan_neon_depthwise, layers.integer_depthwise),
    "sdot products": Family(_integer_products, _SDOT, layers.integer_product, needs=("+dotprod",)),
    "sdot depthwise": Family(
        edges.integer_depthwise, plan_sdot_depthwise, layers.integer_depthwise, needs=("+dotprod",)
    ),
    "smmla products": Family(_smmla_products, _SMMLA, layers.integer_product, needs=("+dotprod", "+i8mm")),
}


def _in_float16(family: Family) -> Family:
    """The same layers on float16 numbers; without those that are left to scalar kernels, which take none."""

    def samples() -> Iterator[Sample]:
        found = (cases.in_float16(sample) for sample in family.edges() if sample[0].op not in _WITHOUT_FLOAT16)
        return (sample for sample in found if isinstance(family.plan(sample[0]), Kernel))

    def draw(random: np.random.Generator) -> Sample:
        while True:
            node, arrays = family.draw(random)
            if node.op not in _WITHOUT_FLOAT16:
                return cases.in_float16((node, arrays))

    return replace(family, edges=samples, draw=draw, needs=("+fullfp16",))


_WITHOUT_FLOAT16 = ("QuantizeLinear", "DequantizeLinear")
FLOAT16: Mapping[str, Family] = {
    f"float16 {name}": _in_float16(PORTABLE[f"float {name}"])
    for name in ("convolution", "dense", "depthwise", "pools", "elementwise")
} | {"float16 winograd": _in_float16(PORTABLE["winograd"])}
FAMILIES: Mapping[str, Family] = {**PORTABLE, **ARM, **FLOAT16}
