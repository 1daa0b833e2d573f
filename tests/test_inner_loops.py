"""How the tool for docs/inner-loops.md finds a loop, counts its products and reads what llvm-mca says."""

from __future__ import annotations

import re

import pytest

from tinyopt.errors import TinyoptError
from tinyopt.targets import target_named
from tools.inner_loop_analysis import (
    PRODUCTS,
    Instruction,
    product_loop,
    products_of,
    resource_pressure,
    stored_vectors_of,
    transform_loops,
)
from tools.inner_loops import CPUS, LAYERS, InnerLoop, kernel_of

NESTED = """\
10 ldr q0, [x0]
14 ldr q1, [x1], #16
16 tbl v1.16b, {v1.16b}, v5.16b
18 sdot v2.4s, v0.16b, v1.16b
1c subs x3, x3, #0x1
20 b.ne 14 <kernel+0x4>
24 smull v3.2d, v2.2s, v4.2s
28 cbnz x5, 10 <kernel>
2c b.eq 34 <kernel+0x24>
30 b 10 <kernel>
34 ret"""
WINOGRAD = """\
10 stp q0, q1, [x0]
14 b.ne 10 <kernel>
18 fsub v2.4s, v0.4s, v1.4s
1c stp q0, q1, [x0]
20 stur q2, [x0, #32]
24 str q2, [sp, #16]
28 b.ne 18 <kernel+0x8>
2c fmla v2.4s, v0.4s, v1.s[0]
30 b.ne 2c <kernel+0x1c>
34 fsub v2.4s, v0.4s, v1.4s
38 str q2, [x0, #32]
3c b.ne 34 <kernel+0x24>"""
REPORT = """\
Resources:
[0]   - A57UnitL
[1.0] - A57UnitI
[1.1] - A57UnitI

Resource pressure per iteration:
[0]    [1.0]  [1.1]
2.00   0.50   1.50

"""


def parsed(text: str) -> list[Instruction]:
    lines = re.findall(r"(\w+) (\S+) ?(.*)", text)
    return [Instruction(int(address, 16), mnemonic, operands) for address, mnemonic, operands in lines]


def test_the_loop_without_a_loop_inside_is_the_inner_one() -> None:
    loop = product_loop(parsed(NESTED))
    assert [instruction.address for instruction in loop] == [0x14, 0x16, 0x18, 0x1C, 0x20]
    assert products_of(loop) == PRODUCTS["sdot"]["4s"]


def test_winograd_s_transforms_are_told_from_copying_and_from_each_other() -> None:
    inputs, outputs = transform_loops(parsed(WINOGRAD))
    assert (inputs[0].address, outputs[0].address) == (0x18, 0x34)
    assert stored_vectors_of(inputs) == 3  # but for the one on the stack
    with pytest.raises(TinyoptError, match="0 transforms before"):
        transform_loops(parsed(WINOGRAD)[7:])


def test_the_products_of_a_requantization_do_not_count() -> None:
    assert Instruction(0, "smull", "v3.2d, v2.2s, v4.2s").products == 0
    assert Instruction(0, "smlal2", "v3.8h, v2.16b, v4.16b").products == 8


def test_units_of_one_kind_share_their_work() -> None:
    assert resource_pressure(REPORT) == ("A57", {"L": 2.0, "I": 1.0})


@pytest.mark.parametrize("entry", LAYERS, ids=str)
def test_every_row_of_the_table_has_the_same_kernel_on_both_cpus(entry: InnerLoop) -> None:
    names = {kernel_of(entry, target_named(targets[entry.level])).name for targets in (cpu.targets for cpu in CPUS)}
    assert len(names) == 1
