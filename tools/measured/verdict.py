"""A figure beside what it must be."""

from __future__ import annotations

from dataclasses import dataclass

_ROUNDING = 1e-9  # shares of samples are compared


@dataclass(frozen=True)
class Verdict:
    """One figure beside its bar, which it must reach or, where `is_limit`, must not pass."""

    model: str
    method: str
    what: str
    found: float | None
    bar: float
    is_limit: bool = False

    @property
    def passes(self) -> bool:
        """What was not measured does not pass."""
        if self.found is None:
            return False
        return self.found <= self.bar + _ROUNDING if self.is_limit else self.found >= self.bar - _ROUNDING

    def __str__(self) -> str:
        found = "nothing was measured" if self.found is None else _text(self.found)
        word = "at most" if self.is_limit else "bar"
        passes = "PASS" if self.passes else "FAIL"
        return f"{passes}  {self.model}, {self.method}: {self.what} {found}, {word} {_text(self.bar)}"


def _text(figure: float) -> str:
    """Whole numbers, such as bytes, in full; all else with two digits."""
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:.2f}"
