"""Files that are no models, or no longer: cut, flipped, padded, repeated, empty, nested."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import helper

from tools.broken.case import MODEL, Case, network
from tools.broken.disguises import field

_ZIP = b"PK\x03\x04"


def file_cases() -> Iterator[Case]:
    """About 60 cases."""
    content = network().SerializeToString()
    for share in (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99):
        yield Case(f"cut-{share:02d}", {MODEL: content[: len(content) * share // 100]})
    yield Case("cut-one-byte", {MODEL: content[:-1]})
    garbage = np.random.default_rng(2)
    for size in (1, 10, 1_000, 100_000):
        yield Case(f"noise-{size}", {MODEL: garbage.bytes(size)})
    yield Case("text", {MODEL: b"this is no model\n" * 50})
    yield Case("html", {MODEL: b"<!DOCTYPE html><html><script>alert(1)</script></html>"})
    yield Case("json", {MODEL: b'{"ir_version": 8, "graph": {}}'})
    yield Case("zip", {MODEL: _ZIP + garbage.bytes(500)})
    yield Case("pickle", {MODEL: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93."})
    yield Case("git-lfs-pointer", {MODEL: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"})
    yield Case("zeros", {MODEL: bytes(10_000)})
    yield Case("ones", {MODEL: b"\xff" * 10_000})
    yield Case("zeros-after", {MODEL: content + bytes(100)})
    yield Case("noise-after", {MODEL: content + garbage.bytes(100)})
    yield Case("noise-before", {MODEL: garbage.bytes(100) + content})
    yield Case("reversed", {MODEL: content[::-1]})
    yield Case("upper-case", {MODEL: content.upper()})
    yield Case("crlf", {MODEL: content.replace(b"\n", b"\r\n")})
    yield Case("utf-8", {MODEL: content.decode("latin-1").encode("utf-8")})
    yield Case("only-a-graph", {MODEL: network().graph.SerializeToString()})
    yield Case("only-a-tensor", {MODEL: network().graph.initializer[0].SerializeToString()})
    yield Case("twice", {MODEL: content + content})
    for depth in (10, 40, 99, 101, 1_000, 10_000):
        yield Case(f"nested-messages-{depth}", {MODEL: _nested(depth)})
    yield Case("varint-without-end", {MODEL: b"\x08" + b"\x80" * 1000})
    yield Case("length-of-exabytes", {MODEL: b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\x7f"})
    yield Case("group-without-end", {MODEL: b"\x08\x08" + b"\x0b" * 5000})
    yield Case("missing", {})
    yield Case("a-folder", {f"{MODEL}/inside": b""})
    yield Case("a-device", {}, links={MODEL: "/dev/zero"})
    yield Case("link-in-a-circle", {}, links={MODEL: MODEL})


def _nested(depth: int) -> bytes:
    """Subgraphs in subgraphs: GraphProto.node.attribute.g of field numbers 1, 5 and 6."""
    inner = helper.make_node("Relu", ["a"], ["b"], name="deep").SerializeToString()
    graph = field(1, inner)
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11")
