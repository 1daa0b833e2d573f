"""Graph files: everything comes back as it was, equal graphs give equal bytes, broken files are refused."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder
from tinyopt.errors import InvalidModelError
from tinyopt.graph_file import load_graph, save_graph
from tinyopt.ir import Clusters, Graph, Quantization
from tinyopt.text import print_graph


def a_graph_with_everything() -> Graph:
    build = GraphBuilder("odd \n name \ud800")
    x = build.input("x", (1, 4, 4, 2))
    w = build.random_int8((3, 1, 1, 2), Quantization.per_channel([0.1, 0.2, 0.3], [0, 0, 0], 0))
    w.clusters = Clusters(
        np.array([0, 1, 2, 0, 1, 2], np.uint8).reshape(3, 1, 1, 2),
        np.array([-5, 0, 7], np.int8),
        np.array([0.1, 0.2, 0.3], np.float32),
    )
    w.constant = w.clusters.integers()
    real = build("DequantizeLinear", w)
    y = build("Conv", x, real, build.random((3,)), layout="NHWC", clamp_low=0.0)
    graph = build.graph_of(build("QuantizeLinear", y, quantization=Quantization.per_tensor(0.1, -3)), y)
    graph.nodes[1].origins = ("first", "second")
    return graph


def test_a_graph_comes_back_as_it_was(tmp_path: Path) -> None:
    graph = a_graph_with_everything()
    save_graph(graph, tmp_path / "graph.npz")
    back = load_graph(tmp_path / "graph.npz")
    assert print_graph(back) == print_graph(graph)
    assert [node.attributes for node in back.nodes] == [node.attributes for node in graph.nodes]
    assert back.nodes[1].attributes["clamp_high"] == math.inf
    assert isinstance(back.nodes[1].attributes["clamp_low"], float)
    for value, twin in zip(graph.values(), back.values(), strict=True):
        assert (value.name, value.type, value.quantization) == (twin.name, twin.type, twin.quantization)
        assert value.is_constant == twin.is_constant
        if value.is_constant:
            np.testing.assert_array_equal(value.data, twin.data)
    clusters = back.nodes[0].input(0).clusters
    assert clusters is not None
    np.testing.assert_array_equal(clusters.codebook, [-5, 0, 7])


def test_equal_graphs_give_equal_bytes(tmp_path: Path) -> None:
    save_graph(a_graph_with_everything(), tmp_path / "first")
    save_graph(a_graph_with_everything(), tmp_path / "second")
    save_graph(load_graph(tmp_path / "first"), tmp_path / "third")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "third").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"format": "tinyopt graph 1"', '"format": "other"', "format is 'other'"),
        ('"op": "Conv"', '"op": "Convolution"', "no known operator"),
        ('"nodes"', '"knots"', "no 'nodes'"),
        ('"group": 1', '"group": null', "attribute 'group' is None"),
        ('"group": 1', '"group": 2', "group 2"),
        ('"group": 1', '"group": "one"', "broken graph"),
        ('"group"', '"groups"', "broken graph"),
        ('"dtype": "int8"', '"dtype": "float99"', "float99"),
        ('"axis": 0', '"axis": 1', "do not fit"),
        ('"constant": "v1"', '"constant": "v9"', "no 'v9.npy'"),
        ('"constant": "v1"', '"constant": "v1_codebook"', "not what the structure says"),
        ('"outputs": [\n  5', '"outputs": [\n  50', "no value 50"),
        ('"outputs": [\n  5', '"outputs": [\n  true', "not of type int"),
        ("{", "[", "is no graph file"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    save_graph(a_graph_with_everything(), tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as good, zipfile.ZipFile(tmp_path / "bad", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith(".json"):
                assert old in content.decode()
                content = content.decode().replace(old, new, 1).encode()
            bad.writestr(name, content)
    with pytest.raises(InvalidModelError, match=complaint):
        load_graph(tmp_path / "bad")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", json.dumps({}).encode()])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidModelError, match="is no graph file"):
        load_graph(tmp_path / "file")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="nowhere"):
        load_graph(tmp_path / "nowhere")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    save_graph(a_graph_with_everything(), tmp_path / "good")
    np.savez(tmp_path / "pickle.npz", v1=np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "good") as good, zipfile.ZipFile(tmp_path / "pickle.npz", "a") as bad:
        bad.writestr("graph.json", good.read("graph.json"))
    with pytest.raises(InvalidModelError, match="is no graph file"):
        load_graph(tmp_path / "pickle.npz")
