"""Compile the MLPerf Tiny models and take pictures of their report.html.

python tools/screenshots.py --models DIR --data DIR --output DIR [--target cortex-m4]

With `--models examples --data examples --only digits` it takes those of the documentation, which are kept in
docs/images with fewer colours.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from headless import chromium, missing_program, open_page, resize
from matrix import PIXEL_SCALES
from selenium.webdriver.chrome.webdriver import WebDriver

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import TinyoptError, ToolchainError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.profile import profile
from tinyopt.options import CompileOptions
from tinyopt.report.html.build import refresh_page
from tinyopt.samples import random_samples
from tinyopt.toolchain import DEFAULT_COMPILER

DESK, PHONE, PAGE = (1440, 900), (390, 844), (1280, 720)
PRUNE = {"kws01": 0.2, "ic01": 0.3}
CLUSTERS = {"kws01": 32}


@dataclass(frozen=True)
class Shot:
    """One picture: the page at `fragment`, after `script`."""

    name: str
    model: str
    fragment: str
    size: tuple[int, int] = DESK
    scheme: str = "light"
    script: str = ""


def _click(op: str, position: int = 0) -> str:
    """Click on the node number `position` of an operator in the right panel."""
    return f"""
        const wanted = [...document.querySelectorAll(".panel[data-side=after] .node")]
            .filter((node) => node.nextElementSibling.textContent.startsWith("{op}"));
        wanted[{position}].dispatchEvent(new MouseEvent("click", {{ bubbles: true }}));
    """


def _overlay(name: str) -> str:
    return f"""
        const select = document.getElementById("overlay");
        select.value = "{name}";
        select.dispatchEvent(new Event("change"));
    """


SHOTS = (
    Shot("digits-fusion", "digits", "pass=fuse-operators", PAGE, script=_click("Conv", 3)),
    Shot("digits-memory", "digits", "tab=memory", PAGE),
    Shot("digits-quantization", "digits", "tab=quantization", PAGE),
    Shot("vww01-pipeline", "vww01", "pass=fuse-operators"),
    Shot("vww01-quantize", "vww01", "pass=quantize"),
    Shot("vww01-memory", "vww01", "tab=memory"),
    Shot("kws01-import", "kws01", "pass=import"),
    Shot("kws01-fusion", "kws01", "pass=fuse-operators"),
    Shot("kws01-fusion-node", "kws01", "pass=fuse-operators", script=_click("Conv", 3)),
    Shot("kws01-quantize", "kws01", "pass=quantize"),
    Shot("kws01-lowering", "kws01", "pass=lower-integer"),
    Shot("kws01-instructions", "kws01", "pass=compiled", script=_overlay("instructions")),
    Shot("kws01-layers", "kws01", "tab=layers"),
    Shot("kws01-compression", "kws01", "tab=compression"),
    Shot("kws01-memory", "kws01", "tab=memory"),
    Shot("kws01-quantization", "kws01", "tab=quantization"),
    Shot("kws01-verdicts", "kws01", "tab=verdicts"),
    Shot("kws01-phone", "kws01", "pass=fuse-operators", PHONE),
    Shot("ic01-pruned-node", "ic01", "pass=prune-channels", script=_click("Conv", 1)),
    Shot("ic01-dark", "ic01", "pass=prune-channels", scheme="dark", script=_click("Conv", 1)),
    Shot("ic01-memory-dark", "ic01", "tab=memory", scheme="dark"),
)


def main() -> int:
    """Compile, count instructions where an emulator is there, and take every picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of ONNX files")
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files named as the models")
    parser.add_argument("--output", type=Path, required=True, help="folder for builds and pictures")
    parser.add_argument("--target", default="cortex-m4")
    parser.add_argument("--only", help="only pictures whose name contains this")
    arguments = parser.parse_args()
    if (program := missing_program()) is not None:
        print(f"error: {program} is not installed (Debian: chromium, chromium-driver)", file=sys.stderr)
        return 7
    shots = [shot for shot in SHOTS if (arguments.only or "") in shot.name]
    pages = {model: _page(model, arguments) for model in dict.fromkeys(shot.model for shot in shots)}
    with chromium() as driver:
        for shot in shots:
            file = arguments.output / f"{shot.name}.png"
            _take(driver, shot, pages[shot.model], file)
            print(file)
    return 0


def _page(model: str, arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.output / model
    options = CompileOptions(
        target=arguments.target,
        calibration=f"{arguments.data / model}.npz:calib",
        calibration_scale=PIXEL_SCALES.get(model, 1.0),
        calibration_samples=50,
        prune=PRUNE.get(model, 0.0),
        cluster=CLUSTERS.get(model, 0),
        cache_dir=default_cache_dir(),
    )
    compile_model(arguments.models / f"{model}.onnx", folder, options)
    built = load_built_model(folder)
    try:
        counts = profile(built, random_samples(built.graph.inputs, 1, 0)[0], DEFAULT_COMPILER, default_cache_dir())
        refresh_page(folder, asdict(counts))
    except ToolchainError as error:
        print(f"no instruction counts: {error}", file=sys.stderr)
    return folder / "report.html"


def _take(driver: WebDriver, shot: Shot, page: Path, file: Path) -> None:
    resize(driver, *shot.size)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": shot.scheme}]}
    )
    open_page(driver, page, shot.fragment)
    if shot.script:
        driver.execute_script(shot.script)
    time.sleep(0.3)  # the page paints after the script returned
    driver.save_screenshot(str(file))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TinyoptError as error:
        sys.exit(f"error: {error}")
