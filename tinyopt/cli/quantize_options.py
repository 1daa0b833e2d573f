"""Options that several commands have for quantization."""

from __future__ import annotations

import click

from tinyopt.passes.quantization.ranges import AUTO, METHODS

WEIGHT_BITS = {"int8": 8, "int4": 4}

weights_option = click.option(
    "--weights",
    type=click.Choice(list(WEIGHT_BITS)),
    default="int8",
    show_default=True,
    help="int4: -7 to 7, two to a byte wherever a kernel can look them up: less flash, less exact.",
)
ranges_option = click.option(
    "--ranges",
    type=click.Choice([AUTO, *METHODS]),
    default=AUTO,
    show_default=True,
    help="Where activations are cut off; auto tries all and takes for each what its readers suffer least from.",
)
