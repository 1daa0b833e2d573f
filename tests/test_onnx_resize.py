"""The importer: every mode of Resize gives onnxruntime's numbers, and what ONNX leaves open is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tests.onnx_models import assert_same_as_runtime, model_of, node, random_inputs, runtime_outputs
from tinyopt.errors import UnsupportedOperatorError
from tinyopt.evaluate import evaluate
from tinyopt.onnx_import import import_proto

_X = (1, 2, 7, 9)


def _floats(*values: float) -> Any:
    return np.array(values, np.float32)


def _ints(*values: int) -> Any:
    return np.array(values, np.int64)


@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("sizes", [(13, 4), (1, 9), (20, 30)])
def test_cubic(coordinates: str, sizes: tuple[int, int]) -> None:
    attributes: dict[str, Any] = {"mode": "cubic", "coordinate_transformation_mode": coordinates, "cubic_coeff_a": -0.5}
    operator = node("Resize", "x - - s", axes=[2, 3], **attributes)
    graph = assert_same_as_runtime(model_of([operator], {"x": _X}, {"s": _ints(*sizes)}, opset=18), 1e-4)
    assert {item.op for item in graph.nodes} == {"Interpolate"}


def test_cubic_that_leaves_out_what_lies_outside() -> None:
    operator = node("Resize", "x - s", mode="cubic", exclude_outside=1)
    assert_same_as_runtime(model_of([operator], {"x": _X}, {"s": _floats(1, 1, 2.5, 0.5)}), 1e-4)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside", [0, 1])
def test_antialiasing(mode: str, exclude_outside: int) -> None:
    operator = node("Resize", "x - - s", mode=mode, antialias=1, exclude_outside=exclude_outside)
    assert_same_as_runtime(model_of([operator], {"x": (1, 2, 16, 20)}, {"s": _ints(1, 2, 5, 10)}, opset=18), 1e-4)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("part", [(0.1, 0.3, 0.8, 0.7), (-0.3, 0.2, 1.2, 1.6), (0.6, 0.9, 0.2, 0.1)])
def test_cropping(mode: str, part: tuple[float, ...]) -> None:
    attributes: dict[str, Any] = {
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 3.5,
        "mode": mode,
    }
    operator = node("Resize", "x r - s", **attributes)
    roi = _floats(0, 0, *part[:2], 1, 1, *part[2:])
    model = model_of([operator], {"x": _X}, {"r": roi, "s": _ints(1, 2, 6, 5)})
    graph = import_proto(model, "m", {}).graph
    inputs = random_inputs(graph)
    (got,), (wanted,) = evaluate(graph, inputs).values(), runtime_outputs(model, inputs)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_a_scale_that_leaves_the_size_moves_the_image_all_the_same(mode: str) -> None:
    """As ONNX defines it; onnxruntime gives the image as it was."""
    operator = node("Resize", "x - s", mode=mode, coordinate_transformation_mode="asymmetric")
    model = model_of([operator], {"x": _X}, {"s": _floats(1, 1, 1.1, 1)})
    graph = import_proto(model, "m", {}).graph
    assert graph.outputs[0].shape == _X
    inputs = random_inputs(graph)
    (got,), (wanted,) = evaluate(graph, inputs).values(), ReferenceEvaluator(model).run(None, inputs)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("policy", "shape"), [("not_larger", (1, 2, 6, 8)), ("not_smaller", (1, 2, 9, 12))])
def test_the_aspect_ratio_is_kept(policy: str, shape: tuple[int, ...]) -> None:
    operator = node("Resize", "x - - s", axes=[3, 2], mode="linear", keep_aspect_ratio_policy=policy)
    graph = assert_same_as_runtime(model_of([operator], {"x": (1, 2, 7, 9)}, {"s": _ints(12, 6)}, opset=18), 1e-4)
    assert graph.outputs[0].shape == shape


def test_scales_that_onnx_and_its_runtimes_read_differently_are_refused() -> None:
    attributes: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    model = model_of([node("Resize", "x - s", **attributes)], {"x": _X}, {"s": _floats(1, 1, 0.6, 1)})
    with pytest.raises(UnsupportedOperatorError, match=r"Resize .*give no whole sizes.* export the model with sizes"):
        import_proto(model, "m", {})


def test_a_resize_whose_tables_would_be_too_large_is_refused() -> None:
    for mode in ("nearest", "cubic"):
        model = model_of([node("Resize", "x - - s", mode=mode)], {"x": (1, 1)}, {"s": _ints(1, 100_000_000)}, opset=18)
        with pytest.raises(UnsupportedOperatorError, match="axis 1 resized from 1 to 100000000 would take"):
            import_proto(model, "m", {})
