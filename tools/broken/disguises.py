"""Other formats under a model's name, files that are no files, and protobuf messages that are larger than they look."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace

from google.protobuf import json_format, text_format  # type: ignore[import-untyped]
from onnx import TensorProto, external_data_helper

from tools.broken.case import MODEL, Case, initializer, network
from tools.broken.samples import png

_BYTES = 2  # the wire type of texts, bytes and messages


def disguise_cases() -> Iterator[Case]:
    """About 60 cases."""
    yield from _formats()
    yield from _no_files()
    yield from _messages()


def _formats() -> Iterator[Case]:
    content = network().SerializeToString()
    archive, tape = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(MODEL, content)
    with tarfile.open(fileobj=tape, mode="w") as file:
        info = tarfile.TarInfo(MODEL)
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    for name, disguised in {
        "gzip": gzip.compress(content, mtime=0),
        "gzip-bomb": gzip.compress(bytes(50_000_000), mtime=0),
        "bzip2": bz2.compress(content),
        "xz": lzma.compress(content),
        "zip-of-a-model": archive.getvalue(),
        "tar": tape.getvalue(),
        "text-format": text_format.MessageToString(network()).encode(),
        "json-format": json_format.MessageToJson(network()).encode(),
        "png": png(8, 8, bytes(8 * 25)),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
        "tflite": b"\x1c\x00\x00\x00TFL3" + bytes(500),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(500),
        "script": b"#!/bin/sh\ntouch /tmp/escaped\n",
        "byte-order-mark": b"\xef\xbb\xbf" + content,
        "utf-16": content.decode("latin-1").encode("utf-16"),
        "base64": content.hex().encode(),
        "yaml": b"!!python/object/apply:os.system ['true']\n",
        "empty-message": b"\x08\x08",
        "only-newlines": b"\n" * 1_000,
        "one-zero": b"\0",
    }.items():
        yield Case(f"format-{name}", {MODEL: disguised})


def _no_files() -> Iterator[Case]:
    yield Case("pipe", {}, pipes=(MODEL,))
    yield Case("pipe-behind-a-link", {}, pipes=("pipe",), links={MODEL: "pipe"})
    for name, device in {
        "null": "/dev/null",
        "full": "/dev/full",
        "random": "/dev/urandom",
        "stdin": "/dev/stdin",
    }.items():
        yield Case(f"link-to-{name}", {}, links={MODEL: device})
    yield Case("link-to-own-memory", {}, links={MODEL: "/proc/self/mem"})
    yield Case("link-to-a-folder", {"inside/x": b""}, links={MODEL: "inside"})
    yield Case("link-to-nothing", {}, links={MODEL: "nowhere"})
    yield Case("link-below-a-file", {"file": b""}, links={MODEL: "file/model.onnx"})
    yield Case("sparse-3-gigabytes", {}, sparse={MODEL: 3 * 2**30})
    yield Case("sparse-1-gigabyte", {}, sparse={MODEL: 2**30})
    content = network().SerializeToString()
    why = "links that the user names are the user's"
    yield Case("link-to-a-model", {"real": content}, links={MODEL: "real"}, accepted=why)
    yield Case("hard-link-to-a-model", {"real": content}, hard_links={MODEL: "real"}, accepted=why)
    yield from _no_weights_files()


def _no_weights_files() -> Iterator[Case]:
    model = network()
    weights = initializer(model, "w")
    external_data_helper.set_external_data(weights, location="w.bin")
    weights.ClearField("raw_data")
    outside = Case("external-a-pipe", {MODEL: model.SerializeToString()}, pipes=("w.bin",))
    yield outside
    yield replace(outside, name="external-link-to-a-pipe", pipes=("pipe",), links={"w.bin": "pipe"})
    yield replace(outside, name="external-hard-link-to-the-model", pipes=(), hard_links={"w.bin": MODEL})
    yield replace(outside, name="external-link-to-the-model", pipes=(), links={"w.bin": MODEL})
    for name, target in {"null": "/dev/null", "full": "/dev/full", "own-memory": "/proc/self/mem"}.items():
        yield replace(outside, name=f"external-link-to-{name}", pipes=(), links={"w.bin": target})
    large = network()
    tensor = large.graph.initializer.add(name="big", data_type=TensorProto.FLOAT, dims=[2**30])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    yield Case("external-sparse-4-gigabytes", {MODEL: large.SerializeToString()}, sparse={"w.bin": 2**32})
    many = network()
    for number in range(30):
        tensor = many.graph.initializer.add(name=f"big{number}", data_type=TensorProto.FLOAT, dims=[2**24])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", str(number * 2**26))):
            tensor.external_data.add(key=key, value=value)
    yield Case("external-sparse-30-times-64-megabytes", {MODEL: many.SerializeToString()}, sparse={"w.bin": 2**31})


def _messages() -> Iterator[Case]:
    """Repeated fields of two bytes an entry, which take a hundred times as much in memory."""
    content = network().SerializeToString()
    graph = network().graph.SerializeToString()
    for name, number in {
        "node": 1,
        "initializer": 5,
        "input": 11,
        "output": 12,
        "value-info": 13,
        "sparse": 15,
    }.items():
        yield Case(f"message-3-million-empty-{name}", {MODEL: content + field(7, field(number, b"") * 3_000_000)})
    for name, number in {"opsets": 8, "metadata": 14, "functions": 25}.items():
        yield Case(f"message-3-million-empty-{name}", {MODEL: content + field(number, b"") * 3_000_000})
    why = "what is for training or for other compilers is not looked at"
    for name, number in {"training": 20, "configurations": 26}.items():
        yield Case(f"message-many-empty-{name}", {MODEL: content + field(number, b"") * 3_000_000}, accepted=why)
    attributes = field(1, field(5, b"") * 3_000_000)
    yield Case("message-3-million-empty-attributes", {MODEL: content + field(7, attributes)})
    inputs = field(1, field(1, b"") * 3_000_000)
    yield Case("message-3-million-empty-names", {MODEL: content + field(7, inputs)})
    dims = field(5, field(1, varint(1) * 3_000_000))
    yield Case("message-3-million-dimensions", {MODEL: content + field(7, dims)})
    texts = field(5, field(6, b"") * 3_000_000)
    yield Case("message-3-million-strings", {MODEL: content + field(7, texts)})
    entries = field(5, field(13, b"") * 3_000_000)
    yield Case("message-3-million-places", {MODEL: content + field(7, entries)})
    sizes = field(11, field(1, b"x2") + field(2, field(1, field(2, field(1, b"") * 3_000_000))))
    yield Case("message-3-million-sizes", {MODEL: content + field(7, sizes)})
    yield Case("message-graph-1000-times", {MODEL: b"\x08\x0a" + field(7, graph) * 1_000})
    why = "fields that protobuf does not know are left out"
    yield Case("message-unknown-field", {MODEL: content + field(9_999, b"?" * 1_000)}, accepted=why)
    yield Case(
        "message-unknown-fields-1-million", {MODEL: content + (varint(9_999 << 3) + b"\1") * 1_000_000}, accepted=why
    )
    yield Case("message-field-0", {MODEL: content + b"\x02\x00"})
    yield Case("message-wire-type-7", {MODEL: content + b"\x0f\x00"})
    yield Case("message-ir-version-as-text", {MODEL: field(1, b"eight") + content}, accepted=why)


def field(number: int, content: bytes) -> bytes:
    """A protobuf field that holds bytes."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """An unsigned number as protobuf writes it."""
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])
