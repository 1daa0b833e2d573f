"""The Helium kernels for depthwise convolutions and operators on elements give the references' bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, FLAGS, GCC, M55, Case, require_tools, run_cases

from tinyopt.ir import Array, Attribute, Node, Value
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import ConstantArgument, KernelPlanner, Refusal
from tinyopt.targets.kernels.mve.depthwise import PARAMETERS, DepthwiseSpec, plan_depthwise
from tinyopt.targets.kernels.mve.depthwise_rows import PAIR_ROWS
from tinyopt.targets.kernels.mve.depthwise_tiles import KINDS
from tinyopt.targets.kernels.mve.elementwise import AddSpec, MultiplySpec, plan_add, plan_lookup, plan_multiply
from tinyopt.targets.kernels.mve.movement import plan_concat, plan_pad, plan_slice
from tinyopt.targets.kernels.mve.pool import plan_average_pool, plan_max_pool, plan_reduce_sum

SAME = (1, 1, 1, 1)


def depthwise_cases(make: CaseMaker) -> Iterator[Case]:
    def case(
        image: tuple[int, int, int],
        window: tuple[int, int],
        strides: tuple[int, int],
        *pads: int,
        dilations: tuple[int, int] = (1, 1),
        **options: int,
    ) -> Case:
        around = (pads[0], pads[1], pads[2], pads[3])
        return make.conv(plan_depthwise, image, image[2], window, strides, around, True, dilations, **options)

    for height, width, channels in product((1, 2, 5, 8), (1, 2, 3, 7), (2, 8, 11, 16, 19)):
        yield case((height, width, channels), (3, 3), (1, 1), *SAME)
    for height, width, channels, stride in product((3, 6, 9), (3, 8, 11), (3, 16, 20), (1, 2, 3)):
        yield case((height, width, channels), (3, 3), (2, stride), *SAME)
    for window, pads in product(
        ((1, 1), (2, 3), (3, 1), (1, 2)), ((0, 0, 0, 0), (1, 0, 0, 1), (0, 2, 1, 0), (2, 1, 2, 3))
    ):
        yield case((6, 7, 9), window, (1, 1), *pads)
    for window, pads in product(((4, 4), (1, 4), (4, 1), (2, 2)), ((0, 0, 0, 0), (1, 0, 0, 1), (3, 2, 1, 3))):
        yield case((9, 12, 9), window, (2, 2), *pads)
    for window, strides in product(((5, 5), (1, 9), (7, 2), (4, 4)), ((1, 1), (2, 2), (1, 3), (3, 1))):
        yield case((11, 12, 18), window, strides, *SAME)
        yield case((1, 30, 4), window, strides, 4, 2, 4, 3)
    yield case((9, 9, 5), (3, 3), (1, 1), *SAME, dilations=(2, 3))
    yield case((9, 9, 5), (3, 3), (2, 2), *SAME, dilations=(3, 1))
    yield case((9, 12, 17), (5, 4), (1, 1), *SAME, shift=30, low=-60, high=50)
    yield case((25, 5, 64), (3, 3), (1, 1), *SAME)
    yield case((20, 48, 8), (3, 3), (1, 1), *SAME)
    yield case((12, 48, 16), (3, 3), (2, 2), 0, 0, 1, 1)
    for low, high, shift, stride in product((-128, -5), (127, 60), (32, 30), (1, 2)):
        yield case((6, 6, 20), (3, 3), (stride, stride), *SAME, low=low, high=high, shift=shift)


def add_cases(make: CaseMaker) -> Iterator[Case]:
    for shift, (low, high), size in product(
        (12, 17, 20, 24), ((-128, 127), (-20, 99)), (1, 2, 5, 8, 10, 11, 16, 19, 32, 70)
    ):
        attributes: dict[str, Attribute] = {"shift": shift, "low": low, "high": high}
        attributes |= {
            "multiplier_a": round(0.7 * 2 ** min(shift, 21)),
            "multiplier_b": -round(0.9 * 2 ** min(shift, 21)),
        }
        yield make.add(plan_add, ((1, 1, size, 3),) * 2, attributes)


def multiply_cases(make: CaseMaker) -> Iterator[Case]:
    for shift, (low, high), size in product((32, 29, 20), ((-128, 127), (-20, 99)), (1, 2, 3, 5, 7, 8, 11, 16, 21, 30)):
        scale: dict[str, Attribute] = {"multiplier": round(0.01 * 2**shift), "shift": shift, "low": low, "high": high}
        yield make.binary("QMul", plan_multiply, ((1, 1, size, 3),) * 2, scale)


def lookup_cases(make: CaseMaker) -> Iterator[Case]:
    for size in range(1, 66):
        table = Value.of("table", make.levels((256,)))
        yield make.unary("QLookup", plan_lookup, (1, size, 11), {}, table)


def pool_cases(make: CaseMaker) -> Iterator[Case]:
    rounding = {"shift": 32, "low": -128, "high": 120}
    windows = (
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((3, 2), (1, 1), (0, 1, 2, 0)),
        ((3, 3), (1, 1), (1, 1, 1, 1)),
        ((1, 5), (1, 3), (0, 2, 0, 2)),
        ((9, 8), (1, 1), (0, 0, 0, 0)),
        ((7, 8), (1, 1), (0, 0, 0, 0)),
    )
    for (kernel, strides, pads), channels in product(windows, (1, 3, 4, 8, 13, 15, 16, 17, 32, 40)):
        window: dict[str, Attribute] = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": (1, 1)}
        yield make.unary("MaxPool", plan_max_pool, (1, 9, 8, channels), {**window, "layout": "NHWC"})
        yield make.unary(
            "QAveragePool", plan_average_pool, (1, 9, 8, channels), {**window, **rounding}, _factors(32, 5)
        )
        small = {**rounding, "shift": 24, "low": -50}
        yield make.unary("QAveragePool", plan_average_pool, (1, 9, 8, channels), {**window, **small}, _factors(24, 3))
    window = {"kernel": (3, 3), "strides": (1, 1), "pads": SAME, "dilations": (1, 1)}
    cells = _factors(32, 4, 6, 4, 6, 9, 6, 4, 6, 4)
    yield make.unary("QAveragePool", plan_average_pool, (1, 3, 3, 8), {**window, **rounding}, cells)
    for shape, keepdims in product(((1, 5, 6, 8), (1, 3, 1, 17), (1, 17, 18, 3)), (0, 1)):
        total: dict[str, Attribute] = {**rounding, "axes": (1, 2), "keepdims": keepdims, "multiplier": 2**25}
        yield make.unary("QReduceSum", plan_reduce_sum, shape, total)
    window = {"kernel": (20, 21), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    yield make.unary("QAveragePool", plan_average_pool, (1, 20, 21, 9), {**window, **rounding}, _factors(32, 60))


def movement_cases(make: CaseMaker) -> Iterator[Case]:
    def case(op: str, planner: KernelPlanner, shapes: list[tuple[int, ...]], attributes: dict[str, Attribute]) -> Case:
        inputs = [make.activation(f"x{n}", shape, 3) for n, shape in enumerate(shapes)]
        node = Node(op, "node", list(inputs), [], attributes)
        node.outputs = [make.activation(f"y{n}", t.shape, 3) for n, t in enumerate(OPERATORS[op].infer(node))]
        return make.case(node, planner)

    for axis in range(4):
        shapes = [tuple(5 + n if place == axis else size for place, size in enumerate((1, 4, 3, 7))) for n in range(3)]
        yield case("Concat", plan_concat, shapes, {"axis": axis})
    for channels in (1, 16, 21):
        pads: dict[str, Attribute] = {"pads": (0, 1, 2, 0, 0, 2, 1, 0), "mode": "constant", "value": -7.0}
        yield case("Pad", plan_pad, [(1, 4, 5, channels)], pads)
        part: dict[str, Attribute] = {"starts": (0, 1, 2, 0), "steps": (1, 1, 1, 1), "sizes": (1, 3, 2, channels)}
        yield case("Slice", plan_slice, [(1, 6, 5, channels)], part)


def test_a_pad_between_channels_of_a_part_of_the_image_is_refused() -> None:
    x = CaseMaker(1).activation("x", (1, 4, 5, 3), 3)
    pads: dict[str, Attribute] = {"pads": (0, 1, 2, 1, 0, 2, 1, 1), "mode": "constant", "value": 3.0}
    node = Node("Pad", "node", [x], [], pads)
    node.outputs = [CaseMaker(1).activation("y", OPERATORS["Pad"].infer(node)[0].shape, 3)]
    assert isinstance(plan_pad(node), Refusal)


def _factors(shift: int, *cells: int) -> Value:
    return Value.of("multiplier", np.array([round(2.0 ** (shift - 1) / count) for count in cells], np.int32))


def elementwise_cases(make: CaseMaker) -> Iterator[Case]:
    return chain(add_cases(make), multiply_cases(make), lookup_cases(make))


FAMILIES: dict[str, Callable[[CaseMaker], Iterator[Case]]] = {
    "depthwise": depthwise_cases,
    "elementwise": elementwise_cases,
    "pool": pool_cases,
    "movement": movement_cases,
}


@pytest.mark.parametrize(
    ("window", "stride", "kind", "options"),
    [
        ((3, 3), 1, "square", {}),
        ((3, 3), 2, "row", {"low": -20, "high": 30}),
        ((5, 5), 1, "chunks", {"shift": 30}),
    ],
)
def test_the_meanings_of_the_depthwise_micro_kernels_make_a_convolution(
    window: tuple[int, int], stride: int, kind: str, options: dict[str, int]
) -> None:
    around = (1, 1, 1, 1)
    case = CaseMaker(5).conv(plan_depthwise, (5, 6, 3), 3, window, (stride, stride), around, True, (1, 1), **options)
    spec = case.kernel.spec
    assert isinstance(spec, DepthwiseSpec)
    taps, factors, settings, numbers = (a.array for a in case.kernel.arguments if isinstance(a, ConstantArgument))
    n = dict(zip(PARAMETERS, numbers.tolist(), strict=True))
    assert n["blocks"] == 1
    assert KINDS[n["kind"]] == kind
    scratch = np.full(n["places"], n["filler"], np.int8)
    x, y = present(case.arrays[0]).reshape(-1), np.zeros(case.node.output.type.elements, np.int8)
    slots = (n["bands"] - 1) * n["advance"] + n["span"]
    PAIR_ROWS.meaning(x, scratch, scratch[n["first_cell"] :], -n["top"], slots, numbers, 3)
    for number, bands in enumerate((range(n["whole_bands"]), range(n["whole_bands"], n["bands"]))):
        columns = [min(tile * n["tile_columns"], n["last_column"]) for tile in range(n["tiles"])]
        cells = [
            (16 + band * n["advance"] * n["slot_bytes"], column * n["column_bytes"])
            for band in bands
            for column in columns
        ]
        outputs = [band * n["band_bytes"] + column * 3 for band in bands for column in columns]
        places = [(scratch[sum(cell) :], output) for cell, output in zip(cells, outputs, strict=True)]
        setting = settings[number * n["setting_bytes"] :][: n["setting_bytes"]]
        more = (None, n["chunks"]) if kind == "chunks" else ()
        if places:
            spec.tiles.meaning(
                places,
                setting,
                taps.reshape(-1),
                factors.reshape(-1),
                y,
                len(places),
                3,
                numbers[PARAMETERS.index("zero_point") :],
                *more,
            )
    assert y.tolist() == OPERATORS["QConv"].evaluate(case.node, case.arrays)[0].reshape(-1).tolist()


def test_the_meanings_of_the_loops_over_elements_are_the_operators() -> None:
    make = CaseMaker(6)
    for case in [next(add_cases(make)), list(add_cases(make))[-1], *list(multiply_cases(make))[::9]]:
        spec = case.kernel.spec
        assert isinstance(spec, AddSpec | MultiplySpec)
        (parameters,) = (a.array for a in case.kernel.arguments if isinstance(a, ConstantArgument))
        y = np.zeros(case.node.output.type.elements, np.int8)
        spec.loop.meaning(*(present(array).reshape(-1) for array in case.arrays), y, parameters)
        assert y.tolist() == OPERATORS[case.node.op].evaluate(case.node, case.arrays)[0].reshape(-1).tolist()


def present(array: Array | None) -> Array:
    assert array is not None
    return array


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_the_bits_of_the_references_and_write_nowhere_else(family: str, tmp_path: Path) -> None:
    require_tools()
    cases = list(FAMILIES[family](CaseMaker(7)))
    assert len(cases) >= 200 or family == "movement"
    assert run_cases(cases, tmp_path, machine=M55) == ""


@pytest.mark.qemu
@pytest.mark.parametrize(("compiler", "level"), [(GCC, "-O3"), (CLANG, "-O2"), (CLANG, "-O3"), (CLANG, "-O0")])
def test_every_compiler_gives_the_same_bits(compiler: str, level: str, tmp_path: Path) -> None:
    require_tools(compiler)
    cases = [case for family in FAMILIES.values() for case in list(family(CaseMaker(8)))[::9]]
    flags = [level if flag == "-O2" else flag for flag in FLAGS]
    assert run_cases(cases, tmp_path, machine=M55, compiler=compiler, flags=flags) == ""
