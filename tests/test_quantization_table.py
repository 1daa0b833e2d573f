"""The table of quantization methods: its figures are what they say, and one command makes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.digits import EXAMPLES
from tools.measured.scores import Answers, Yardstick
from tools.quantization import main
from tools.quantization_table.bars import verdicts
from tools.quantization_table.measuring import COMPILED
from tools.quantization_table.methods import methods
from tools.quantization_table.page import page
from tools.quantization_table.rows import Row


def test_figures_of_two_samples_are_those_computed_by_hand() -> None:
    reference = Answers(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([[3.0, 1.0], [0.0, 0.0]]))
    found = Answers(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([[3.0, 1.0], [0.1, 0.0]]))
    score = Yardstick(reference, np.array([0, 0])).score(found)
    assert score.snr_db == pytest.approx(10 * np.log10(1.2 / 0.08))
    assert score.logits_snr_db == pytest.approx(30.0)
    assert (score.agreement, score.top1, score.samples) == (50.0, 100.0, 2)


def test_every_row_has_a_name_of_its_own() -> None:
    names = [(method.group, method.name) for method in methods()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("differing", "top1", "passes"), [(1, 90.0 - 100 / 64, True), (2, 90.0, False), (0, 88.0, False)]
)
def test_one_of_64_photographs_may_be_seen_otherwise(differing: int, top1: float, passes: bool) -> None:
    exact = Row("vww01", "Float", "float", 64, top1=90.0)
    found = Row("vww01", "Step by step", "default", 64, 33.5, None, 100 - 100 * differing / 64, top1)
    assert all(verdict.passes for verdict in verdicts([exact, found])) == passes


@pytest.mark.slow
def test_the_table_of_the_example_is_measured_and_written_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    folders = ["--models", str(EXAMPLES), "--data", str(EXAMPLES), "--model", "digits"]
    assert main([*folders, "--quick", "--json", str(file)]) == 0
    rows = [Row(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    found = {row.method: row for row in rows}
    assert list(found) == ["float", "minmax", "auto", "default", COMPILED]
    graph, compiled = found["default"], found[COMPILED]
    assert graph.snr_db is not None
    assert compiled.snr_db == pytest.approx(graph.snr_db, abs=1.0), "the library is not the graph that was measured"
    assert graph.snr_db > (found["minmax"].snr_db or 0.0)
    assert f"| Ranges alone | minmax | {found['minmax'].snr_db:.2f} |" in page(rows, "")
