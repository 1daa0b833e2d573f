"""The options of `tinyopt compile` for pruning, recovery and clustering."""

from __future__ import annotations

import re
from typing import Literal

import click

from tinyopt.cli.parsing import parse_bytes
from tinyopt.errors import UsageError

_MOST_CLUSTERS = 64


def _parse_clusters(_context: click.Context, _option: click.Parameter, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    clusters = int(text) if text.isdecimal() else 1
    if clusters == 1 or clusters > _MOST_CLUSTERS:
        raise click.BadParameter(f"auto, or a number of values from 2 to {_MOST_CLUSTERS}, not '{text}'")
    return clusters


def _parse_size(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = parse_bytes(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None
    if size == 0:
        raise click.BadParameter("a library takes more than 0 bytes")
    return size


def _parse_count(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KM]?)", text.strip())
    count = round(float(found[1]) * {"": 1, "K": 1_000, "M": 1_000_000}[found[2]]) if found else 0
    if count < 1:
        raise click.BadParameter(f"a number of instructions, or 500K, or 1.5M, not '{text}'")
    return count


COMPRESSION_OPTIONS = (
    click.option(
        "--prune",
        default=0.0,
        type=click.FloatRange(0, 0.95),
        metavar="SHARE",
        help="Share of a run's instructions to prune away by removing channels: 0.2.  [default: 0]",
    ),
    click.option(
        "--prune-to",
        default="",
        metavar="WHAT=SIZE",
        help="Prune down to macs=2M, cycles=1.5M, flash=64K or ram=16K instead.",
    ),
    click.option(
        "--prune-layer",
        "prune_layers",
        multiple=True,
        metavar="PATTERN=SHARE",
        help="Share of channels to prune from the layers of that name: 'conv1*=0.5'.",
    ),
    click.option("--keep", multiple=True, metavar="PATTERN", help="Do not prune the layers of that name."),
    click.option(
        "--importance",
        type=click.Choice(["obs", "fisher", "bn-scale", "l2", "l1"]),
        default="obs",
        show_default=True,
        help="What ranks channels; obs and fisher look at calibration samples.",
    ),
    click.option(
        "--recover",
        type=click.Choice(["none", "normalization", "refit", "distill"]),
        default="refit",
        show_default=True,
        help="What makes up for pruning, each with all before it; distill trains, and needs tinyopt[distill].",
    ),
    click.option(
        "--recover-params",
        "recover_parameters",
        type=click.Choice(["all", "bias-scale", "last"]),
        default="all",
        show_default=True,
        help="What distillation may change.",
    ),
    click.option(
        "--cluster",
        default="0",
        callback=_parse_clusters,
        metavar="N|auto",
        help="Values per layer's weights, 2 to 64; auto: as few as --max-flash needs.  [default: 0, no clustering]",
    ),
    click.option(
        "--cluster-layer",
        "cluster_layers",
        multiple=True,
        metavar="PATTERN=N",
        help="Values for the layers of that name; 0 leaves them as they are: 'fc*=64'.",
    ),
    click.option(
        "--cluster-cost",
        default=1.25,
        show_default=True,
        type=click.FloatRange(1),
        help="The model may take so many times int8's instructions to look up clustered weights.",
    ),
    click.option(
        "--max-flash",
        callback=_parse_size,
        metavar="SIZE",
        help="Flash that code and constants may take, such as 64K; exit code 5 where they take more.",
    ),
    click.option(
        "--max-ram",
        callback=_parse_size,
        metavar="SIZE",
        help="RAM that the arena may take, all regions together, without the stack; exit code 5 where it takes more.",
    ),
    click.option(
        "--max-cycles",
        callback=_parse_count,
        metavar="N",
        help="Instructions that one inference may take, such as 2M: counted where QEMU and a compiler for the target "
        "are installed, else estimated; exit code 5 where it takes more.",
    ),
)
