"""Pictures as samples: channels, layout, size, classes, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyopt.errors import InvalidModelError, TinyoptError, UsageError
from tinyopt.ir import TensorType, Value
from tinyopt.samples import load_labelled, load_samples

CHANNELS_LAST = Value("image", TensorType("float32", (1, 6, 5, 3)))
CHANNELS_FIRST = Value("image", TensorType("float32", (1, 3, 6, 5)))
GREY = Value("image", TensorType("float32", (1, 1, 6, 5)))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = PIXELS) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_pictures_become_the_inputs_layout_with_a_mean_for_each_channel(tmp_path: Path) -> None:
    save(tmp_path / "b.png")
    save(tmp_path / "a.bmp", PIXELS[::-1].copy())
    save(tmp_path / "c.jpg")
    samples = load_samples(str(tmp_path), [CHANNELS_FIRST], (1, 2, 3), 1 / 255)
    assert len(samples) == 3
    expected = (PIXELS - np.array([1, 2, 3], np.float32)) * np.float32(1 / 255)
    np.testing.assert_array_equal(samples[1]["image"][0], expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(load_samples(str(tmp_path / "b.png"), [CHANNELS_LAST])[0]["image"][0], PIXELS)


def test_pictures_are_squashed_to_the_input_and_grey_where_it_has_one_channel(tmp_path: Path) -> None:
    wide = np.zeros((12, 40, 3), np.uint8)
    wide[:, 20:] = (255, 0, 0)  # red is 76 in grey: ITU-R 601
    save(tmp_path / "wide.png", wide)
    image = load_samples(str(tmp_path / "wide.png"), [GREY])[0]["image"][0, 0]
    assert image.shape == (6, 5)
    assert (image[:, :2] == 0).all()
    assert (image[:, 3:] == 76).all()


def test_sub_folders_are_classes_and_a_limit_takes_of_all_of_them(tmp_path: Path) -> None:
    for name, level in (("dog", 9), ("ant", 5), ("cat", 7)):
        for number in range(4):
            save(tmp_path / name / f"{number}.png", np.full((6, 5, 3), level, np.uint8))
    samples, labels = load_labelled(str(tmp_path), [CHANNELS_LAST], limit=6)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [s["image"].max() for s in samples] == [5, 5, 7, 7, 9, 9]
    assert [s["image"].max() for s in load_samples(str(tmp_path), [CHANNELS_LAST], limit=3)] == [5, 7, 9]
    with pytest.raises(UsageError, match="no sub-folders"):
        load_labelled(str(tmp_path / "ant"), [CHANNELS_LAST])


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    )


def test_files_that_are_no_usable_pictures_are_named(tmp_path: Path) -> None:
    def refusal(name: str, content: bytes) -> str:
        folder = tmp_path / name
        save(folder / "a.png")
        (folder / name).write_bytes(content)
        with pytest.raises(TinyoptError) as caught:
            load_samples(str(folder), [CHANNELS_LAST])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    save(tmp_path / "good" / "good.png")
    good = (tmp_path / "good" / "good.png").read_bytes()
    assert "'notes.txt' is none of" in refusal("notes.txt", b"hello")
    assert "text.png is no picture" in refusal("text.png", b"hello")
    assert "torn.png is no picture" in refusal("torn.png", good[: len(good) // 2])
    assert "exceeds limit" in refusal("bomb.png", png_header(9_500, 9_500))
    assert "huge.png is no picture" in refusal("huge.png", png_header(60_000, 60_000))
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InvalidModelError, match=r"deep\.png has more than 8 bits"):
        load_samples(str(tmp_path / "deep.png"), [GREY])


def test_an_input_that_is_no_picture_is_said_so(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"input 'x' of shape \[1, 30\] takes no pictures"):
        load_samples(str(tmp_path), [Value("x", TensorType("float32", (1, 30)))])
