"""The lines of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tools.measured.scores import Answers
from tools.measured.subject import Subject


@dataclass(frozen=True)
class Row:
    """One line of the table for one model: a score of tools.measured.scores, and what it is of.

    seconds: of the quantization passes, of compiling, or of onnxruntime's quantizer.
    """

    model: str
    group: str
    method: str
    samples: int
    snr_db: float | None = None
    logits_snr_db: float | None = None
    agreement: float | None = None
    top1: float | None = None
    seconds: float | None = None
    failure: str | None = None


def row_of(subject: Subject, group: str, method: str, found: Answers, seconds: float | None) -> Row:
    """The line of what `found` says."""
    return Row(subject.name, group, method, **asdict(subject.yardstick.score(found)), seconds=seconds)
