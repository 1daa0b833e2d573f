"""`tinyopt debug-quant`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.cli.parsing import parse_settings, parse_shapes
from tinyopt.cli.quantize_options import WEIGHT_BITS, ranges_option, weights_option
from tinyopt.cli.sample_options import SOURCES, parse_numbers
from tinyopt.cli.target_option import target_option
from tinyopt.debug_quantization import DEFAULT_SAMPLES, debug_quantization
from tinyopt.options import CompileOptions
from tinyopt.report.quantization_table import quantization_table


@click.command("debug-quant", short_help="Measure which layers quantization hurts, and say what helps.")
@click.argument("model", type=FILE)
@click.option("--calib", multiple=True, metavar="FILE", required=True, help=f"Calibration samples: {SOURCES}.")
@click.option("--calib-mean", type=parse_numbers, default="0", show_default=True, metavar="MEAN", help="As in compile.")
@click.option(
    "--calib-scale", type=parse_numbers, default="1", show_default=True, metavar="SCALE", help="As in compile."
)
@click.option("--calib-samples", type=click.IntRange(1), metavar="N", help="Calibrate on only N of them.")
@click.option("--data", metavar="FILE", help="Samples to measure on.  [default: those of --calib]")
@click.option(
    "--samples", default=DEFAULT_SAMPLES, show_default=True, type=click.IntRange(1), help="Measure on so many."
)
@target_option
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1,3,96,96", help="Shape of an input.")
@ranges_option
@weights_option
@click.option("--disable-pass", "disabled", multiple=True, metavar="PASS", help="Leave a pass out.")
@click.option("--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE", help="Set a pass's option.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="List only the N first.")
@click.option("-v", "--verbose", count=True, help="Say more: -vv tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, as in report.json.")
def debug_quant_command(
    model: Path,
    calib: tuple[str, ...],
    calib_mean: tuple[float, ...],
    calib_scale: tuple[float, ...],
    calib_samples: int | None,
    data: str | None,
    samples: int,
    target: str,
    shapes: tuple[str, ...],
    ranges: str,
    weights: str,
    disabled: tuple[str, ...],
    settings: tuple[str, ...],
    top: int | None,
    verbose: int,
    quiet: bool,
    is_json: bool,
) -> None:
    """Quantize the ONNX file MODEL and list its layers in the order to look at, with what to do about each.

    Nothing is written. Signal to noise in dB against the float model: `alone` with this layer quantized and its inputs
    exact, `accumulated` with all layers quantized, `channels` alone with every channel counting alike, `at outputs` of
    the model with this layer alone quantized. The list is sorted by the last.

    \b
    tinyopt debug-quant kws.onnx --calib calib.npz:x --data test.npz:x
    tinyopt debug-quant kws.onnx --calib calib.npz:x --disable-pass equalize-layers --top 5
    """
    screen = Output(-1 if quiet else verbose, is_json)
    with reported_errors(screen):
        options = CompileOptions(
            target=target,
            shapes=parse_shapes(shapes),
            calibration=calib,
            calibration_mean=calib_mean,
            calibration_scale=calib_scale,
            calibration_samples=calib_samples,
            ranges=ranges,
            weight_bits=WEIGHT_BITS[weights],
            disabled_passes=disabled,
            settings=parse_settings(settings),
        )
        with screen.progress() as progress:
            found = debug_quantization(model, options, data, samples, progress)
        screen.show(quantization_table(found["quantization"], top), found)
