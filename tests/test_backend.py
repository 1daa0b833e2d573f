"""The onnx package's backend tests through the target host: a sample of them, or all with `--full-backend`.

Each case is compiled and run. What is refused stands in backend_expected.toml with its reason; what is not refused
must be right.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tools.backend_tests.cases import BackendCase
from tools.backend_tests.expectations import surprises
from tools.backend_tests.guard import Guarded, Lost
from tools.backend_tests.running import difference_of
from tools.backend_tests.suite import run_cases

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = 250  # of about 2,000, the same ones in every run


def test_the_backend_tests_pass_or_are_refused_as_expected(pytestconfig: pytest.Config) -> None:
    """In a process of its own: a fork of this one, which has threads by now, would not always come to life."""
    which = () if pytestconfig.getoption("full_backend") else ("--sample", str(SAMPLE))
    command = [sys.executable, "-m", "tools.backend_tests", *which]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _case(name: str, expected: float, shape: tuple[int, ...] = (2,)) -> BackendCase:
    x, y = (helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape) for tensor in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = [([np.ones(shape, np.float32)], [np.full(shape, expected, np.float32)])]
    return BackendCase(name, "float32", model, data, 1e-3, 1e-7)


def test_a_wrong_answer_is_seen_and_is_never_expected() -> None:
    cases = [_case("right", -1), _case("wrong", 1), _case("empty", -1, (0,))]
    outcomes = run_cases(cases, None)
    assert [outcome.kind for outcome in outcomes] == ["pass", "wrong", "refused"]
    said = surprises(cases, outcomes, {"wrong": "it is wrong", "right": "it is refused"})
    assert [line.split()[:2] for line in said] == [["right", "passes:"], ["wrong:", "wrong:"], ["empty", "is"]]


def test_a_case_that_ends_its_process_or_never_ends_costs_itself_only() -> None:
    def work(item: str) -> str:
        if item == "dies":
            import os

            os._exit(3)
        while item == "hangs":
            pass
        return item

    results = Guarded(work, 1.0)(["one", "dies", "two", "hangs", "three"])
    assert results == ["one", Lost("crash", "the process ended with code 3"), "two", results[3], "three"]
    assert isinstance(results[3], Lost)
    assert results[3].how == "hang"


@pytest.mark.parametrize(
    ("got", "wanted", "is_same"),
    [
        (np.array([1, np.nan], np.float32), np.array([1.0005, np.nan], np.float32), True),
        (np.array([1, 2], np.float32), np.array([1, 2.01], np.float32), False),
        (np.array([1000], np.int32), np.array([1001], np.int32), False),
        (np.array([1], np.int32), np.array([1], np.int64), False),
        (np.array([1], np.float32), np.array([[1]], np.float32), False),
    ],
)
def test_outputs_are_compared_by_type_shape_and_tolerance(got: object, wanted: object, is_same: bool) -> None:
    assert (difference_of(np.asarray(got), np.asarray(wanted), 1e-3, 1e-7) == "") == is_same
