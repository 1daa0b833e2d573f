"""Text from the program as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\*_\[\]<>|#~])")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def literal(text: str) -> str:
    """Plain text, in which only `code` between backticks and numbers of arXiv papers mean something."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return _escaped(text).replace("`", r"\`")
    return "".join(f"`{part}`" if odd else _escaped(part) for part, odd in zip(parts, _alternating(parts), strict=True))


def code(text: str) -> str:
    """Text as inline code, also in a cell of a table."""
    return f"`{text}`" if "|" not in text else f"<code>{text.replace('|', '&#124;')}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["--"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```\n"


def _alternating(parts: Sequence[str]) -> list[bool]:
    return [number % 2 == 1 for number in range(len(parts))]


def _escaped(text: str) -> str:
    return _PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", _SPECIAL.sub(r"\\\1", text))
