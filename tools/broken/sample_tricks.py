"""More calibration sets that nobody wants: archives that unpack without end, and places that are no files."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tools.broken.case import MODEL, Case, model_of, network, node
from tools.broken.samples import png

_ROWS = np.random.default_rng(3).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)


def sample_trick_cases() -> Iterator[Case]:
    """About 50 cases; most go with the small network, whose input is x[1,3,8,8]."""
    yield from _archives()
    yield from _headers()
    yield from _places()
    yield from _specs()
    yield from _pictures()
    yield from _tables()


def _calibrated(name: str, *specs: str, files: Mapping[str, bytes] | None = None, **more: Any) -> Case:
    content = {MODEL: network().SerializeToString(), **(files or {})}
    options = tuple(word for spec in specs for word in ("--calib", spec))
    return Case(f"calibration-{name}", content, options=options, **more)


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _zip(members: Mapping[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _archives() -> Iterator[Case]:
    good = _npy(_ROWS)
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        shape = (2**19, 3, 8, 8)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _ in range(384):
            file.write(bytes(2**20))
    for name, content in {
        "bomb-of-samples": zeros.getvalue(),
        "bzip2": _zip({"x.npy": good}, zipfile.ZIP_BZIP2),
        "lzma": _zip({"x.npy": good}, zipfile.ZIP_LZMA),
        "parent": _zip({"../x.npy": good}),
        "absolute": _zip({"/tmp/escaped.npy": good}),
        "unknown-compression": _with_method(_zip({"x.npy": good}), 99),
        "nested": _zip({"x.npz": _zip({"x.npy": good})}),
        "without-members": _zip({}),
        "of-text": _zip({"x.txt": b"text"}),
        "20000-members": _zip({f"a{i}.npy": b"" for i in range(20_000)}, zipfile.ZIP_STORED),
        "header-of-4-gigabytes": _zip({"x.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100_000_000)}),
        "sizes-lie": _size_lies(_zip({"x.npy": good}, zipfile.ZIP_STORED)),
        "is-gzip": bytes([31, 139, 8]) + bytes(500),
        "is-bzip2": bz2.compress(good),
        "is-xz": lzma.compress(good),
    }.items():
        yield _calibrated(f"zip-{name}", "c.npz:x", files={"c.npz": content})


def _with_method(content: bytes, method: int) -> bytes:
    """The archive, said to be compressed in another way."""
    marked = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = marked.find(signature)
        marked[place + offset : place + offset + 2] = struct.pack("<H", method)
    return bytes(marked)


def _size_lies(content: bytes) -> bytes:
    """The directory of the archive says that its first member has 2 GiB."""
    marked = bytearray(content)
    place = marked.find(b"PK\x01\x02")
    marked[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    return bytes(marked)


def _headers() -> Iterator[Case]:
    for name, descr in {
        "subarrays": "('<f4', (1000000, 1000000))",
        "records": "[('a', '<f4'), ('b', '<f4')]",
        "void": "'|V2000000000'",
        "bytes": "'|S2000000000'",
        "times": "'<M8[ns]'",
        "long-double": "'<f16'",
        "nonsense": "'zzz'",
        "list": "['<f4']",
        "deep": "(" * 90 + "'<f4'" + ",)" * 90,
    }.items():
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1, 3, 8, 8), }}\n".encode()
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(768)
        yield _calibrated(f"npy-dtype-{name}", "c.npy", files={"c.npy": content})
    for name, header in {
        "shape-of-floats": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1.0, 3, 8, 8), }\n",
        "shape-of-bools": b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3, 8, -8), }\n",
        "order-of-text": b"{'descr': '<f4', 'fortran_order': 'yes', 'shape': (1, 3, 8, 8), }\n",
        "keys-more": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 8, 8), 'run': 1, }\n",
        "65535-bytes": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 8, 8), }" + b" " * 65_400 + b"\n",
    }.items():
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(768)
        yield _calibrated(f"npy-{name}", "c.npy", files={"c.npy": content})


def _places() -> Iterator[Case]:
    good = _npy(_ROWS)
    for suffix in ("npz", "npy", "csv", "png"):
        yield _calibrated(f"pipe-{suffix}", f"c.{suffix}", pipes=(f"c.{suffix}",))
        yield _calibrated(f"device-{suffix}", f"c.{suffix}", links={f"c.{suffix}": "/dev/urandom"})
    yield _calibrated("folder-named-npz", "c.npz:x", files={"c.npz/a.npy": b""})
    yield _calibrated("folder-with-a-pipe", "d", files={"d/a.npy": good}, pipes=("d/b.npy",))
    yield _calibrated("folder-with-a-link-to-nothing", "d", files={"d/a.npy": good}, links={"d/b.npy": "nowhere"})
    yield _calibrated("folder-with-a-circle", "d", files={"d/a.npy": good}, links={"d/b": "."})
    yield _calibrated("folder-of-another-shape", "d", files={"d/a.npy": good, "d/b.npy": _npy(_ROWS[:, :, :7])})
    yield _calibrated("folder-nested", "d", files={"d/a/b/c/d.png": b""})
    yield _calibrated("folder-of-models", "d", files={"d/a.onnx": b"", "d/b.onnx": b""})
    yield _calibrated("folder-hostile-names", "d", files={"d/\x1b[31m.npy": b"", "d/%s%n.npy": b""})
    yield _calibrated("sparse-npy", "c.npy", sparse={"c.npy": 2**34})
    yield _calibrated("sparse-npz", "c.npz", sparse={"c.npz": 2**34})
    yield _calibrated("sparse-csv", "c.csv", sparse={"c.csv": 2**30})
    yield _calibrated("sparse-png", "c.png", sparse={"c.png": 2**33})


def _specs() -> Iterator[Case]:
    archive = _zip({"x.npy": _npy(_ROWS)})
    for name, spec in {
        "empty": "",
        "colon": ":",
        "without-array": "c.npz:",
        "two-arrays": "c.npz:x,x",
        "another-input": "nobody=c.npz:x",
        "model": MODEL,
        "root": "/",
        "long": "c" * 5_000 + ".npz:x",
        "format": "%s%n{0}.npz",
    }.items():
        yield _calibrated(f"spec-{name}", spec, files={"c.npz": archive})
    yield _calibrated("spec-input-twice", "x=c.npz:x", "x=c.npz:x", files={"c.npz": archive})
    two = model_of([node("Add", "a b")], {"a": (1, 3, 8, 8), "b": (1, 3, 8, 8)}).SerializeToString()
    only_one = {MODEL: two, "c.npz": archive}
    yield Case("calibration-one-of-two-inputs", only_one, options=("--calib", "a=c.npz:x"))
    yield Case("calibration-archive-lacks-an-input", only_one, options=("--calib", "c.npz"))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _pictures() -> Iterator[Case]:
    whole = png(8, 8, bytes(8 * 25))
    text = _chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(200_000_000)))
    for name, suffix, content in (
        ("png-text-bomb", "png", whole[:33] + text + whole[33:]),
        ("png-wrong-sum", "png", whole[:45] + b"\0\0" + whole[47:]),
        ("png-without-end", "png", whole[:33]),
        ("png-negative", "png", png(2**31 + 8, 8, b"")),
        ("png-rows-without-end", "png", png(8, 8, bytes(100_000_000)[:50])),
        ("png-is-postscript", "png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) run\n"),
        ("png-is-a-gif", "png", b"GIF89a\xff\xff\xff\xff\x00\x00\x00;"),
        ("jpg-huge", "jpg", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(9) + b"\xff\xd9"),
        ("jpg-cut", "jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
        ("bmp-negative", "bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 1, 0, 54, 40, -8, -8, 1, 24, 0, 0, 0, 0, 0, 0)),
        (
            "bmp-huge",
            "bmp",
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 1, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        ),
        ("bmp-of-runs", "bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 1, 0, 54, 40, 8, 8, 1, 8, 1, 0, 0, 0, 0, 0)),
    ):
        why = "nobody reads that text" if name in ("png-text-bomb", "png-rows-without-end") else ""
        yield _calibrated(name, f"c.{suffix}", files={f"c.{suffix}": content}, accepted=why)


def _tables() -> Iterator[Case]:
    row = ",".join(["0.5"] * 192)
    for name, text in {
        "utf-16": (row + "\n").encode("utf-16"),
        "quote-without-end": ('"' + row + "\n").encode(),
        "lines-of-two-lengths": (row + "\n" + row[4:] + "\n").encode(),
        "infinite": (row.replace("0.5", "-inf", 1) + "\n").encode(),
        "underscores": (row.replace("0.5", "1_0", 1) + "\n").encode(),
        "hexadecimal": (row.replace("0.5", "0x1p3", 1) + "\n").encode(),
        "other-digits": (row.replace("0.5", "\u0663", 1) + "\n").encode(),
        "only-commas": b"," * 191 + b"\n",
        "html": b"<table>" * 1_000,
    }.items():
        yield _calibrated(f"table-{name}", "c.csv", files={"c.csv": text})
