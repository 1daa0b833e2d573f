"""Names from outside, made safe for C, CMake and file names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tinyopt.errors import UsageError
from tinyopt.options import MemoryRegion

_C_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while".split()
)
# headers that `#include <...>` would then find in the output folder
_HEADERS = frozenset(
    "alloca arm_acle arm_mve arm_neon assert complex ctype endian errno features fenv float inttypes iso646 limits "
    "locale malloc math memory new pthread sched semaphore setjmp signal stdalign stdarg stdatomic stdbool stddef "
    "stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar wctype".split()
)
_BUILD_TARGETS = frozenset("all clean depend help install package test".split())  # CMake keeps these for itself
_LIBRARIES = frozenset(
    "c dl g gcc m nosys rdimon rt util".split()
)  # `-l` would then find lib<name>.a in the output folder
_TAKEN = _C_KEYWORDS | _HEADERS | _BUILD_TARGETS | _LIBRARIES
_MAX_LENGTH = 48


def c_identifier(name: str) -> str:
    """`name` in lower case as an ASCII C identifier: everything else becomes an underscore.

    >>> c_identifier('kws 01"; system("rm")')
    'kws_01_system_rm'
    >>> c_identifier("2nd") + " " + c_identifier("int") + " " + c_identifier("日本")
    'model_2nd model_int model'
    >>> c_identifier("math") + " " + c_identifier("test") + " " + c_identifier("m")
    'model_math model_test model_m'
    """
    safe = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_MAX_LENGTH].rstrip("_")
    if not safe:
        return "model"
    return f"model_{safe}" if safe[0].isdigit() or safe in _TAKEN else safe


def check_regions(regions: Sequence[MemoryRegion]) -> None:
    """Raises UsageError where a region's name cannot stand in C names, or two regions have one name."""
    names = [region.name for region in regions]
    for region in regions:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,30}", region.name) or region.name in _TAKEN:
            raise UsageError(f"'{region.name}' is no name for a memory region: small letters and digits, no C keyword")
        if names.count(region.name) > 1:
            raise UsageError(f"two memory regions are called '{region.name}'")
        if region.bytes < 1:
            raise UsageError(f"the memory region '{region.name}' has no bytes")


def c_comment(text: str) -> str:
    """`text` for the inside of a C comment: one printable ASCII line that cannot end the comment, without trigraphs.

    >>> c_comment('conv */ int x; /*' + chr(10) + 'é??/')
    'conv * / int x; / *__?_/'
    """
    printable = "".join(character if 32 <= ord(character) < 127 else "_" for character in text)
    return printable.replace("*/", "* /").replace("/*", "/ *").replace("??", "?_")
