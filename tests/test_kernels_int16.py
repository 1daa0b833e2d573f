"""Kernels that read or give int16: every bit of the reference on emulated cores, in portable C and in vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_harness import M0PLUS, M3, M4, M55, Case, Machine, require_tools, run_cases
from vector_cases import integer_convolution, integer_dense
from vector_harness import AARCH64, HOST
from vector_harness import Case as VectorCase
from vector_harness import run_cases as run_vector_cases

from tests.graph_builder import random_inputs
from tests.integer_cases import MIXED_CASES, X16, Kinds, R, X, Y, conv, dense
from tinyopt.ir import Array, Node, Quantization, TensorType, Value
from tinyopt.lowering.lower import choose_kernel
from tinyopt.targets import target_named
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.kernels.vector import NEON, SDOT, VECTOR

CORES: Mapping[str, Machine] = {"cortex-m0plus": M0PLUS, "cortex-m3": M3, "cortex-m4": M4, "cortex-m55": M55}
FAST_DENSE = {
    "cortex-m0plus": "dense_thumb1", "cortex-m3": "dense_thumb2", "cortex-m4": "dense_smlad", "cortex-m55": "dense_mve",
}  # fmt: skip
_random = np.random.default_rng(16)


def kernel_of(node: Node, target: str) -> Kernel:
    """The kernel that the target takes for this node."""
    choice = choose_kernel(node, target_named(target))
    assert choice is not None
    return choice[0]


def mixed_case(title: str, target: str) -> Case:
    graph = MIXED_CASES[title]
    inputs, node = random_inputs(graph), graph.nodes[0]
    arrays = tuple(None if value is None else inputs.get(value.name, value.constant) for value in node.inputs)
    return Case(node, kernel_of(node, target), arrays)


def activation(name: str, dtype: str, shape: tuple[int, ...], zero_point: int) -> Value:
    return Value(name, TensorType(dtype, shape), quantization=Quantization.per_tensor(0.1, zero_point))


def dense_node(
    depth: int, channels: int, shift: int, low: int = -(2**15), high: int = 2**15 - 1, residual: bool = False
) -> tuple[Node, tuple[Array | None, ...]]:
    """A QDense from int8 to int16 whose sums reach from one end of the levels to the other, and beyond."""
    weights = _random.integers(-127, 128, (channels, depth)).astype(np.int8)
    bias = _random.integers(-3000, 3000, channels).astype(np.int32)
    scales = _random.uniform(0.2, 1.0, channels) * 2**15 / (74.0 * 73.0 * np.sqrt(depth))
    multiplier = np.minimum(np.rint(scales * 2.0**shift), 2**31 - 1).astype(np.int32)
    x = _random.integers(-128, 128, (1, depth)).astype(np.int8)
    quantization = Quantization.per_channel([0.1] * channels, [0] * channels, 0)
    inputs: list[Value | None] = [
        activation("x", "int8", (1, depth), 3),
        Value.of("w", weights, quantization),
        Value.of("bias", bias),
        Value.of("multiplier", multiplier),
        activation("residual", "int8", (1, channels), 7) if residual else None,
    ]
    rounding = {"shift": shift, "low": low, "high": high, "residual_multiplier": round(40 * 2.0 ** min(shift, 25))}
    node = Node("QDense", "node", inputs, [activation("y", "int16", (1, channels), 0)], {**rounding})
    added = _random.integers(-128, 128, (1, channels)).astype(np.int8) if residual else None
    return node, (x, weights, bias, multiplier, added)


def dense_cases(target: str) -> Iterator[Case]:
    for depth, channels in product((1, 3, 16, 100, 300), (1, 2, 3, 5, 12, 70)):
        for shift in (31, 32) if depth > 40 else (29,):
            node, arrays = dense_node(depth, channels, shift)
            yield Case(node, kernel_of(node, target), arrays)
    for channels in (2, 9):
        node, arrays = dense_node(64, channels, 30, low=-7000, high=21000)
        yield Case(node, kernel_of(node, target), arrays)


def wide_cases(target: str) -> Iterator[Case]:
    """Convolutions and dense layers from or to int16, whose input channels are multiples of four."""
    for kinds in (Kinds(X16, X16, R), Kinds(X16, Y, R), Kinds(X, X16, R)):
        graphs = [conv((n, 3, 2, c), 1, kinds=kinds) for n, c in product((1, 2, 4, 7), (4, 8, 12))]
        graphs += [conv((n, 3, 2, 8), 1, residual=True, kinds=kinds) for n in (3, 8)]
        graphs += [dense((rows, 16), residual=bool(rows == 2), kinds=kinds) for rows in (1, 2, 3)][kinds.x is X :]
        for graph in graphs:
            inputs, node = random_inputs(graph), graph.nodes[0]
            arrays = tuple(None if value is None else inputs.get(value.name, value.constant) for value in node.inputs)
            yield Case(node, kernel_of(node, target), arrays)


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55"])
def test_layers_of_int16_multiply_two_at_once(target: str, tmp_path: Path) -> None:
    require_tools()
    cases = list(wide_cases(target))
    assert {case.kernel.name.split("_smlad_")[1] for case in cases} == {"s16", "s16_s8", "s8_s16"}
    assert run_cases(cases, tmp_path, machine=CORES[target]) == ""


@pytest.mark.qemu
@pytest.mark.parametrize("target", CORES)
def test_every_operator_gives_the_bits_of_the_reference(target: str, tmp_path: Path) -> None:
    require_tools()
    cases = [mixed_case(title, target) for title in MIXED_CASES]
    assert run_cases(cases, tmp_path, machine=CORES[target]) == ""


@pytest.mark.qemu
@pytest.mark.parametrize("target", CORES)
def test_dense_layers_that_give_int16_are_computed_as_quickly_as_others(target: str, tmp_path: Path) -> None:
    require_tools()
    cases = list(dense_cases(target))
    assert {case.kernel.name for case in cases} == {FAST_DENSE[target]}
    for residual_channels in (3, 8):
        node, arrays = dense_node(20, residual_channels, 28, residual=True)
        cases.append(Case(node, kernel_of(node, target), arrays))
    assert run_cases(cases, tmp_path, machine=CORES[target]) == ""


def vector_cases(machine: str) -> Iterator[VectorCase]:
    """Layers of vectors, told to give int16: the same multipliers with the scale 256 times as fine."""
    table = {"host": VECTOR, "arm": SDOT, "neon": NEON}[machine]
    layers = [integer_dense(rows, depth, channels) for rows, depth, channels in ((1, 64, 12), (3, 7, 5), (1, 3, 1))]
    layers += [integer_convolution((6, 5, 8), 13, (3, 3), pads=(1, 1, 1, 1)), integer_convolution((6, 5, 8), 8)]
    layers.append(integer_convolution((6, 5, 8), 8, (3, 3), pads=(1, 1, 1, 1), group=8, residual=True))
    for node, arrays in layers:
        node.attributes |= {"low": -(2**15), "high": 30000, "shift": node.int("shift") - 8}
        node.outputs = [activation("y", "int16", node.output.shape, 0)]
        kernel = next(k for plan in table[node.op] if isinstance(k := plan(node), Kernel))
        yield VectorCase(node, kernel, arrays)


@pytest.mark.qemu
@pytest.mark.parametrize("machine", ["host", "arm", "neon"])
def test_vectors_give_int16(machine: str) -> None:
    place = HOST if machine == "host" else AARCH64
    place.require()
    run_vector_cases(list(vector_cases(machine)), place)
