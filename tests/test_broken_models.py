"""A sample of the broken models of `tools/broken_models.py`, and what must not be refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import import import_model
from tools.broken.case import MODEL
from tools.broken.flips import whole_models
from tools.broken_models import write_case

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are set on Linux only")


def test_a_sample_of_the_broken_models_is_refused_as_it_should_be() -> None:
    command = [sys.executable, "tools/broken_models.py", "--forked", "--every", "23"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_models_whose_bits_are_flipped_are_whole(tmp_path: Path) -> None:
    for name, files in whole_models().items():
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        assert import_model(folder / MODEL, {}).graph.nodes


def test_flipped_bits_end_in_a_plan_or_a_refusal() -> None:
    command = [sys.executable, "tools/broken_models.py", "--flips", "60", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_functions_are_counted_before_they_are_expanded(tmp_path: Path) -> None:
    from tools.broken.graphs import graph_cases

    cases = {case.name: case for case in graph_cases()}
    for name, reason in {
        "functions-8-to-the-99": "nodes and more than",
        "functions-5000-deep": "more than 100 levels deep",
        "functions-call-each-other": "calls itself",
    }.items():
        write_case(cases[name], tmp_path / name)
        with pytest.raises(InvalidModelError, match=reason):
            import_model(tmp_path / name / MODEL, {})
