"""Where samples come from: NumPy files and folders of them, CSV, several inputs, noise; and what identifies them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.digits import MODEL
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import InvalidModelError, TinyoptError, UsageError
from tinyopt.ir import Quantization, TensorType, Value
from tinyopt.options import CompileOptions
from tinyopt.samples import NOISE_WARNING, fingerprint, load_labelled, load_samples, source_of

FEATURES = Value("features", TensorType("float32", (1, 2, 3)))
MASK = Value("mask", TensorType("bool", (1, 4)))
DATA = np.arange(60, dtype=np.float32).reshape(10, 2, 3)


def test_every_way_to_save_an_array_gives_the_same_samples_and_fingerprint(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", DATA)
    np.save(tmp_path / "columns.npy", np.asfortranarray(DATA))
    np.save(tmp_path / "big_endian.npy", DATA.astype(">f4"))
    np.savez(tmp_path / "stored.npz", other=np.ones(7), x=DATA, y=np.arange(10))
    np.savez_compressed(tmp_path / "packed.npz", other=np.ones(7), x=DATA[:, None])
    names = ("plain.npy", "columns.npy", "big_endian.npy", "stored.npz:x", "packed.npz:x")
    loaded = [load_samples(str(tmp_path / name), [FEATURES], mean=3.0, scale=0.5) for name in names]
    for samples in loaded:
        np.testing.assert_array_equal(np.concatenate([s["features"] for s in samples]), (DATA - 3) * np.float32(0.5))
    assert len({fingerprint(samples) for samples in loaded}) == 1
    assert fingerprint([dict(sample) for sample in loaded[0]]) == fingerprint(loaded[0])
    assert fingerprint(load_labelled(f"{tmp_path / 'stored.npz'}:x,y", [FEATURES], 3.0, 0.5)[0]) == fingerprint(
        loaded[0]
    )


def test_what_is_fed_otherwise_has_another_fingerprint(tmp_path: Path) -> None:
    spec = str(tmp_path / "x.npy")
    np.save(spec, DATA)
    quantized = Value("features", TensorType("int8", (1, 2, 3)), quantization=Quantization.per_tensor(0.5, 0))
    renamed = Value("other", FEATURES.type)
    ways = [
        load_samples(spec, [FEATURES]),
        load_samples(spec, [FEATURES], mean=1.0),
        load_samples(spec, [FEATURES], limit=9),
        load_samples(spec, [quantized]),
        load_samples(spec, [renamed]),
    ]
    assert len({fingerprint(samples) for samples in ways}) == len(ways)


def test_a_mean_and_scale_for_each_channel_follow_the_layout(tmp_path: Path) -> None:
    pixels = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
    mean, scale = np.array([10, 20, 30], np.float32), np.array([1, 0.5, 0.25], np.float32)
    np.savez(tmp_path / "x.npz", last=pixels, first=pixels.transpose(0, 3, 1, 2))
    channels_last = Value("image", TensorType("float32", (1, 5, 4, 3)))
    channels_first = Value("image", TensorType("float32", (1, 3, 5, 4)))
    last = load_samples(f"{tmp_path / 'x.npz'}:last", [channels_last], (10, 20, 30), (1, 0.5, 0.25))[1]["image"]
    first = load_samples(f"{tmp_path / 'x.npz'}:first", [channels_first], (10, 20, 30), (1, 0.5, 0.25))[1]["image"]
    np.testing.assert_array_equal(last[0], (pixels[1] - mean) * scale)
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    for spec in (f"{tmp_path / 'x.npz'}:last", "random"):
        with pytest.raises(UsageError, match=r"1,2 are for 2 channels, and input 'image' of shape \[1, 5, 4, 3\]"):
            load_samples(spec, [channels_last], (1, 2))


def test_files_of_a_folder_hold_one_sample_or_several_and_a_limit_takes_them_evenly(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", DATA[:5])
    np.save(tmp_path / "a.npy", DATA[5])
    np.savez_compressed(tmp_path / "c.npz", x=DATA[6:8])
    (tmp_path / "README.md").write_text("not a sample")
    (tmp_path / ".hidden").write_text("neither")
    samples = load_samples(str(tmp_path), [FEATURES])
    np.testing.assert_array_equal(np.concatenate([s["features"] for s in samples]), DATA[[5, 0, 1, 2, 3, 4, 6, 7]])
    limited = load_samples(str(tmp_path), [FEATURES], limit=4)
    np.testing.assert_array_equal(np.concatenate([s["features"] for s in limited]), DATA[[5, 1, 3, 6]])


def test_what_does_not_belong_into_a_folder_is_named(tmp_path: Path) -> None:
    def refusal(name: str) -> str:
        with pytest.raises(TinyoptError) as caught:
            load_samples(str(tmp_path / name), [FEATURES])
        return str(caught.value)

    for name in ("strange", "mixed", "nan", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            np.save(tmp_path / name / "a.npy", DATA)
    (tmp_path / "strange" / "notes.txt").write_text("x")
    np.save(tmp_path / "mixed" / "b.npy", DATA.astype(np.uint8))
    np.save(tmp_path / "nan" / "b.npy", np.where(DATA == 20, np.nan, DATA).astype(np.float32))
    assert "'notes.txt' is none of .npy, .npz" in refusal("strange")
    assert "b.npy is uint8" in refusal("mixed")
    assert "b.npy holds NaN or infinity in sample 3" in refusal("nan")
    assert "holds no samples" in refusal("empty")


def test_each_input_can_have_a_source_of_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", DATA)
    np.savez(tmp_path / "m.npz", mask=np.eye(10, 4), short=np.eye(9, 4))
    np.savez(tmp_path / "integers.npz", mask=np.eye(10, 4, dtype=np.int64), short=np.eye(9, 4, dtype=np.int64))
    x, mask = f"features={tmp_path / 'x.npy'}", f"mask={tmp_path / 'integers.npz'}"
    sample = load_samples([f"{mask}:mask", x], [FEATURES, MASK])[2]
    np.testing.assert_array_equal(sample["mask"], [[False, False, True, False]])
    np.testing.assert_array_equal(sample["features"][0], DATA[2])
    for specs, problem in (
        ([x], "no samples for input 'mask'"),
        ([x, x], "'features' is given twice"),
        ([x, f"maks={tmp_path / 'm.npz'}"], "must say which input it is for"),
        ([f"{tmp_path / 'x.npy'}"], "feeds one input and the model has 2: give features=..., mask=..."),
    ):
        with pytest.raises(UsageError, match=problem):
            load_samples(specs, [FEATURES, MASK])
    with pytest.raises(InvalidModelError, match="different numbers of samples: 'features' 10, 'mask' 9"):
        load_samples([x, f"{mask}:short"], [FEATURES, MASK], limit=5)
    with pytest.raises(InvalidModelError, match="takes bool and has no scale"):
        load_samples([x, f"mask={tmp_path / 'm.npz'}:mask"], [FEATURES, MASK])


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c,d,e,f\n0,1,2,3,4,5\n6,7,8,9,10,11\n",
        "\ufeff0;1;2;3;4;5\r\n\r\n6;7;8;9;10;11",
        '"0"\t1\t2\t3\t4\t 5\n6\t7\t8\t9\t1e1\t11\n',
    ],
)
def test_a_row_of_csv_is_a_sample(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    samples = load_samples(str(tmp_path / "x.csv"), [FEATURES])
    np.testing.assert_array_equal(np.concatenate([s["features"] for s in samples]), DATA[:2])
    assert len(load_samples(str(tmp_path / "x.csv"), [FEATURES], limit=1)) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0,1,2,3,4,5\n6,7,8\n", "line 2 has 3 fields, not the 6 of a sample"),
        ("0,1,2,3,four,5\n", "line 1 has 'four', which is no number"),
        ("0,1,2,3,4,nan\n", "holds NaN or infinity in sample 0"),
        ("a,b,c,d,e,f\n", "holds no samples"),
        ("1," * 100_000, "line 1 is longer than the 6 numbers of a sample"),
    ],
)
def test_what_is_wrong_with_csv_is_named_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InvalidModelError, match=problem):
        load_samples(str(tmp_path / "x.csv"), [FEATURES])


def test_the_last_column_of_labelled_csv_is_the_class(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c,d,e,f,label\n0,1,2,3,4,5,7\n6,7,8,9,10,11,3\n")
    samples, labels = load_labelled(str(tmp_path / "x.csv"), [FEATURES])
    assert labels.tolist() == [7, 3]
    np.testing.assert_array_equal(samples[1]["features"][0], DATA[1])


def test_random_samples_to_calibrate_are_repeatable_and_pixels_where_a_scale_is_given() -> None:
    first, again = load_samples("random", [FEATURES], seed=1), load_samples("random", [FEATURES], seed=1)
    assert len(first) == 64
    assert fingerprint(first) == fingerprint(again) != fingerprint(load_samples("random", [FEATURES], seed=2))
    np.testing.assert_array_equal(first[63]["features"], first[-1]["features"])
    pixels = np.concatenate([s["features"] for s in load_samples("random", [FEATURES], 127.5, 1 / 127.5)])
    assert -1 <= pixels.min() < -0.9 < 0.9 < pixels.max() <= 1


def test_the_report_says_where_the_calibration_came_from_and_warns_of_noise(tmp_path: Path) -> None:
    options = CompileOptions(target="c", calibration=("random",), calibration_samples=4, cache_dir=default_cache_dir())
    report = compile_model(MODEL, tmp_path / "out", options).report
    assert report["calibration"]["is_random"]
    assert report["calibration"]["source"] == "random"
    assert report["calibration"]["samples"] == 4
    assert NOISE_WARNING in report["model"]["notes"]
    assert "random noise" in (tmp_path / "out" / "report.txt").read_text()
    assert source_of(("a/x=/home/me/x.npz:y", "b=c/d/")) == "a/x=x.npz:y, b=d"
