"""Small texts that every report needs: names that are safe to print, signed changes, sizes."""

from __future__ import annotations


def printable(text: str) -> str:
    """Names from a model must not steer the terminal.

    >>> printable("a\\x1b[31mb")
    'a?[31mb'
    """
    return "".join(character if character.isprintable() else "?" for character in text)


def signed_change(before: float, after: float) -> str:
    """The difference and its share.

    >>> signed_change(1000, 250)
    '-750 (-75.0 %)'
    >>> signed_change(0, 3), signed_change(5, 5)
    ('+3', '0')
    """
    if before == after:
        return "0"
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return f"{after - before:+,}{share}"


def signed_percent(before: float, after: float) -> str:
    """The share alone.

    >>> signed_percent(8, 4), signed_percent(4, 4), signed_percent(0, 4)
    ('-50.0 %', '', 'new')
    """
    if before == after:
        return ""
    return f"{100 * (after - before) / before:+.1f} %" if before else "new"


def memory_size(size: int) -> str:
    """Exact, and in the unit that people think in.

    >>> memory_size(27748), memory_size(6 << 20)
    ('27,748 B (27.1 KiB)', '6,291,456 B (6.0 MiB)')
    """
    kibibytes = size / 1024
    return f"{size:,} B ({kibibytes:.1f} KiB)" if kibibytes < 1024 else f"{size:,} B ({kibibytes / 1024:.1f} MiB)"


def shortened(text: str, length: int) -> str:
    """The end of a long name tells more than its beginning.

    >>> shortened("model/conv/kernel", 8)
    '…/kernel'
    """
    return text if len(text) <= length else "…" + text[-length + 1 :]
