"""A graph in a file, exactly: a zip of one JSON text and the arrays of its constants (a NumPy .npz without pickles).

Equal graphs give equal bytes. Reading checks everything: a file may come from anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from tinyopt.array_digest import digest_array
from tinyopt.errors import InvalidModelError, VerifierError
from tinyopt.ir import DTYPES, Array, Attribute, Clusters, Graph, Node, Quantization, TensorType, Value
from tinyopt.verify import verify

_FORMAT = "tinyopt graph 1"
_STRUCTURE = "graph.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold
_LARGE_BYTES = 2**20  # of floats, which are stored as they are: to compress them takes seconds, and saves a tenth

_T = TypeVar("_T")


class _BrokenFileError(Exception):
    """What is wrong with the file that is being read."""


_DAMAGES = (  # what the readers of zip, JSON and arrays raise
    _BrokenFileError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_graph(graph: Graph, path: Path | IO[bytes]) -> None:
    """Write `graph` with its constants, quantization, clusters, attributes and origins."""
    arrays: dict[str, Array] = {}
    structure = json.dumps(_encode_graph(graph, arrays), indent=1, allow_nan=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry(_STRUCTURE, zipfile.ZIP_DEFLATED), structure)
        for name, array in arrays.items():
            is_large = array.dtype.kind == "f" and array.nbytes >= _LARGE_BYTES
            entry = _entry(f"{name}.npy", zipfile.ZIP_STORED if is_large else zipfile.ZIP_DEFLATED)
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def digest_graph(graph: Graph) -> bytes:
    """A hash that differs where what `save_graph` writes does.

    Arrays are hashed once, for passes share them, and cannot be written to from then on.
    """
    arrays: dict[str, Array] = {}
    digest = hashlib.sha256(json.dumps(_encode_graph(graph, arrays), allow_nan=False).encode())
    for array in arrays.values():
        digest.update(digest_array(array))
    return digest.digest()


def load_graph(path: Path | IO[bytes]) -> Graph:
    """Read what `save_graph` wrote.

    Raises InvalidModelError where the file is missing, damaged, or breaks the rules of the IR.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            structure = json.loads(archive.read(_STRUCTURE))
            arrays = {name: _read_array(archive, name) for name in archive.namelist() if name != _STRUCTURE}
        graph = _decode_graph(structure, arrays)
    except OSError as error:
        raise InvalidModelError(f"graph file '{path}' cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise InvalidModelError(f"'{path}' is no graph file of tinyopt: it has no {error}") from error
    except _DAMAGES as error:
        raise InvalidModelError(f"'{path}' is no graph file of tinyopt: {error}") from error
    _check(graph, path)
    return graph


def _check(graph: Graph, path: Path | IO[bytes]) -> None:
    """The rules of the IR; attributes that are missing or of the wrong type make the shape rules themselves fail."""
    try:
        verify(graph, after=f"reading '{path}'")
    except (VerifierError, AssertionError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidModelError(f"'{path}' holds a broken graph: {error!r}") from error


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = compression
    entry.create_system = 3  # Unix, wherever it is written
    return entry


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    return np.asarray(np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False))


def _encode_graph(graph: Graph, arrays: dict[str, Array]) -> dict[str, Any]:
    values = list(graph.values())
    numbers = {id(value): number for number, value in enumerate(values)}
    return {
        "format": _FORMAT,
        "name": graph.name,
        "inputs": [numbers[id(value)] for value in graph.inputs],
        "outputs": [numbers[id(value)] for value in graph.outputs],
        "values": [_encode_value(value, f"v{number}", arrays) for number, value in enumerate(values)],
        "nodes": [
            {
                "op": node.op,
                "name": node.name,
                "inputs": [None if value is None else numbers[id(value)] for value in node.inputs],
                "outputs": [numbers[id(value)] for value in node.outputs],
                "attributes": {key: _encode_attribute(value) for key, value in node.attributes.items()},
                "origins": list(node.origins),
            }
            for node in graph.nodes
        ],
    }


def _encode_value(value: Value, stem: str, arrays: dict[str, Array]) -> dict[str, Any]:
    encoded: dict[str, Any] = {"name": value.name, "dtype": value.dtype, "shape": list(value.shape)}
    if value.constant is not None:
        encoded["constant"] = stem
        arrays[stem] = value.constant
    if value.quantization is not None:
        q = value.quantization
        encoded["quantization"] = {"scale": list(q.scale), "zero_point": list(q.zero_point), "axis": q.axis}
    if value.clusters is not None:
        encoded["clusters"] = stem
        encoded["cluster_cost_limit"] = _encode_attribute(value.clusters.cost_limit)
        arrays[f"{stem}_indices"] = value.clusters.indices
        arrays[f"{stem}_codebook"] = value.clusters.codebook
        arrays[f"{stem}_scale"] = value.clusters.scale
    return encoded


def _encode_attribute(value: Attribute) -> Any:
    """JSON knows no infinity: such a number becomes {"float": "inf"}."""
    if isinstance(value, tuple):
        return [_encode_attribute(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _decode_graph(structure: Any, arrays: dict[str, Array]) -> Graph:
    whole = _expect(dict, structure, "the structure")
    if whole.get("format") != _FORMAT:
        raise _BrokenFileError(f"its format is {whole.get('format')!r}, not {_FORMAT!r}")
    values = [_decode_value(_expect(dict, item, "a value"), arrays) for item in _list(whole, "values")]

    def pick(number: Any) -> Value:
        index = _expect(int, number, "the number of a value")
        if not 0 <= index < len(values):
            raise _BrokenFileError(f"it has no value {index}")
        return values[index]

    return Graph(
        _expect(str, whole["name"], "the name"),
        [pick(number) for number in _list(whole, "inputs")],
        [pick(number) for number in _list(whole, "outputs")],
        [_decode_node(_expect(dict, item, "a node"), pick) for item in _list(whole, "nodes")],
    )


def _decode_node(item: dict[str, Any], pick: Callable[[Any], Value]) -> Node:
    attributes = _expect(dict, item["attributes"], "the attributes")
    return Node(
        _expect(str, item["op"], "an operator"),
        _expect(str, item["name"], "the name of a node"),
        [None if number is None else pick(number) for number in _list(item, "inputs")],
        [pick(number) for number in _list(item, "outputs")],
        {key: _decode_attribute(key, value) for key, value in attributes.items()},
        _tuple(str, item["origins"], "an origin"),
    )


def _decode_value(item: dict[str, Any], arrays: dict[str, Array]) -> Value:
    name = _expect(str, item["name"], "the name of a value")
    dtype, shape = _expect(str, item["dtype"], "a dtype"), _tuple(int, item["shape"], "a dimension")
    if dtype not in DTYPES or min(shape, default=0) < 0:
        raise _BrokenFileError(f"'{name}' has the type {dtype}{list(shape)}")
    constant = _array(arrays, item["constant"], DTYPES[dtype], shape) if "constant" in item else None
    return Value(
        name,
        TensorType(dtype, shape),
        constant,
        _decode_quantization(name, _expect(dict, item["quantization"], "a quantization"), shape)
        if "quantization" in item
        else None,
        _decode_clusters(item, shape, arrays) if "clusters" in item else None,
    )


def _decode_quantization(name: str, item: dict[str, Any], shape: tuple[int, ...]) -> Quantization:
    scale = _tuple(float, item["scale"], "a scale")
    zero_point = _tuple(int, item["zero_point"], "a zero point")
    axis = None if item["axis"] is None else _expect(int, item["axis"], "an axis")
    if axis is not None and not 0 <= axis < len(shape):
        raise _BrokenFileError(f"'{name}' has no axis {axis}")
    count = 1 if axis is None else shape[axis]
    if len(scale) != count or len(zero_point) != count or not all(map(math.isfinite, scale)):
        raise _BrokenFileError(f"the scales and zero points of '{name}' do not fit its shape {list(shape)}")
    return Quantization(scale, zero_point, axis)


def _decode_clusters(item: dict[str, Any], shape: tuple[int, ...], arrays: dict[str, Array]) -> Clusters:
    stem, cost_limit = item["clusters"], _decode_attribute("cluster_cost_limit", item["cluster_cost_limit"])
    indices = _array(arrays, f"{stem}_indices", np.dtype(np.uint8), shape)
    codebook = _array(arrays, f"{stem}_codebook", np.dtype(np.int8), None)
    scale = _array(arrays, f"{stem}_scale", np.dtype(np.float32), None)
    if codebook.ndim != 1 or scale.ndim != 1 or int(indices.max(initial=0)) >= len(codebook):
        raise _BrokenFileError(f"the clusters of '{stem}' do not fit together")
    if not isinstance(cost_limit, int | float):
        raise _BrokenFileError(f"the cost limit of the clusters '{stem}' is {cost_limit}")
    return Clusters(indices, codebook, scale, cost_limit)


def _decode_attribute(key: str, value: Any) -> Attribute:
    if isinstance(value, list):
        items = [_decode_attribute(key, item) for item in value]
        if all(type(item) is int for item in items):
            return tuple(item for item in items if isinstance(item, int))
        return _tuple(float, items, f"an item of attribute '{key}'")
    if isinstance(value, dict):
        return _non_finite(value)
    if isinstance(value, bool | int | float | str):
        return value
    raise _BrokenFileError(f"attribute '{key}' is {value!r}")


def _non_finite(item: dict[str, Any]) -> float:
    numbers = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
    return numbers[_expect(str, item["float"], "a number")]


def _array(arrays: dict[str, Array], name: Any, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> Array:
    array = arrays[f"{name}.npy"]
    if array.dtype != dtype or (shape is not None and array.shape != shape):
        raise _BrokenFileError(f"array '{name}' is {array.dtype}{list(array.shape)}, not what the structure says")
    return array


def _list(item: dict[str, Any], key: str) -> list[Any]:
    return _expect(list, item[key], f"'{key}'")


def _tuple(kind: type[_T], items: Iterable[Any], what: str) -> tuple[_T, ...]:
    return tuple(_expect(kind, item, what) for item in items)


def _expect(kind: type[_T], item: Any, what: str) -> _T:
    """`item`, which must be of this very type: True is no int here."""
    if type(item) is not kind:
        raise _BrokenFileError(f"{what} is {item!r}, not of type {kind.__name__}")
    return item
