"""Option values that are more than a word."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tinyopt.errors import UsageError
from tinyopt.options import MemoryRegion


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`name=1,3,96,96` for each input.

    >>> parse_shapes(["input:0=1,3"])
    {'input:0': (1, 3)}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not equals or not name or not shape or min(shape) < 1:
            raise UsageError(f"--shape takes name=1,3,96,96, not '{text}'")
        shapes[name] = shape
    return shapes


def parse_bytes(text: str) -> int:
    """A number of bytes, or of K or M.

    Raises UsageError for anything else.

    >>> parse_bytes("64K")
    65536
    """
    found = re.fullmatch(r"(\d+)([KM]?)", text.strip())
    if not found:
        raise UsageError(f"a size is a number of bytes, or 64K, or 2M, not '{text}'")
    return int(found[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[found[2]]


def parse_memory(text: str | None) -> tuple[MemoryRegion, ...]:
    """`name=size` for each region, the fastest first; sizes in bytes, or with K or M.

    >>> parse_memory("dtcm=64K,sram=1000")
    (MemoryRegion(name='dtcm', bytes=65536), MemoryRegion(name='sram', bytes=1000))
    """
    regions: list[MemoryRegion] = []
    for part in text.split(",") if text is not None else ():
        name, equals, size = part.strip().partition("=")
        try:
            bytes_ = parse_bytes(size)
        except UsageError:
            bytes_ = 0
        if not name or not equals or not bytes_:
            raise UsageError(f"--mem takes dtcm=64K,sram=256K, the fastest region first, not '{text}'")
        regions.append(MemoryRegion(name, bytes_))
    return tuple(regions)


def parse_settings(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """`pass.option=value` for each setting.

    >>> parse_settings(["quantize.method=minmax"])
    {'quantize': {'method': 'minmax'}}
    """
    settings: dict[str, dict[str, str]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        name, dot, option = left.partition(".")
        if not (equals and dot and name and option):
            raise UsageError(f"--set takes pass.option=value, not '{text}'")
        settings.setdefault(name, {})[option] = value
    return settings
