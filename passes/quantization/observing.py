"""Observe activations over calibration samples; what was seen is kept on disk by the hash of model and data."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_export import export_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import PassContext
from tinyopt.passes.quantization.ranges import BINS, Observer
from tinyopt.samples import Sample, fingerprint

_KIND = "observations"
_VERSION = "1"  # of what is stored
_NUMBERS = 5  # of an observer beside its histogram


def observe(
    graph: Graph, values: Sequence[Value], samples: Sequence[Sample], context: PassContext
) -> dict[Value, Observer]:
    """What each float value is over the samples, which are read one after the other.

    Raises InvalidModelError for a value that becomes NaN or infinite.
    """
    key = _key(graph, values, samples)
    seen = _read(context.cache_dir, key, values)
    if seen is None:
        seen = observe_anew(graph, values, samples, len(samples), context)
        write_cached(context.cache_dir, _KIND, key, _packed(list(seen.values())))
    return seen


def observe_anew(
    graph: Graph, values: Sequence[Value], samples: Iterable[Sample], count: int, context: PassContext
) -> dict[Value, Observer]:
    """`observe` without the cache, for `count` samples that are drawn as they are needed."""
    seen = {value: Observer() for value in values}
    for done, arrays in enumerate(_arrays(graph, values, samples)):
        for value, array in arrays.items():
            seen[value].add(array)
        context.on_progress("calibration", done + 1, count)
    for value, observer in seen.items():
        if not observer.is_finite:
            raise InvalidModelError(
                f"'{value.name}' becomes NaN or infinite on the calibration samples: check their scaling"
            )
    return seen


def _arrays(graph: Graph, values: Sequence[Value], samples: Iterable[Sample]) -> Iterator[Mapping[Value, Array]]:
    given = {value for value in values if any(value is x for x in graph.inputs)}
    inside = [value for value in values if value not in given and not graph.is_output(value)]
    for sample, results in OnnxSession(graph, inside, threads=1).run_each(samples):
        yield {value: np.asarray(sample[value.name] if value in given else results[value.name]) for value in values}


def _key(graph: Graph, values: Sequence[Value], samples: Sequence[Sample]) -> str:
    """The hash of all that the observations follow from."""
    digest = hashlib.sha256(f"{_VERSION} {BINS} {fingerprint(samples)}".encode())
    digest.update(export_model(graph, [v for v in values if not any(v is x for x in graph.inputs)]).SerializeToString())
    for value in values:
        digest.update(f"\n{value.name}".encode())
    return digest.hexdigest()


def _packed(observers: Sequence[Observer]) -> bytes:
    file = io.BytesIO()
    numbers = np.array([astuple(seen)[:_NUMBERS] for seen in observers], np.float64).reshape(-1, _NUMBERS)
    np.savez_compressed(file, numbers=numbers, counts=np.array([seen.counts for seen in observers], np.int64))
    return file.getvalue()


def _read(cache_dir: Path | None, key: str, values: Sequence[Value]) -> dict[Value, Observer] | None:
    """The observers that were kept, None where there are none or the file is damaged."""
    content = read_cached(cache_dir, _KIND, key)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            numbers, counts = file["numbers"], file["counts"]
    except Exception:  # a damaged file: numpy, zipfile, zlib and tokenize each have errors of their own
        return None
    if (numbers.dtype, counts.dtype) != (np.float64, np.int64):
        return None
    if numbers.shape != (len(values), _NUMBERS) or counts.shape != (len(values), 2 * BINS):
        return None
    if not np.all(np.isfinite(numbers)):
        return None
    return {
        value: Observer(float(low), float(high), float(average_low), float(average_high), float(width), histogram)
        for value, (low, high, average_low, average_high, width), histogram in zip(values, numbers, counts, strict=True)
    }
