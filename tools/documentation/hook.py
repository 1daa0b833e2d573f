"""What MkDocs calls while it builds the site: text from the program takes the place of `<!-- generated: NAME -->`.

What stands between that and `<!-- end -->` is for those who read the file itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # MkDocs loads this file by its name
    sys.path.insert(0, str(ROOT))

from tools.documentation.command_pages import commands_page  # noqa: E402
from tools.documentation.operator_pages import operators_page  # noqa: E402
from tools.documentation.pass_pages import passes_page  # noqa: E402
from tools.documentation.target_pages import targets_page  # noqa: E402

GENERATORS: Mapping[str, Callable[[], str]] = {
    "commands": commands_page,
    "operators": operators_page,
    "passes": passes_page,
    "targets": targets_page,
    "changelog": lambda: _without_title("CHANGELOG.md"),
    "contributing": lambda: _without_title("CONTRIBUTING.md"),
    "security": lambda: _without_title("SECURITY.md"),
}
_MARK = re.compile(r"<!-- generated: (\S+) -->(?:.*?<!-- end -->)?", re.DOTALL)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
_PAGES_OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """The text of a page, with what is generated, and without links to files that are not part of the site.

    Raises KeyError for a mark that nothing is generated for.
    """
    filled = _MARK.sub(lambda mark: GENERATORS[mark[1]](), markdown)
    return _OUTSIDE.sub(_link_outside, filled)


def _without_title(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8").partition("\n")[2]


def _link_outside(link: re.Match[str]) -> str:
    """Files of the repository are named, but for those that have a page of their own."""
    text, path = link[1], link[2]
    if path in _PAGES_OUTSIDE:
        return f"[{text}]({_PAGES_OUTSIDE[path]})"
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"
