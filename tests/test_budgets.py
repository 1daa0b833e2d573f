"""Limits of flash, RAM and instructions: kept to the byte, and what is missed is told with what would help."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.digits import CALIBRATION, MODEL, compiled_digits, options_for
from tests.test_cli import assert_refused, tinyopt
from tinyopt.api import compile_model
from tinyopt.errors import BudgetError

OPTIONS = ("--calib", CALIBRATION, "--calib-samples", "20")


def test_the_arena_is_kept_to_the_byte_and_every_limit_that_is_missed_is_told(tmp_path: Path) -> None:
    after = json.loads((compiled_digits("c") / "report.json").read_text())["after"]
    arena, constants = after["arena_bytes"], after["flash_constant_bytes"]
    fits = replace(options_for("c"), max_ram=arena, max_flash=1 << 20)
    assert compile_model(MODEL, tmp_path / "fits", fits).report["after"] == after
    missed = ("--max-ram", str(arena - 1), "--max-flash", str(constants // 2))
    done = tinyopt("compile", MODEL, "-t", "c", *OPTIONS, *missed, "-o", tmp_path / "out")
    assert_refused(
        done, 5, f"{arena:,} B of RAM, 1 more than", "--prune-to ram=", "--cluster 32 saves up to", "of flash"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.qemu
def test_instructions_are_counted_where_the_target_is_emulated(tmp_path: Path) -> None:
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("no emulator or compiler for Cortex-M")
    options = options_for("cortex-m4")
    with pytest.raises(BudgetError, match=r"counted under QEMU.*--prune") as refused:
        compile_model(MODEL, tmp_path / "out", replace(options, max_cycles=1000))
    counted = re.search(r"takes ([\d,]+) instructions", str(refused.value))
    assert counted is not None
    needed = int(counted[1].replace(",", ""))
    compile_model(MODEL, tmp_path / "fits", replace(options, max_cycles=needed))
    with pytest.raises(BudgetError, match=" 1 more than"):
        compile_model(MODEL, tmp_path / "out", replace(options, max_cycles=needed - 1))


def test_instructions_are_estimated_where_nothing_counts_them(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"estimated.*--max-cycles"):
        compile_model(MODEL, tmp_path / "out", replace(options_for("c"), max_cycles=1))
