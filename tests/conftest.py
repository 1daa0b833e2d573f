"""Shared fixtures: where the larger models and data lie, for the tests that want them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
