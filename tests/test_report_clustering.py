"""What the report says of clustered weights, and of all constants, is what the object file holds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.digits import MODEL, options_for
from tinyopt.api import compile_model
from tinyopt.report.clustering import four_bit_notes
from tinyopt.report.text import plain_text

MACHINE = ("-mcpu=cortex-m4", "-mthumb")
INT8_LOGITS = {"quantize": {"wide_logits": "false"}}  # layers that give int16 keep 8 bits for weight_bits=4
RESCALING_BYTES = 8  # bias and multiplier, which lie among the places of each channel but in depthwise layers


@pytest.mark.parametrize("weights", [{"cluster": 16}, {"weight_bits": 4}], ids=lambda weights: next(iter(weights)))
def test_the_bytes_of_clustered_layers_are_those_of_the_object_file(weights: dict[str, int], tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    options = replace(options_for("cortex-m4"), cluster_cost=10.0, settings=INT8_LOGITS, **weights)  # type: ignore[arg-type]
    report = compile_model(MODEL, tmp_path / "out", options).report
    assert not any("take a byte for each" in note for note in report["model"]["notes"])
    compiled = tmp_path / "weights.o"
    source = tmp_path / "out" / "digits_weights.c"
    subprocess.run(["arm-none-eabi-gcc", *MACHINE, "-O1", "-c", source, "-o", compiled], check=True)
    symbols = subprocess.run(["arm-none-eabi-nm", "-S", compiled], capture_output=True, text=True, check=True).stdout
    sections = subprocess.run(["arm-none-eabi-size", "-A", compiled], capture_output=True, text=True, check=True).stdout
    after = report["after"]
    assert re.findall(r"^\.rodata +(\d+)", sections, re.MULTILINE) == [str(after["flash_constant_bytes"])]
    assert after["flash_bytes"] == after["flash_constant_bytes"] + after["flash_code_bytes"]
    sizes = {fields[3]: int(fields[1], 16) for line in symbols.splitlines() if len(fields := line.split()) == 4}
    decoded = [layer for layer in report["layers"] if layer["clusters"] and layer["clusters"]["is_decoded"]]
    assert {layer["op"] for layer in decoded} == {"QConv", "QDense"}
    for layer in decoded:
        names = re.findall(r"digits_(?:weight|codebook)_\d+", layer["c"]["call"])
        rescaling = 0 if "depthwise" in layer["kernel"] else RESCALING_BYTES * layer["shape"][-1]
        assert sum(sizes[name] for name in names) - rescaling == layer["clusters"]["bytes"], layer["name"]
        assert layer["clusters"]["saved_bytes"] == layer["clusters"]["int8_bytes"] - layer["clusters"]["bytes"] > 0


def test_a_layer_that_keeps_int8_weights_says_so_and_why(tmp_path: Path) -> None:
    options = replace(options_for("cortex-m4"), cluster=16, cluster_cost=1.0, settings=INT8_LOGITS)
    result = compile_model(MODEL, tmp_path / "out", options)
    folder = result.folder
    (note,) = four_bit_notes(result.program.calls, weight_bits=4)
    assert "take a byte for each" in note
    report = json.loads((folder / "report.json").read_text())
    classifier = next(layer for layer in report["layers"] if layer["op"] == "QDense")
    assert classifier["clusters"]["saved_bytes"] == 0
    assert any("(the limit is 1)" in reason for reason in classifier["refusals"])
    line = next(line for line in plain_text(report).splitlines() if " int8 kept" in line and " classifier " in line)
    assert line.split()[:6] == ["8", "classifier", "16", "320", "320", "0"]
    assert "int8 kept" in (folder / "report.html").read_text(encoding="utf-8")
