"""Shared fixtures: where the larger models and data lie, for the tests that want them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import sanitizers
from tinyopt.lowering import kernel_cache

_GOLDEN = Path(__file__).resolve().parent / "golden"
_BESIDE = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable, _BESIDE / name))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set {variable} to the MLPerf Tiny {name}")
    return folder


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """The MLPerf Tiny models as ONNX."""
    return _folder("TINYOPT_MODELS", "models")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Calibration and test samples for them."""
    return _folder("TINYOPT_DATA", "data")


@pytest.fixture(scope="session", autouse=True)
def _one_compiler_for_each_process() -> None:
    """The processes of pytest-xdist share the cores already: a second compiler for each would only start TVM again."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        kernel_cache.MAX_WORKERS = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the texts in tests/golden anew")
    parser.addoption("--full-grids", action="store_true", help="run every shape of the kernels' grids, not a sample")
    parser.addoption("--full-commands", action="store_true", help="run the commands of all documentation, not some")
    parser.addoption("--full-backend", action="store_true", help="run all of the onnx package's backend tests")
    parser.addoption("--sanitize", action="store_true", help="compile kernels with gcc's sanitizers")


def pytest_configure(config: pytest.Config) -> None:
    """Under --sanitize pytest is started anew, as sanitizers want it."""
    if not config.getoption("--sanitize"):
        return
    if not sanitizers.are_running():
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.stop_global_capturing()
        sanitizers.restart(config.invocation_params.args)
    else:
        sanitizers.keep_to_this_process()


@pytest.fixture(scope="session")
def is_full_grid(request: pytest.FixtureRequest) -> bool:
    """Whether every shape of the kernels' grids was asked for."""
    return bool(request.config.getoption("--full-grids"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Under --full-grids, what the tests recorded as "grid": family, CPU, shapes, largest error."""
    if not config.getoption("--full-grids"):
        return
    reports = terminalreporter.stats.get("passed", [])
    lines = [str(value) for report in reports for name, value in report.user_properties if name == "grid"]
    if lines:
        terminalreporter.section("grids: shapes, largest error as a share of the largest output")
        terminalreporter.write_line("\n".join(sorted(lines)))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/<name>.txt, or write it there under --update-golden."""

    def compare(name: str, text: str) -> None:
        file = _GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            _GOLDEN.mkdir(exist_ok=True)
            file.write_text(text)
        assert text == file.read_text(), f"{file.name} differs; --update-golden writes it anew"

    return compare
