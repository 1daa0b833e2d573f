"""The table of compressions: its figures and bars are what they say, and one command makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.digits import EXAMPLES
from tools.compression import main
from tools.compression_table.bars import BARS, saved_share, verdicts
from tools.compression_table.cases import CASES, FLOAT, PLAIN
from tools.compression_table.page import page
from tools.compression_table.rows import Channels, Recovery, Row

EXACT = Row("kws01", FLOAT, 300, top1=90.5)
INT8 = Row("kws01", PLAIN, 300, top1=90.5, differing=0, weight_bytes=28_000, instructions=1_000_000)


def test_every_bar_is_of_a_case_that_is_measured() -> None:
    assert {case for bars in BARS.values() for case in bars} <= {case.name for case in CASES}


@pytest.mark.parametrize(
    ("top1", "instructions", "missed"),
    [
        (90.0, 820_000, []),
        (89.9, 820_000, ["top-1 in %"]),
        (90.0, 821_000, ["instructions saved of those asked for"]),
        (90.0, None, ["instructions saved of those asked for"]),
    ],
)
def test_pruning_may_lose_half_a_point_and_must_save_nine_tenths_of_what_was_asked(
    top1: float, instructions: int | None, missed: list[str]
) -> None:
    row = Row("kws01", "prune 0.2", 300, top1=top1, instructions=instructions)
    found = [verdict for verdict in verdicts([EXACT, INT8, row], [], []) if verdict.method == row.case]
    assert [verdict.what for verdict in found if not verdict.passes] == missed


def test_bytes_of_weights_are_a_limit() -> None:
    for size, passes in ((19_000, True), (19_001, False)):
        row = Row("kws01", "cluster 32", 300, top1=90.5, weight_bytes=size)
        found = [verdict for verdict in verdicts([EXACT, row], [], []) if verdict.what == "bytes of weights"]
        assert [verdict.passes for verdict in found if verdict.method == row.case] == [passes]


def test_what_was_not_measured_does_not_pass() -> None:
    assert not any(verdict.passes for verdict in verdicts([EXACT], [], []))


@pytest.mark.parametrize(
    ("channels", "passes"), [((60, 48), True), ((56, 48), True), ((52, 48), False), ((60,), False)]
)
def test_the_hybrid_model_is_pruned_as_its_twin_give_or_take_a_lane(channels: tuple[int, ...], passes: bool) -> None:
    twin = Channels("kws01", "prune 0.2", (64, 64), (60, 48), 4)
    hybrid = Channels("kws01_hybrid", "prune 0.2", (64, 64), channels, 4)
    (verdict,) = verdicts([], [twin, hybrid], [])
    assert verdict.passes == passes


def test_the_refit_must_make_the_error_five_times_smaller() -> None:
    without = Recovery("mobilenetv2", "prune 0.2, not recovered", 8, 10, 0.5, 1.0)
    for error, passes in ((0.1, True), (0.101, False)):
        (verdict,) = verdicts([], [], [without, Recovery("mobilenetv2", "prune 0.2", 8, 10, error, 2.0)])
        assert verdict.passes == passes


def test_the_share_of_what_was_asked_is_of_the_plain_model_s_instructions() -> None:
    assert saved_share(Row("kws01", "prune 0.2", 300, instructions=750_000), INT8) == pytest.approx(1.25)
    for clustered in ("cluster 32", "prune 0.2, cluster 32"):
        assert saved_share(Row("kws01", clustered, 300, instructions=750_000), INT8) is None


def test_a_page_says_what_was_saved_and_what_failed() -> None:
    pruned = Row("kws01", "prune 0.2", 300, 90.25, 3, 25.5, 22_000, 2_000_000, 780_000, 9_000, 31.0)
    failed = Row("kws01", "cluster 16", 300, failure="the library does not fit")
    text = page([EXACT, INT8, pruned, failed], [], [], "v1")
    assert "| prune 0.2 | 90.25 | -0.25 | 3 | 25.5 | 22,000 | 2,000,000 | 780,000 | -22.0 % | 1.10 | 31 |" in text
    assert "failed: the library does not fit" in text


@pytest.mark.slow
@pytest.mark.qemu
def test_the_table_of_the_example_is_measured_and_written_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    folders = ["--models", str(EXAMPLES), "--data", str(EXAMPLES), "--model", "digits"]
    assert main([*folders, "--case", "prune 0.2", "--json", str(file)]) == 0
    rows = [Row(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    assert [row.case for row in rows] == [FLOAT, PLAIN, "prune 0.2"]
    share = saved_share(rows[2], rows[1])
    assert share is not None
    assert 0.9 <= share < 1.5
    assert main(["--from", str(file)]) == 0
