"""The importer: transforms, grids and sums of blocks, and Pad and CenterCropPad, give the numbers that ONNX defines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests.onnx_models import assert_same_as_runtime, model_of, node, random_inputs
from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph
from tinyopt.onnx_import import import_proto


def _ints(*values: int) -> Any:
    return np.array(values, np.int64)


def _scalar(value: int) -> Any:
    return np.array(value, np.int64)


def assert_same_as_reference(
    operator: onnx.NodeProto, shape: tuple[int, ...], constants: dict[str, Any], opset: int
) -> Graph:
    """The operator gives the numbers of ONNX's reference implementation."""
    model = model_of([operator], {"x": shape}, constants, opset=opset)
    graph = import_proto(model, "m", {}).graph
    inputs = random_inputs(graph)
    (got,) = evaluate(graph, inputs).values()
    outputs: Any = ReferenceEvaluator(model).run(None, inputs)
    wanted = np.asarray(outputs[0])
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    return graph


@pytest.mark.parametrize("length", [None, 5, 8, 13])
@pytest.mark.parametrize(
    ("parts", "attributes"),
    [
        (1, {}),
        (2, {}),
        (1, {"onesided": 1}),
        (2, {"inverse": 1}),
        (1, {"inverse": 1}),
        (2, {"inverse": 1, "onesided": 1}),
    ],
)
def test_fourier_transforms_of_every_kind_and_length(
    length: int | None, parts: int, attributes: dict[str, Any]
) -> None:
    operator = node("DFT", "x n" if length else "x", **attributes)
    constants = {} if length is None else {"n": _scalar(length)}
    assert_same_as_reference(operator, (2, 3, 8, parts), constants, 20)


def test_a_fourier_transform_along_another_axis() -> None:
    for opset, operator in ((17, node("DFT", "x", axis=1)), (20, node("DFT", "x - a"))):
        constants = {"a": _scalar(-3)} if opset == 20 else {}
        assert_same_as_reference(operator, (2, 6, 3, 2), constants, opset)


@pytest.mark.parametrize("onesided", [0, 1])
def test_short_time_fourier_transforms(onesided: int) -> None:
    window = np.hanning(6).astype(np.float32)
    operator = node("STFT", "x s w", onesided=onesided)
    assert_same_as_runtime(model_of([operator], {"x": (2, 20, 1)}, {"s": _scalar(3), "w": window}), 1e-4)


def test_blocks_that_overlap_are_summed() -> None:
    attributes: dict[str, Any] = {"strides": [2, 1], "pads": [1, 0, 0, 1], "dilations": [1, 2]}
    operator = node("Col2Im", "x i b", **attributes)
    graph = assert_same_as_runtime(
        model_of([operator], {"x": (2, 12, 4)}, {"i": _ints(4, 5), "b": _ints(2, 3)}, opset=18)
    )
    assert "Interpolate" in {item.op for item in graph.nodes}


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 2, 3, 2, 4)])
def test_affine_grids(align_corners: int, size: tuple[int, ...]) -> None:
    dims = len(size) - 2
    operator = node("AffineGrid", "x s", align_corners=align_corners)
    assert_same_as_reference(operator, (size[0], dims, dims + 1), {"s": _ints(*size)}, 20)


def test_a_transform_whose_matrix_would_be_too_large_is_refused() -> None:
    model = model_of([node("DFT", "x", name="long")], {"x": (1, 100_000, 1)}, opset=20)
    with pytest.raises(UnsupportedOperatorError, match=r"DFT \(node 'long'\): .*coefficients; tinyopt takes up to"):
        import_proto(model, "m", {})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pads_of_every_mode(mode: str) -> None:
    value = [] if mode != "constant" else ["v"]
    operator = node("Pad", " ".join(["x", "p", *value]), mode=mode)
    constants: dict[str, Any] = {"p": _ints(0, 1, 2, 0, 2, 1), "v": np.array(-1.5, np.float32)}
    assert_same_as_runtime(model_of([operator], {"x": (2, 3, 4)}, {k: constants[k] for k in ["p", *value]}, opset=19))


@pytest.mark.parametrize(("shape", "axes"), [((3, 8), [1, 2]), ((5, 3), [-1, 0]), ((1, 1, 9), None)])
def test_cropping_and_padding_about_the_centre(shape: tuple[int, ...], axes: list[int] | None) -> None:
    attributes: dict[str, Any] = {"axes": axes} if axes else {}
    operator = node("CenterCropPad", "x s", **attributes)
    assert_same_as_runtime(model_of([operator], {"x": (2, 4, 5)}, {"s": _ints(*shape)}, opset=18))


def test_a_onesided_transform_of_complex_numbers_is_an_error() -> None:
    with pytest.raises(InvalidModelError, match="onesided transform"):
        import_proto(model_of([node("DFT", "x", onesided=1)], {"x": (1, 8, 2)}, opset=20), "m", {})
