"""What the report says clustered weights take is what a compiler puts into the object file."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cortex_m_harness import require_tools
from digits import MODEL, options_for

from tinyopt.api import compile_model
from tinyopt.targets.kernels.dsp.clustered.layer import RESCALING_BYTES

_FLAGS = ("-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-std=gnu99", "-O3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits with 16 values to a layer, for a Cortex-M4; some layers' indices do not fill whole words."""
    require_tools()
    options = replace(options_for("cortex-m4"), cluster=16, cluster_cost=4.0)
    return compile_model(MODEL, tmp_path_factory.mktemp("clustered") / "out", options).folder


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return found


def _object(folder: Path, source: str, work: Path) -> Path:
    path = work / f"{source}.o"
    subprocess.run(["arm-none-eabi-gcc", *_FLAGS, "-c", folder / source, "-o", path], check=True)
    return path


def _sections(path: Path) -> dict[str, int]:
    """Bytes of each section."""
    lines = subprocess.run(["arm-none-eabi-size", "-A", path], check=True, capture_output=True, text=True).stdout
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", lines, re.MULTILINE)}


def _symbols(path: Path) -> dict[str, int]:
    """Bytes of each symbol."""
    lines = subprocess.run(["arm-none-eabi-nm", "-S", path], check=True, capture_output=True, text=True).stdout
    return {name: int(size, 16) for size, name in re.findall(r"^\S+ (\S+) R (\S+)$", lines, re.MULTILINE)}


def test_the_constants_in_the_report_are_the_bytes_of_the_section(folder: Path, tmp_path: Path) -> None:
    weights = _object(folder, "digits_weights.c", tmp_path)
    after = _report(folder)["after"]
    assert _sections(weights)[".rodata"] == after["flash_constant_bytes"] == sum(_symbols(weights).values())
    assert after["flash_bytes"] == after["flash_constant_bytes"] + after["flash_code_bytes"]


def test_what_a_layers_clusters_take_are_the_bytes_of_its_symbols(folder: Path, tmp_path: Path) -> None:
    symbols = _symbols(_object(folder, "digits_weights.c", tmp_path))
    layers = [layer for layer in _report(folder)["layers"] if layer["clusters"] and layer["clusters"]["is_decoded"]]
    assert len(layers) > 2
    for layer in layers:
        named = set(re.findall(r"digits_(?:weight|codebook)_\d+", layer["c"]["call"]))
        biases = 0 if "depthwise" in layer["kernel"] else RESCALING_BYTES * layer["shape"][-1]
        assert layer["clusters"]["bytes"] == sum(symbols[name] for name in named) - biases
