"""Large and hostile sample files: bounded memory, bounded time, one line of error."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tinyopt.errors import InvalidModelError
from tinyopt.ir import TensorType, Value
from tinyopt.samples import load_samples

VALUE = Value("x", TensorType("float32", (1, 49, 10, 1)))
READER = r"""
import re, sys
from pathlib import Path
from tinyopt.ir import TensorType, Value
from tinyopt.samples import load_samples
samples = load_samples(sys.argv[1], [Value("x", TensorType("float32", (1, 49, 10, 1)))])
for sample in samples:
    assert sample["x"].shape == (1, 49, 10, 1)
# not getrusage: its peak counts the process that forked this one
print(len(samples), re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
"""


def read_elsewhere(spec: str) -> tuple[int, int]:
    """How many samples there are, and the peak memory of a process that reads them all."""
    done = subprocess.run([sys.executable, "-c", READER, spec], capture_output=True, text=True, check=True)
    count, kilobytes = done.stdout.split()
    return int(count), int(kilobytes)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_peak_memory_does_not_depend_on_the_number_of_samples(save: Callable[..., None], tmp_path: Path) -> None:
    figures: list[tuple[int, int]] = []
    for count in (500, 50_000):
        path = tmp_path / f"{count}.npz"
        save(path, x=np.tile(np.arange(490, dtype=np.float32), (count, 1)).reshape(count, 49, 10, 1))
        figures.append(read_elsewhere(f"{path}:x"))
    assert [count for count, _ in figures] == [500, 50_000]
    assert figures[1][1] < 1.2 * figures[0][1]


def npy(shape: tuple[int, ...], content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def npy_of(descr: str) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1, 49, 10, 1)}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1960)


def bomb(method: int) -> bytes:
    """Samples that are all zero: 78 MB in a hundred kilobytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file, file.open("x.npy", "w") as member:
        member.write(npy((40_000, 49, 10, 1), b""))
        for _ in range(40):
            member.write(bytes(1_960_000))
    return buffer.getvalue()


def archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content)
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def stored(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=array)
    return buffer.getvalue()


ROWS = np.random.default_rng(0).standard_normal((20, 49, 10, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.npy", npy((10**15, 49, 10, 1), bytes(1960)), "is truncated: its header says"),
        ("a.npz", archive(npy((10**12, 49, 10, 1), bytes(1960))), "is truncated: its header says"),
        ("a.npy", npy((-5, 49, 10, 1), bytes(1960)), r"the shape \(-5"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00" + b"(" * 118, "is no NumPy file"),
        ("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "is no NumPy file"),
        ("a.npy", npy_of("(" * 90 + "'<f4'" + ",)" * 90), "is no NumPy file"),
        ("a.npz", bomb(zipfile.ZIP_DEFLATED), "no samples compress so well"),
        ("a.npz", bomb(zipfile.ZIP_BZIP2), "in a way that NumPy does not use"),
        ("a.npz", flipped(archive(npy((20, 49, 10, 1), ROWS.tobytes()))), "'x' cannot be read"),
        ("a.npz", flipped(stored(ROWS)), "'x' cannot be read.*CRC"),
        ("a.npz", stored(ROWS)[:-40], "is no NumPy file"),
        ("a.npy", npy((20, 49, 10, 1), ROWS.tobytes()[:-4]), "is truncated"),
    ],
)
def test_files_that_lie_or_are_torn_are_refused_at_once(
    name: str, content: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    started = time.monotonic()
    with pytest.raises(InvalidModelError, match=problem) as caught:
        load_samples(str(tmp_path / name), [VALUE])
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


def test_what_unpacks_to_more_than_there_is_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyopt.samples.rows.SCRATCH_LIMIT", 10_000)
    (tmp_path / "bomb.npz").write_bytes(archive(npy((20, 49, 10, 1), ROWS.tobytes())))
    spec = f"{tmp_path / 'bomb.npz'}:x"
    with pytest.raises(InvalidModelError, match=r"unpacks to 39,200 bytes and .* has room for 10,000: use fewer"):
        load_samples(spec, [VALUE])
    np.testing.assert_array_equal(load_samples(spec, [VALUE], limit=5)[4]["x"][0], ROWS[4])
