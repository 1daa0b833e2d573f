"""The options of `tinyopt compile`, and what they ask for as one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from tinyopt.cli.build_options import BUILD_OPTIONS
from tinyopt.cli.completing import FILE, complete_file
from tinyopt.cli.compression_options import COMPRESSION_OPTIONS
from tinyopt.cli.parsing import parse_memory, parse_settings, parse_shapes
from tinyopt.cli.quantize_options import WEIGHT_BITS, ranges_option, weights_option
from tinyopt.cli.recipe_option import recipe_option
from tinyopt.cli.sample_options import SOURCES, parse_numbers
from tinyopt.cli.target_option import target_option
from tinyopt.disk_cache import default_cache_dir
from tinyopt.options import MOST_THREADS, CompileOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])


def compile_options(command: _Command) -> _Command:
    """The options of `tinyopt compile`, in the order of its help."""
    for option in reversed(
        [
            recipe_option,
            target_option,
            click.option("--output", "-o", type=FILE, help="Folder to write.  [default: the model's name]"),
            click.option("--name", help="Prefix of C names and files.  [default: the model's name]"),
            click.option(
                "--shape",
                "shapes",
                multiple=True,
                metavar="NAME=1,3,96,96",
                help="Shape of an input that the model leaves open.",
            ),
            click.option(
                "--calib",
                multiple=True,
                shell_complete=complete_file,
                metavar="FILE",
                help=f"Calibration samples: {SOURCES}; or `random` to try without any. "
                "Several inputs: --calib NAME=FILE for each.",
            ),
            click.option(
                "--calib-mean",
                type=parse_numbers,
                default="0",
                show_default=True,
                metavar="MEAN",
                help="real = (raw - mean) * scale: a number, or one per channel such as 123.7,116.3,103.5.",
            ),
            click.option(
                "--calib-scale",
                type=parse_numbers,
                default="1",
                show_default=True,
                metavar="SCALE",
                help="For pixels from 0 to 1: 1/255.",
            ),
            click.option(
                "--calib-samples",
                type=click.IntRange(1),
                metavar="N",
                help="Use only N: the first of a file, evenly spaced ones of a folder.",
            ),
            click.option("--quantize/--no-quantize", default=True, help="int8 where --calib is given.  [default: yes]"),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "float16"]),
                default="float32",
                show_default=True,
                help="What a model computes in that is not quantized; float16 on CPUs that have it.",
            ),
            ranges_option,
            weights_option,
            *COMPRESSION_OPTIONS,
            click.option(
                "--max-drop",
                type=click.FloatRange(0, 100),
                metavar="POINTS",
                help="Largest loss of top-1: layers go back to int16 or float until it is met, or exit code 4.",
            ),
            click.option(
                "--io",
                type=click.Choice(["int8", "float"]),
                help="What inputs and outputs are.  [default: the target's]",
            ),
            click.option(
                "--mem",
                metavar="NAME=SIZE,...",
                help="RAM regions, the fastest first: dtcm=64K,sram=256K.  [default: one arena, as large as needed]",
            ),
            click.option(
                "--patches",
                default="off",
                show_default=True,
                metavar="auto|N|off",
                help="Compute the first layers in N bands of rows: less RAM, more instructions.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, MOST_THREADS),
                default=1,
                show_default=True,
                help="Threads that share the large layers, under an operating system.",
            ),
            click.option(
                "--eval",
                "evaluation",
                shell_complete=complete_file,
                metavar="FILE",
                help="Labelled samples: file.npz:x,y, or a folder of pictures by class. Prints top-1.",
            ),
            click.option(
                "--disable-pass",
                "disabled",
                multiple=True,
                metavar="PASS",
                help="Leave a pass out (see `tinyopt passes`).",
            ),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="PASS.OPTION=VALUE",
                help="Set a pass's option: quantize.method=minmax (see `tinyopt passes NAME`).",
            ),
            click.option("--print-passes", is_flag=True, help="Print the pipeline with its options, and stop."),
            click.option("--print-changed", is_flag=True, help="Print what each pass changed, as a diff of the graph."),
            click.option("--dump-passes", type=FILE, metavar="DIR", help="Also write each pass's graph there."),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."),
            click.option("--cc", help="C compiler.  [default: $TINYOPT_CC, the target's own, ziglang]"),
            click.option(
                "--cache-dir", type=FILE, help="Compiled kernels and calibration.  [default: ~/.cache/tinyopt]"
            ),
            click.option("--no-cache", is_flag=True, help="Compile and calibrate anew."),
            *BUILD_OPTIONS,
            click.option("-v", "--verbose", count=True, help="Say more: -v every remark, -vv tracebacks."),
            click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
            click.option("--json", "is_json", is_flag=True, help="Print report.json instead of tables."),
        ]
    ):
        command = option(command)
    return command


def options_of(given: Mapping[str, Any]) -> CompileOptions:
    """What the options ask for; `given` by the names of the command's parameters, converted by click.

    Raises UsageError for texts that cannot be meant.
    """
    return CompileOptions(
        target=given["target"],
        name=given["name"],
        shapes=parse_shapes(given["shapes"]),
        calibration=given["calib"] or None,
        calibration_mean=given["calib_mean"],
        calibration_scale=given["calib_scale"],
        calibration_samples=given["calib_samples"],
        evaluation=given["evaluation"],
        is_quantized=given["quantize"],
        dtype=given["dtype"],
        prune=given["prune"],
        prune_to=given["prune_to"],
        prune_layers=given["prune_layers"],
        keep=given["keep"],
        importance=given["importance"],
        recover=given["recover"],
        recover_parameters=given["recover_parameters"],
        cluster=given["cluster"],
        cluster_layers=given["cluster_layers"],
        max_flash=given["max_flash"],
        max_ram=given["max_ram"],
        max_cycles=given["max_cycles"],
        cluster_cost=given["cluster_cost"],
        weight_bits=WEIGHT_BITS[given["weights"]],
        ranges=given["ranges"],
        max_drop=given["max_drop"],
        boundary=given["io"],
        memory=parse_memory(given["mem"]),
        patches=given["patches"],
        threads=given["threads"],
        disabled_passes=given["disabled"],
        settings=parse_settings(given["settings"]),
        emit=given["emit"],
        cc=given["cc"],
        cache_dir=None if given["no_cache"] else given["cache_dir"] or default_cache_dir(),
        seed=given["seed"],
    )
