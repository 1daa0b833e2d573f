"""The figures of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One case of one model. None: there is no such figure.

    top1: percent of the test samples. differing: test samples whose best class is not the float model's. snr_db: of the
    outputs, against the float model's. weight_bytes: all constants in flash. instructions: of one inference, counted.
    """

    model: str
    case: str
    samples: int
    top1: float | None = None
    differing: int | None = None
    snr_db: float | None = None
    weight_bytes: int | None = None
    macs: int | None = None
    instructions: int | None = None
    arena_bytes: int | None = None
    seconds: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Channels:
    """How many output channels each convolution and dense layer keeps, in running order; 0: the layer is gone."""

    model: str
    case: str
    before: Sequence[int]
    after: Sequence[int]
    lane: int  # the multiple that the target likes


@dataclass(frozen=True)
class Recovery:
    """A float model pruned and recovered. error: root mean square over that of the original's outputs, on noise."""

    model: str
    case: str
    macs: int
    macs_before: int
    error: float
    seconds: float
