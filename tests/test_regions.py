"""Memory regions: the hot buffers lie in the fast one, nothing lies outside, and what does not fit is said so."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.arena_machine import run_in_arena
from tests.digits import CALIBRATION, MODEL, SAMPLES
from tests.graph_builder import outputs_of, random_inputs
from tests.test_artifact import M4, STRICT, must, need, run
from tests.test_lowering import OVERLAPS, kernel_with, random_graph
from tests.test_memory_plan import random_buffers, random_meetings
from tinyopt.cli import main
from tinyopt.errors import BudgetError
from tinyopt.lowering import lower as lowering
from tinyopt.lowering.regions import place_in_regions
from tinyopt.memory_plan import BufferLifetime
from tinyopt.options import MemoryRegion
from tinyopt.targets.portable_c import PORTABLE_C

FAST, SLOW = MemoryRegion("fast", 64), MemoryRegion("slow", 4096)


def always(name: str, size: int) -> BufferLifetime:
    return BufferLifetime(name, size, 0, 1)


def test_what_is_used_most_for_its_size_lies_in_the_fast_region() -> None:
    buffers = [always("large", 1000), always("cool", 64), always("hot", 48), always("small", 16)]
    places = place_in_regions(buffers, [], [1000.0, 64.0, 480.0, 32.0], [FAST, SLOW])
    assert [region for region, _ in places] == [1, 1, 0, 0]


def test_buffers_of_different_times_share_the_fast_region() -> None:
    buffers = [BufferLifetime(f"b{i}", 64, i, i) for i in range(4)]
    assert place_in_regions(buffers, [], [1.0] * 4, [FAST, SLOW]) == [(0, 0)] * 4


@pytest.mark.parametrize("seed", range(30))
def test_no_region_is_larger_than_it_is_and_nothing_that_lives_together_overlaps(seed: int) -> None:
    buffers, generator = random_buffers(seed), random.Random(seed)
    memory = [MemoryRegion("a", 500), MemoryRegion("b", 1700), MemoryRegion("c", 20000)]
    meetings = random_meetings(buffers, seed)
    met = {(m.later, m.earlier) for m in meetings}
    places = place_in_regions(buffers, meetings, [generator.uniform(0, 9) * b.bytes for b in buffers], memory)
    for buffer, (region, offset) in zip(buffers, places, strict=True):
        assert offset % 16 == 0
        assert offset + buffer.bytes <= memory[region].bytes
    for (i, a), (j, b) in combinations(enumerate(buffers), 2):
        (region, at), (other, bt) = places[i], places[j]
        is_apart = region != other or at + a.bytes <= bt or bt + b.bytes <= at
        assert is_apart or not a.overlaps(b) or {(i, j), (j, i)} & met


def test_a_model_that_does_not_fit_says_by_how_much() -> None:
    buffers = [always("image", 4000), always("features", 300), always("tiny", 64)]
    with pytest.raises(BudgetError) as caught:
        place_in_regions(buffers, [], [1.0, 1.0, 99.0], [FAST, SLOW])
    assert "does not fit fast=64, slow=4096: slow would have to be 4304 bytes, 208 more" in str(caught.value)
    assert "one region of 4368 bytes holds everything; the largest buffer is 'image' of 4000 bytes" in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_keep_every_value_in_two_regions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "compile_kernels", lambda requests, *_: {request.key: b"" for request in requests})
    relu = {"Relu": (kernel_with(OVERLAPS[seed % len(OVERLAPS)]),)}
    target = replace(PORTABLE_C, kernels={**PORTABLE_C.kernels, **relu})
    memory = (MemoryRegion("fast", 256), MemoryRegion("slow", 4096))
    program = lowering.lower(random_graph(seed), target, None, lambda _done, _total: None, memory)
    inputs = random_inputs(program.graph)
    for expected, got in zip(outputs_of(program.graph, inputs), run_in_arena(program, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert program.arena_bytes == sum(region.bytes for region in program.regions)


def compiled(folder: Path, target: str, memory: str) -> Path:
    arguments = ["compile", str(MODEL), "-t", target, "--calib", CALIBRATION, "-o", str(folder), "-q", "--mem", memory]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.stderr
    return folder


def test_the_self_test_passes_with_regions_where_their_macros_put_them(tmp_path: Path) -> None:
    need("gcc")
    out = compiled(tmp_path / "out", "c", "tcm=700,sram=8K")
    program = tmp_path / "self_test"
    section = '-DDIGITS_REGION_TCM=__attribute__((section(".bss.elsewhere")))'
    must(["gcc", *STRICT, section, out / "digits_test.c", out / "digits_weights.c", "-o", program, "-lm"])
    assert run([program]).stdout == "PASS\n"
    used = re.findall(r"DIGITS_REGION_(\w+)_BYTES (\d+)u /\* of (\d+)", (out / "digits.h").read_text())
    assert [(name, int(size) <= int(given)) for name, size, given in used] == [("TCM", True), ("SRAM", True)]
    assert all(int(size) > 100 for _, size, _ in used)


@pytest.mark.qemu
def test_models_with_regions_run_validate_and_profile_on_an_emulated_core(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "qemu-system-arm")
    out = compiled(tmp_path / "out", "cortex-m4", "tcm=700,sram=8K")
    must(["arm-none-eabi-gcc", *M4, *STRICT, "-c", out / "digits_test.c", "-o", tmp_path / "object.o"])
    for command in (["validate", "--data", SAMPLES, "--samples", "2"], ["profile", "--data", SAMPLES]):
        done = CliRunner().invoke(main, [command[0], str(out), *command[1:]])
        assert done.exit_code == 0, done.stderr
    assert "tcm" in (out / "report.txt").read_text()


@pytest.mark.parametrize(
    ("memory", "code", "said"),
    [
        ("tcm=16,sram=64", 5, "error: the model does not fit tcm=16, sram=64: sram would have to be "),
        ("tcm:16", 2, "--mem takes dtcm=64K,sram=256K"),
        ("int=16K", 2, "'int' is no name for a memory region"),
        ("a=16K,a=16K", 2, "two memory regions are called 'a'"),
    ],
)
def test_regions_that_cannot_be_are_refused(memory: str, code: int, said: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compile", str(MODEL), "-t", "c", "--calib", CALIBRATION, "-o", str(out), "--mem", memory]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, out.exists()) == (code, False)
    assert said in done.stderr
