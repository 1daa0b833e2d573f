"""Names from outside, made safe for C, CMake and file names."""

from __future__ import annotations

import re

_C_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while".split()
)
_MAX_LENGTH = 48


def c_identifier(name: str) -> str:
    """`name` in lower case as an ASCII C identifier: everything else becomes an underscore.

    >>> c_identifier('kws 01"; system("rm")')
    'kws_01_system_rm'
    >>> c_identifier("2nd") + " " + c_identifier("int") + " " + c_identifier("日本")
    'model_2nd model_int model'
    """
    safe = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_MAX_LENGTH].rstrip("_")
    if not safe:
        return "model"
    return f"model_{safe}" if safe[0].isdigit() or safe in _C_KEYWORDS else safe


def c_comment(text: str) -> str:
    """`text` for the inside of a C comment: one printable ASCII line that cannot end the comment.

    >>> c_comment('conv */ int x; /*' + chr(10) + 'é')
    'conv * / int x; / * ??'
    """
    printable = "".join(character if 32 <= ord(character) < 127 else "?" for character in text)
    return printable.replace("*/", "* /").replace("/*", "/ *")
