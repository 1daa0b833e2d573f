"""`tinyopt debug-quant`, and the section of the report: what quantization broke."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.digits import CALIBRATION, MODEL, SAMPLES, compiled_digits
from tests.graph_builder import GraphBuilder, ops_of, outputs_of, random_inputs
from tests.hostile_digits import CHANNEL, LAYER, write_hostile
from tests.quantized_graphs import quantize, real, weights
from tinyopt.cli.commands import main
from tinyopt.debug_quantization import debug_quantization
from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.options import CompileOptions
from tinyopt.quantization_error import ChannelError, LayerError, analyze_errors, beside_itself
from tinyopt.report.suspects import advice

_OPTIONS = CompileOptions(target="cortex-m4", calibration=CALIBRATION, calibration_samples=40)


def test_the_layer_with_the_hostile_channel_is_the_first_suspect(tmp_path: Path) -> None:
    model = tmp_path / "hostile.onnx"
    write_hostile(model)
    options = replace(_OPTIONS, disabled_passes=("equalize-layers",))
    section = debug_quantization(model, options, SAMPLES, 16)["quantization"]
    layers = {layer["name"]: layer for layer in section["layers"]}
    assert section["suspects"][0] == LAYER
    assert layers[LAYER]["widest_channel"]["index"] == CHANNEL
    assert layers[LAYER]["snr_channels_db"] < 20
    assert f"channel {CHANNEL} spans" in layers[LAYER]["advice"]
    assert "equalize-layers" in layers[LAYER]["advice"]


def test_a_tame_model_has_every_layer_once_with_finite_figures() -> None:
    section = debug_quantization(MODEL, _OPTIONS, samples=8)["quantization"]
    names = [layer["name"] for layer in section["layers"]]
    assert names[0] == "image"
    assert sorted(section["suspects"]) == sorted(names)
    assert section["samples"] == section["model_samples"] == 8
    costs = {layer["name"]: layer["snr_model_db"] for layer in section["layers"]}
    assert section["suspects"] == sorted(names, key=lambda name: costs[name])
    assert section["snr_db"] < min(costs.values())  # all together cost more than each alone


def test_the_report_of_a_compilation_has_the_section() -> None:
    folder = compiled_digits("cortex-m4")
    section = json.loads((folder / "report.json").read_text())["quantization"]
    assert section["model_samples"] == 0
    assert not any(layer["is_measured_at_outputs"] for layer in section["layers"])
    text = (folder / "report.txt").read_text()
    assert "What quantization broke" in text
    assert f"1  {next(x['op'] for x in section['layers'] if x['name'] == section['suspects'][0])}" in text


def test_float_compilations_have_none() -> None:
    report = json.loads((compiled_digits("host", is_quantized=False) / "report.json").read_text())
    assert report.get("quantization") is None


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["debug-quant", str(MODEL), "--calib", CALIBRATION, "--calib-samples", "20", "--samples", "4"]
    result = CliRunner().invoke(main, [*arguments, "--top", "3"])
    assert result.exit_code == 0
    assert "and 8 more" in result.output
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert len(found["quantization"]["suspects"]) == 11


def test_no_calibration_and_nothing_to_quantize_are_clean_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --calib"):
        debug_quantization(MODEL, CompileOptions())
    with pytest.raises(InvalidModelError, match="nothing is quantized"):
        debug_quantization(MODEL, replace(_OPTIONS, disabled_passes=("quantize",)))


def test_a_model_that_came_quantized_is_compared_with_itself_unrounded() -> None:
    build = GraphBuilder()
    x = real(build, quantize(build, build.input("x", (1, 6)), 0.02, 0))
    dense = build("Dense", x, weights(build, (4, 6)))
    graph = build.graph_of(real(build, quantize(build, dense, 0.01, -128)))  # the rounding is a Relu, too
    model = beside_itself(graph)
    assert model is not None
    assert ops_of(model.float_graph) == ["Dense", "Identity"]
    sample = random_inputs(graph)
    (with_rounding,), (without,) = outputs_of(graph, sample), outputs_of(model.float_graph, sample)
    assert 0 < np.max(np.abs(with_rounding - without)) < 0.03
    errors = analyze_errors(model, [sample])
    assert all((layer.snr_model_db or 0) > 30 for layer in errors.layers)
    assert [layer.name for layer in errors.layers] == ["x", "dense"]
    assert errors.layers[1].snr_constants_db == math.inf
    assert errors.layers[1].saturated == 0


_FINE = LayerError(
    name="conv",
    op="Conv",
    snr_alone_db=40.0,
    snr_constants_db=45.0,
    snr_output_db=42.0,
    snr_channels_db=38.0,
    snr_accumulated_db=39.0,
    snr_model_db=36.0,
    saturated=0.0,
    levels_used=0.9,
    range_used=1.0,
    worst_channels=(ChannelError(7, 20.0), ChannelError(1, 30.0)),
    widest_channel=(3, 1.5),
    largest=4.0,
    is_output_guilty=True,
)


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        (_FINE, "most in channel 7: int16 for its output"),
        (replace(_FINE, saturated=0.02), "2.0 % of its values lie beyond its range"),
        (replace(_FINE, widest_channel=(3, 100.0)), "channel 3 spans 100x the median channel: equalize-layers"),
        (replace(_FINE, widest_channel=(3, 100.0), is_output_guilty=False), "round-weights"),
        (replace(_FINE, range_used=0.25), "75 % of its integers lie unused"),
        (replace(_FINE, snr_accumulated_db=20.0), "comes from the layers before it"),
        (replace(_FINE, snr_model_db=70.0, widest_channel=(3, 1.5)), "nothing to win"),
        (replace(_FINE, snr_model_db=None, snr_channels_db=60.0), "nothing to win"),
    ],
)
def test_the_strongest_sign_gives_the_advice(layer: LayerError, wanted: str) -> None:
    assert wanted in advice(layer)
