"""The example of a user's own pass, installed as a user would, appears wherever passes appear."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.digits import CALIBRATION, MODEL
from tinyopt.report.html.build import read_page

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "custom_pass"
NAME = "zero-small-weights"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A place where the example is installed, on the search path of the commands that run there."""

    site: Path
    work: Path

    def tinyopt(self, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.site), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "tinyopt.cli", *arguments]
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("custom_pass")
    source = shutil.copytree(EXAMPLE, folder / "source")  # a build leaves its own files beside the sources
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        pytest.skip("no pip in this environment")
    assert done.returncode == 0, done.stderr
    (folder / "work").mkdir()
    return Installed(folder / "site", folder / "work")


def test_it_is_listed_with_its_documentation_before_weights_are_clustered_and_quantized(installed: Installed) -> None:
    names = [step["name"] for step in json.loads(installed.tinyopt("passes", "--json"))]
    assert names.index(NAME) + 1 == names.index("cluster-weights")
    assert f"--set {NAME}.share=0.01" in installed.tinyopt("passes", NAME)


def test_it_runs_and_shows_in_the_diff_the_report_and_the_folder_of_passes(installed: Installed) -> None:
    options = ["--target", "c", "--calib", CALIBRATION, "--calib-samples", "20", "--set", f"{NAME}.share=0.02"]
    text = installed.tinyopt("compile", str(MODEL), *options, "-o", "out", "--print-changed")
    report = json.loads((installed.work / "out" / "report.json").read_text())
    (step,) = [step for step in report["passes"] if step["name"] == NAME]
    assert (step["is_changed"], step["options"]) == (True, {"share": 0.02})
    assert step["drift"]["max_abs"] > 0
    assert any("weights are zero now" in remark["message"] for remark in step["remarks"])
    number = 1 + report["passes"].index(step)
    page = read_page(installed.work / "out" / "report.html")
    assert page["stage_views"][number] is not None  # a tile with a drawing of its own
    assert page["report"]["passes"][number - 1]["remarks"] == step["remarks"]
    assert f"*** {number:02d} {NAME}: " in text
    assert (installed.work / "out" / "passes" / f"{number:02d}-{NAME}.onnx").is_file()


def test_it_can_be_left_out_by_name(installed: Installed) -> None:
    names = [step["name"] for step in json.loads(installed.tinyopt("passes", "--json"))]
    kept = installed.tinyopt("compile", str(MODEL), "--print-passes", "--json", "--disable-pass", NAME)
    asked_for = ("distill", "convert-to-float16")  # by --recover and --dtype
    assert [step["name"] for step in json.loads(kept)] == [name for name in names if name not in (NAME, *asked_for)]
