"""Calibration sets that are cut, lie about themselves, hold pickles, unpack to terabytes, or are no numbers."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tools.broken.case import MODEL, Case, network

_ROWS = np.random.default_rng(3).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)


def sample_cases() -> Iterator[Case]:
    """About 50 cases; all go with the small network, whose input is x[1,3,8,8]."""
    good = _npz(x=_ROWS)
    for share in (0, 1, 30, 60, 90, 99):
        yield _calibrated(f"npz-cut-{share}", "c.npz:x", {"c.npz": good[: len(good) * share // 100]})
    yield _calibrated("npz-missing", "c.npz:x", {})
    yield _calibrated("npz-no-such-array", "c.npz:y", {"c.npz": good})
    yield _calibrated("npz-noise", "c.npz:x", {"c.npz": np.random.default_rng(4).bytes(2_000)})
    yield _calibrated("npz-flipped", "c.npz:x", {"c.npz": _flipped(_npz(x=_ROWS), 400)})
    for name, array in _arrays().items():
        yield _calibrated(f"npz-{name}", "c.npz:x", {"c.npz": _npz(x=array)})
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    yield _calibrated("npy-of-objects", "c.npy", {"c.npy": objects.getvalue()})
    yield _calibrated("npz-of-objects", "c.npz:x", {"c.npz": _archive({"x.npy": objects.getvalue()})})
    yield _calibrated("npy-is-a-pickle", "c.npy", {"c.npy": pickle.dumps({"x": 1})})
    yield _calibrated("npz-holds-a-pickle", "c.npz:x", {"c.npz": _archive({"x.npy": pickle.dumps([1, 2])})})
    for name, header in _headers().items():
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        yield _calibrated(f"npy-header-{name}", "c.npy", {"c.npy": content + bytes(768)})
    yield _calibrated("npy-version-9", "c.npy", {"c.npy": b"\x93NUMPY\x09\x00" + bytes(100)})
    yield _calibrated("npz-bomb", "c.npz:x", {"c.npz": _bomb(2**28)})
    yield _calibrated("npz-bomb-of-terabytes", "c.npz:x", {"c.npz": _claims(2**42)})
    yield _calibrated("npz-names-twice", "c.npz:x", {"c.npz": _archive({"x.npy": b"", "x.npy.npy": b""})})
    yield _calibrated("npz-encrypted", "c.npz:x", {"c.npz": _encrypted(good)})
    yield _calibrated("npy-link-to-a-device", "c.npy", {}, {"c.npy": "/dev/zero"})
    yield _calibrated("npz-link-to-a-device", "c.npz:x", {}, {"c.npz": "/dev/zero"})
    yield _calibrated("csv-link-to-a-device", "c.csv", {}, {"c.csv": "/dev/zero"})
    yield _calibrated("npy-link-circle", "c.npy", {}, {"c.npy": "c.npy"})
    for name, text in _tables().items():
        yield _calibrated(f"csv-{name}", "c.csv", {"c.csv": text})
    yield _calibrated("png-bomb", "c.png", {"c.png": png(60_000, 60_000, b"")})
    yield _calibrated("png-bomb-below-the-warning", "c.png", {"c.png": png(13_000, 13_000, bytes(100))})
    yield _calibrated("png-cut", "c.png", {"c.png": png(8, 8, bytes(8 * 25))[:46]})
    yield _calibrated("png-without-size", "c.png", {"c.png": png(0, 0, b"")})
    yield _calibrated("png-is-text", "c.png", {"c.png": b"no picture"})
    yield _calibrated("jpg-is-a-script", "c.jpg", {"c.jpg": b"%!PS-Adobe\n(system) run"})
    yield _calibrated("folder-empty", "d", {"d/.hidden": b""})
    yield _calibrated("folder-mixed", "d", {"d/a.png": b"", "d/b.npy": b""})
    yield _calibrated("folder-of-links", "d", {"d/README": b""}, {"d/a.npy": "/dev/zero"})
    yield _calibrated("hostile-name", "\x1b[31m.npz:\x1b]0;x\x07", {})


def _calibrated(name: str, spec: str, files: dict[str, bytes], links: dict[str, str] | None = None) -> Case:
    content = {MODEL: network().SerializeToString(), **files}
    return Case(f"calibration-{name}", content, links or {}, options=("--calib", spec))


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


def _arrays() -> dict[str, Any]:
    nan, infinite = _ROWS.copy(), _ROWS.copy()
    nan[2, 1, 3, 3] = np.nan
    infinite[0, 0, 0, 0] = -np.inf
    return {
        "nan": nan,
        "infinite": infinite,
        "other-shape": _ROWS[:, :, :7],
        "other-rank": _ROWS.reshape(-1),
        "empty": _ROWS[:0],
        "scalar": np.float32(1),
        "strings": np.array(["a", "b"]),
        "complex": _ROWS.astype(np.complex64),
        "dates": np.array(["2020-01-01"], "datetime64[D]"),
        "records": np.zeros(4, [("a", "<f4"), ("b", "<i4")]),
        "beyond-float32": _ROWS.astype(np.float64) * 1e300,
    }


def _headers() -> dict[str, bytes]:
    def header(shape: str, descr: str = "'<f4'", fortran: str = "False") -> bytes:
        return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()

    return {
        "huge": header("(1099511627776, 3, 8, 8)"),
        "negative": header("(-1, 3, 8, 8)"),
        "overflow": header("(9223372036854775807, 9223372036854775807)"),
        "code": header("__import__('os').system('true')"),
        "objects": header("(1, 3, 8, 8)", "'|O'"),
        "fortran-huge": header("(1000000000, 3, 8, 8)", fortran="True"),
        "nested": header("(" * 5_000 + ")" * 5_000),
        "not-a-dictionary": b"[1, 2, 3]\n",
        "without-end": b"{'descr': '<f4'",
        "wide-strings": header("(1,)", "'<U2000000000'"),
    }


def _bomb(size: int) -> bytes:
    """An array of zeros: a thousandth of its size in the file, and no samples of the model's shape."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1, 3, 8, size // 768)}
        )
        for _ in range(size >> 20):
            file.write(bytes(2**20))
    return buffer.getvalue()


def _claims(size: int) -> bytes:
    """An archive whose directory and header say that a member is that large."""
    rows = size // 768
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, 3, 8, 8)})
    return _archive({"x.npy": header.getvalue() + bytes(10_000)})


def _encrypted(content: bytes) -> bytes:
    """The flag for encryption set in every header."""
    marked = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = marked.find(signature)
        while place >= 0:
            marked[place + offset] |= 1
            place = marked.find(signature, place + 4)
    return bytes(marked)


def _tables() -> dict[str, bytes]:
    row = ",".join(["0.5"] * 192)
    return {
        "empty": b"",
        "text": b"a,b,c\nd,e,f\n",
        "short": b"1,2,3\n",
        "one-number-missing": (row[4:] + "\n").encode(),
        "nan": (row.replace("0.5", "nan", 1) + "\n").encode(),
        "huge-numbers": (row.replace("0.5", "1e999", 1) + "\n").encode(),
        "one-long-line": b"1," * 2_000_000,
        "nul": b"\0" * 100_000,
        "formula": (row.replace("0.5", "=1+1", 1) + "\n").encode(),
        "digits": (row.replace("0.5", "9" * 7_000, 1) + "\n").encode(),
    }


def png(width: int, height: int, rows: bytes) -> bytes:
    """A picture of RGB, whose `rows` may be anything."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
