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
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.errors import InvalidModelError
from tinyopt.graph_file import digest_graph, load_graph, save_graph
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext, PassRecord, Remark, Unpruned, pass_module, run_pass
from tinyopt.samples import fingerprint

KeptChannels: TypeAlias = Mapping[str, NDArray[np.int64]]

_KIND = "passes"
_GRAPH, _RECORD = "graph.npz", "record.json"
_COPIES = ("is_float_graph", "is_float_graph_unclustered", "is_unclustered")
_DAMAGES = (InvalidModelError, ValueError, TypeError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
_PACKAGES = ("numpy", "onnxruntime", "scikit-learn", "torch")  # the numbers depend on


def run_pass_cached(step: Pass, graph: Graph, context: PassContext, before: Graph | None = None) -> PassRecord:
    """`run_pass`, or what it did to an equal graph before."""
    module = pass_module(step)
    if context.cache_dir is None or not step.is_costly or module is None:
        return run_pass(step, graph, context, before)
    started = time.perf_counter()
    key = _key(step, module, digest_graph(graph) if before is None else _digest(before, context), context)
    kept = _unpacked(read_cached(context.cache_dir, _KIND, key), graph)
    if kept is None:
        float_graph, unpruned, unclustered = context.float_graph, context.unpruned, context.unclustered
        record = run_pass(step, graph, context, before)
        pruned = context.unpruned.kept if context.unpruned is not None and context.unpruned is not unpruned else None
        kept_copies = {
            "is_float_graph": context.float_graph is not float_graph,
            "is_float_graph_unclustered": context.float_graph is context.unclustered,
            "is_unclustered": context.unclustered is not unclustered,
        }
        content = _packed(record, kept_copies, pruned)
        write_cached(context.cache_dir, _KIND, key, content)
        return record
    found, record, copies, kept_channels = kept
    if copies["is_float_graph"]:  # the pass kept a copy of what it found, or of what clustering had found
        context.float_graph = context.unclustered if copies["is_float_graph_unclustered"] else graph.copy()
    if copies["is_unclustered"]:
        context.unclustered = graph.copy()
    if kept_channels is not None:
        earlier = context.unpruned  # before layers were removed whole
        context.unpruned = Unpruned(graph.copy() if earlier is None else earlier.graph, kept_channels)
    graph.inputs, graph.outputs, graph.nodes = found.inputs, found.outputs, found.nodes
    context.remarks = list(record.remarks)
    options, seconds = dataclasses.asdict(step), time.perf_counter() - started
    left = graph.copy() if record.is_changed or before is None else before
    return dataclasses.replace(record, options=options, seconds=seconds, graph=left)


def _key(step: Pass, module: bytes, graph: bytes, context: PassContext) -> str:
    """module: the source of the file that the pass is in, which need not be one of ours. graph: its hash."""
    digest = hashlib.sha256(f"{_fingerprint()} {step!r} {context.seed} {fingerprint(context.samples)}".encode())
    digest.update(module)
    if step.is_for_target:
        label = "" if context.costs is None else f"{context.costs.label} {_target_fingerprint()}"
        digest.update(f"{context.facts} {label}".encode())
        digest.update(_digest(context.original, context))
    if context.labels is not None:
        digest.update(context.labels.tobytes())
    if context.unpruned is not None:
        digest.update(json.dumps(_plain(context.unpruned.kept)).encode())
    unpruned = None if context.unpruned is None else context.unpruned.graph
    digest.update(graph)
    for each in (context.float_graph, context.unclustered, unpruned):
        digest.update(_digest(each, context))
    return digest.hexdigest()


@cache
def _fingerprint() -> str:
    """A hash of our sources and of the packages that the numbers depend on."""
    digest = hashlib.sha256(" ".join(map(_version, _PACKAGES)).encode())
    root = Path(__file__).resolve().parent
    for source in sorted(path for room in (".", "passes") for path in (root / room).rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    """Of an installed package; 'none' for one that an extra would bring."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def _target_fingerprint() -> str:
    """A hash of what a target's costs follow from: its kernels, their models, and how kernels are chosen and placed."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent
    models = sorted((root / "targets").glob("*.json"))
    for source in [*sorted(path for room in ("targets", "lowering") for path in (root / room).rglob("*.py")), *models]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _digest(copy: Graph | None, context: PassContext) -> bytes:
    """A hash of a graph that stays as it is: made once for all passes that find it."""
    if copy is None:
        return b"none"
    if copy not in context.digests:
        context.digests[copy] = digest_graph(copy)
    return context.digests[copy]


def _bytes(graph: Graph) -> bytes:
    file = io.BytesIO()
    save_graph(graph, file)
    return file.getvalue()


def _plain(kept: KeptChannels) -> dict[str, list[int]]:
    return {name: [int(channel) for channel in channels] for name, channels in kept.items()}


def _packed(record: PassRecord, copies: Mapping[str, bool], kept_channels: KeptChannels | None) -> bytes:
    told = {
        "pass": record.pass_name,
        "is_changed": record.is_changed,
        "copies": copies,
        "kept_channels": None if kept_channels is None else _plain(kept_channels),
        "remarks": [dataclasses.asdict(remark) for remark in record.remarks],
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        if record.is_changed:
            archive.writestr(_GRAPH, _bytes(record.graph))
        archive.writestr(_RECORD, json.dumps(told))
    return file.getvalue()


def _unpacked(
    content: bytes | None, before: Graph
) -> tuple[Graph, PassRecord, Mapping[str, bool], KeptChannels | None] | None:
    """The graph, the record, of what the pass kept copies, and the channels that it kept where it pruned.

    None where nothing was kept or it is damaged. before: the graph, which stays where the pass did not change it.
    """
    if content is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            told = json.loads(archive.read(_RECORD))
            graph = load_graph(io.BytesIO(archive.read(_GRAPH))) if told["is_changed"] else before
        remarks = tuple(
            Remark(item["kind"], item["message"], tuple(item["before"]), tuple(item["after"]))
            for item in told["remarks"]
        )
        record = PassRecord(told["pass"], {}, bool(told["is_changed"]), 0.0, remarks, graph)
        channels = told["kept_channels"]
        if channels is not None:
            channels = {name: np.array(kept, np.int64) for name, kept in channels.items()}
        copies = {name: bool(told["copies"][name]) for name in _COPIES}
        return graph, record, copies, channels
    except _DAMAGES:
        return None
