"""Sample files: what is taken, and that what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyopt.errors import InvalidModelError, TinyoptError, UsageError
from tinyopt.ir import Quantization, TensorType, Value
from tinyopt.samples import load_labelled, load_samples, random_samples, to_input

FLOAT = Value("image", TensorType("float32", (1, 2, 3)))
INT8 = Value("image", TensorType("int8", (1, 2, 3)), quantization=Quantization.per_tensor(0.5, -10))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    broken = pixels.astype(np.float32)
    broken[2, 1, 1] = np.nan
    np.savez(
        path, x=pixels, y=np.array([3, 1, 2, 0], np.uint8), wide=np.zeros((4, 3, 3), np.float32), nan=broken,
        none=np.zeros((0, 2, 3)), text=np.array(["a"] * 4), short=np.array([1, 2]), levels=pixels.astype(np.int8),
    )  # fmt: skip
    return path


def test_images_are_scaled_in_float32_and_get_the_batch_dimension(file: Path) -> None:
    samples = load_samples(f"{file}:x", [FLOAT], mean=4.0, scale=0.25, limit=3)
    assert len(samples) == 3
    assert samples[1]["image"].shape == (1, 2, 3)
    assert samples[1]["image"].dtype == np.float32
    np.testing.assert_array_equal(samples[1]["image"].ravel(), [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
    assert len(list(samples)) == 3


def test_a_quantized_input_takes_its_integers_as_they_are_and_reals_through_its_scale(file: Path) -> None:
    as_they_are = load_samples(f"{file}:levels", [INT8], mean=4.0, scale=0.25)
    np.testing.assert_array_equal(as_they_are[0]["image"].ravel(), [0, 1, 2, 3, 4, 5])
    quantized = load_samples(f"{file}:x", [INT8], mean=1.0, scale=0.5)
    np.testing.assert_array_equal(quantized[0]["image"].ravel(), [-11, -10, -9, -8, -7, -6])
    np.testing.assert_array_equal(to_input(np.full((2, 3), 100.0), INT8), np.full((1, 2, 3), 127))


def test_labels_come_with_their_samples(file: Path) -> None:
    samples, labels = load_labelled(f"{file}:x,y", [FLOAT], limit=2)
    assert len(samples) == 2
    assert labels.tolist() == [3, 1]


def test_npy_files_and_arrays_named_as_the_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((5, 1, 2, 3), np.float32))
    assert len(load_samples(str(tmp_path / "x.npy"), [FLOAT])) == 5
    second = Value("mask", TensorType("bool", (1, 4)))
    np.savez(tmp_path / "two.npz", image=np.ones((5, 2, 3)), mask=np.ones((5, 4), np.int64))
    sample = load_samples(str(tmp_path / "two.npz"), [FLOAT, second])[4]
    assert sample["mask"].dtype == np.bool_
    np.savez(tmp_path / "uneven.npz", image=np.ones((5, 2, 3)), mask=np.ones((3, 4), np.int64))
    with pytest.raises(InvalidModelError, match="different numbers of samples: 'image' 5, 'mask' 3"):
        load_samples(str(tmp_path / "uneven.npz"), [FLOAT, second])


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (
            "wide",
            InvalidModelError,
            r"'wide' has samples of shape \[3, 3\]; input 'image' takes \[1, 2, 3\] or \[2, 3\]",
        ),
        ("nan", InvalidModelError, "'nan' holds NaN or infinity in sample 2"),
        ("none", InvalidModelError, "holds no samples"),
        ("text", InvalidModelError, "'text' is of type <U1"),
        ("gone", UsageError, "has no array 'gone'; its arrays: levels, nan, none, short, text, wide, x, y"),
        ("x,y", UsageError, "names 2 arrays"),
    ],
)
def test_unusable_arrays_are_named_with_the_reason(
    file: Path, array: str, error: type[TinyoptError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load_samples(f"{file}:{array}", [FLOAT])
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_unusable_labels_are_named_with_the_reason(file: Path) -> None:
    with pytest.raises(InvalidModelError, match="'short' has 2 labels for the 4 samples of 'x'"):
        load_labelled(f"{file}:x,short", [FLOAT])
    with pytest.raises(InvalidModelError, match="labels 'nan' must be one integer"):
        load_labelled(f"{file}:x,nan", [FLOAT])
    with pytest.raises(UsageError, match="must name samples and labels"):
        load_labelled(f"{file}:x", [FLOAT])


def test_pickles_broken_and_missing_files_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was loaded",))

    np.savez(tmp_path / "trap.npz", x=np.array([Trap()], object))
    np.save(tmp_path / "trap.npy", np.array([Trap()], object))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "trap.npz").read_bytes()[:40])
    for name, message in (
        ("trap.npz:x", "'x' cannot be read"),
        ("trap.npy", "pickles are never loaded"),
        ("torn.npz", "no NumPy"),
    ):
        with pytest.raises(InvalidModelError, match=message):
            load_samples(str(tmp_path / name), [FLOAT])
    with pytest.raises(UsageError, match=r"no such file: .*gone\.npz"):
        load_samples(str(tmp_path / "gone.npz"), [FLOAT])
    with pytest.raises(UsageError, match="is no sample file or folder"):
        load_samples("data.wav", [FLOAT])


def test_noise_is_repeatable_and_of_the_inputs_type() -> None:
    first, again = random_samples([FLOAT], 2, seed=3), random_samples([FLOAT], 2, seed=3)
    np.testing.assert_array_equal(first[1]["image"], again[1]["image"])
    assert random_samples([INT8], 1, seed=0)[0]["image"].dtype == np.int8
