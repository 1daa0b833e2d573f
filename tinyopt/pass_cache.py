"""Keep on disk what costly passes made of a graph, by the hash of all that it follows from.

A model that is compiled for a second target, or with other options further on, is not calibrated again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import time
import zipfile
import zlib
from functools import cache
from pathlib import Path

from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.errors import InvalidModelError
from tinyopt.graph_file import load_graph, save_graph
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext, PassRecord, Remark, run_pass
from tinyopt.samples import fingerprint

_KIND = "passes"
_GRAPH, _RECORD = "graph.npz", "record.json"
_DAMAGES = (InvalidModelError, ValueError, TypeError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
_PACKAGES = ("numpy", "onnxruntime", "scikit-learn")  # the numbers depend on


def run_pass_cached(step: Pass, graph: Graph, context: PassContext) -> PassRecord:
    """`run_pass`, or what it did to an equal graph before."""
    if context.cache_dir is None or not step.is_costly:
        return run_pass(step, graph, context)
    started = time.perf_counter()
    key = _key(step, graph, context)
    kept = _unpacked(read_cached(context.cache_dir, _KIND, key))
    if kept is None:
        known = context.float_graph
        record = run_pass(step, graph, context)
        content = _packed(record, is_float_graph=context.float_graph is not known)
        write_cached(context.cache_dir, _KIND, key, content)
        return record
    found, record, is_float_graph = kept
    if is_float_graph:  # the pass kept a copy of what it found
        context.float_graph = graph.copy()
    graph.inputs, graph.outputs, graph.nodes = found.inputs, found.outputs, found.nodes
    context.remarks = list(record.remarks)
    options, seconds = dataclasses.asdict(step), time.perf_counter() - started
    return dataclasses.replace(record, options=options, seconds=seconds, graph=graph.copy())


def _key(step: Pass, graph: Graph, context: PassContext) -> str:
    digest = hashlib.sha256(f"{_fingerprint()} {step!r} {context.seed} {fingerprint(context.samples)}".encode())
    for each in (graph, context.float_graph):
        digest.update(b"none" if each is None else hashlib.sha256(_bytes(each)).digest())
    return digest.hexdigest()


@cache
def _fingerprint() -> str:
    """A hash of our sources and of the packages that the numbers depend on."""
    digest = hashlib.sha256(" ".join(importlib.metadata.version(package) for package in _PACKAGES).encode())
    root = Path(__file__).resolve().parent
    for source in sorted(path for room in (".", "passes") for path in (root / room).rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _bytes(graph: Graph) -> bytes:
    file = io.BytesIO()
    save_graph(graph, file)
    return file.getvalue()


def _packed(record: PassRecord, *, is_float_graph: bool) -> bytes:
    told = {
        "pass": record.pass_name,
        "is_changed": record.is_changed,
        "is_float_graph": is_float_graph,
        "remarks": [dataclasses.asdict(remark) for remark in record.remarks],
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_GRAPH, _bytes(record.graph))
        archive.writestr(_RECORD, json.dumps(told))
    return file.getvalue()


def _unpacked(content: bytes | None) -> tuple[Graph, PassRecord, bool] | None:
    """The graph, the record and whether the pass kept a float graph; None where nothing was kept or it is damaged."""
    if content is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            graph = load_graph(io.BytesIO(archive.read(_GRAPH)))
            told = json.loads(archive.read(_RECORD))
        remarks = tuple(
            Remark(item["kind"], item["message"], tuple(item["before"]), tuple(item["after"]))
            for item in told["remarks"]
        )
        record = PassRecord(told["pass"], {}, bool(told["is_changed"]), 0.0, remarks, graph)
        return graph, record, bool(told["is_float_graph"])
    except _DAMAGES:
        return None
