"""The example network and its data, compiled once for each way that tests ask for."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.options import CompileOptions

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MODEL = EXAMPLES / "digits.onnx"
DATA = EXAMPLES / "digits.npz"
CALIBRATION = f"{DATA}:calib"
SAMPLES = f"{DATA}:x"


def options_for(target: str, is_quantized: bool = True) -> CompileOptions:
    return CompileOptions(
        target=target,
        calibration=CALIBRATION if is_quantized else None,
        calibration_samples=20 if is_quantized else None,
        is_quantized=is_quantized,
        cache_dir=default_cache_dir(),
    )


@cache
def compiled_digits(target: str, is_quantized: bool = True) -> Path:
    """The output folder, which tests only read (`shutil.copytree` makes one to play with)."""
    parent = Path(mkdtemp(prefix="tinyopt-digits-"))
    atexit.register(shutil.rmtree, parent)
    return compile_model(MODEL, parent / "out", options_for(target, is_quantized)).folder
