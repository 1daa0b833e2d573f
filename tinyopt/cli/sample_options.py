"""Options that several commands have for samples: where they are, and what turns them into real numbers."""

from __future__ import annotations

import click

SOURCES = "file.npz:array, file.npy, file.csv, or a folder of NumPy files or pictures"


def parse_numbers(text: str) -> tuple[float, ...]:
    """One number, or one for each channel; fractions too.

    >>> parse_numbers("123.7,116.3,1/4")
    (123.7, 116.3, 0.25)
    """
    try:
        return tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"'{text}' is neither a number nor several with commas, such as 1/255,0.2") from None


def _number(text: str) -> float:
    dividend, slash, divisor = text.partition("/")
    return float(dividend) / float(divisor) if slash else float(dividend)
