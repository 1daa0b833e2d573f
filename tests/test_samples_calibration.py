"""Calibration samples with labels: where they come from, that they stay beside their samples, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.digits import MODEL
from tinyopt.api import compile_model
from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.ir import TensorType, Value
from tinyopt.options import CompileOptions
from tinyopt.samples import fingerprint, load_calibration_set, load_samples

FEATURES = Value("features", TensorType("float32", (1, 4)))
PICTURE = Value("image", TensorType("float32", (1, 6, 5, 3)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.savez(path, x=rows, y=np.array([2, 0, 1, 1, 0]), high=np.array([0, 1, 3, 1, 0]), short=np.array([1, 2]))
    return path


def test_labels_stay_beside_their_samples_and_change_nothing_about_them(file: Path) -> None:
    found = load_calibration_set(f"{file}:x,y", [FEATURES], 3, limit=3)
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, 1]
    assert fingerprint(found.samples) == fingerprint(load_samples(f"{file}:x", [FEATURES], limit=3))
    named = load_calibration_set([f"features={file}:x,y"], [FEATURES], 3)
    assert named.labels is not None
    assert named.labels.tolist() == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("source", ["data.npz:x", "random"])
def test_samples_alone_have_no_labels(file: Path, source: str) -> None:
    spec = source if source == "random" else str(file.parent / source)
    assert load_calibration_set(spec, [FEATURES], 3).labels is None


def test_labels_that_do_not_fit_are_refused_with_the_reason(file: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"data\.npz: sample 2 is labelled 3; the model's classes are 0 to 2"):
        load_calibration_set(f"{file}:x,high", [FEATURES], 3)
    with pytest.raises(InvalidModelError, match="'short' has 2 labels for the 5 samples of 'x'"):
        load_calibration_set(f"{file}:x,short", [FEATURES], 3)
    with pytest.raises(UsageError, match="no array 'z'"):
        load_calibration_set(f"{file}:x,z", [FEATURES], 3)
    with pytest.raises(UsageError, match="names 2 arrays"):
        load_calibration_set([f"features={file}:x,y", f"other={file}:x"], [FEATURES, Value("other", FEATURES.type)], 3)


def test_folders_are_classes_only_where_the_model_has_as_many(tmp_path: Path) -> None:
    for name, level in (("dog", 9), ("ant", 5), ("cat", 7)):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(tmp_path / name / f"{number}.png")
    found = load_calibration_set(str(tmp_path), [PICTURE], 3, limit=6)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.note == "calibration pictures are of classes 0 to 2 by the order of folders: ant, cat, dog"
    others = load_calibration_set(str(tmp_path), [PICTURE], 10, limit=6)
    assert others.labels is None
    assert others.note == (
        "calibration pictures have no labels: there are 3 folders (ant, cat, dog) and the model has 10 classes"
    )
    assert fingerprint(found.samples) == fingerprint(others.samples)


def test_the_report_says_that_there_were_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.random((6, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows, y=np.arange(6))
    with_labels, without = (
        compile_model(MODEL, tmp_path / name, CompileOptions("c", calibration=f"{tmp_path / 'data.npz'}:{arrays}"))
        for name, arrays in (("with", "x,y"), ("without", "x"))
    )
    assert len(with_labels.report["calibration"]["labels_sha256"]) == 64
    assert "labels_sha256" not in without.report["calibration"]
    assert with_labels.report["calibration"]["sha256"] == without.report["calibration"]["sha256"]
