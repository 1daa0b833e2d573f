"""How the tool for docs/inner-loops.md finds a loop, counts its products and reads what llvm-mca says."""

from __future__ import annotations

import re

import pytest

from tinyopt.targets import target_named
from tools.inner_loops import CPUS, LAYERS, PRODUCTS, InnerLoop, Instruction, inner_loop, kernel_of, resource_pressure

NESTED = """\
10 ldr q0, [x0]
14 ldr q1, [x1], #16
18 sdot v2.4s, v0.16b, v1.16b
1c subs x3, x3, #0x1
20 b.ne 14 <kernel+0x4>
24 smull v3.2d, v2.2s, v4.2s
28 cbnz x5, 10 <kernel>
2c b.eq 34 <kernel+0x24>
30 b 10 <kernel>
34 ret"""
REPORT = """\
Resources:
[0]   - A57UnitL
[1.0] - A57UnitI
[1.1] - A57UnitI

Resource pressure per iteration:
[0]    [1.0]  [1.1]
2.00   0.50   1.50

"""


def test_the_loop_without_a_loop_inside_is_the_inner_one() -> None:
    lines = re.findall(r"(\w+) (\S+) ?(.*)", NESTED)
    function = [Instruction(int(address, 16), mnemonic, operands) for address, mnemonic, operands in lines]
    loop = inner_loop(function)
    assert [instruction.address for instruction in loop] == [0x14, 0x18, 0x1C, 0x20]
    assert sum(instruction.products for instruction in loop) == PRODUCTS["sdot"]["4s"]


def test_the_products_of_a_requantization_do_not_count() -> None:
    assert Instruction(0, "smull", "v3.2d, v2.2s, v4.2s").products == 0
    assert Instruction(0, "smlal2", "v3.8h, v2.16b, v4.16b").products == 8


def test_units_of_one_kind_share_their_work() -> None:
    assert resource_pressure(REPORT) == {"L": 2.0, "I": 1.0}


@pytest.mark.parametrize("entry", LAYERS, ids=str)
def test_every_row_of_the_table_has_the_same_kernel_on_both_cpus(entry: InnerLoop) -> None:
    names = {kernel_of(entry, target_named(targets[entry.level])).name for targets in CPUS.values()}
    assert len(names) == 1
