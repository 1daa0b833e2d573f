"""The one tree of errors that tinyopt raises on purpose, each with its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class TinyoptError(Exception):
    """Base of everything raised on purpose: the message says what, where, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(TinyoptError):
    """The command line or the API was called in a way that cannot be meant."""

    exit_code = 2


class InvalidModelError(TinyoptError):
    """The model, or the data that goes with it, is broken or contradicts itself."""

    exit_code = 3


class UnsupportedOperatorError(InvalidModelError):
    """The model is valid, but tinyopt has no rule or no kernel for some of its nodes.

    parts: one text for each of them, where they are all known.
    """

    def __init__(self, message: str, parts: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.parts = tuple(parts)


class AccuracyError(TinyoptError):
    """The compiled model is less accurate than the user allows: the message says by how much, and what would help."""

    exit_code = 4


class BudgetError(TinyoptError):
    """The model does not fit what the user allows it: the message says by how much, and what would help."""

    exit_code = 5


class VerificationError(TinyoptError):
    """The compiled library does not give the bytes of the reference."""

    exit_code = 6


class ToolchainError(TinyoptError):
    """A compiler or an emulator is missing, or failed."""

    exit_code = 7


class VerifierError(TinyoptError):
    """A pass left the graph in a state that breaks the rules of the IR: a defect of that pass."""
