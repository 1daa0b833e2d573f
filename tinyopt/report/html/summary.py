"""What a notebook shows of a compilation: its figures and passes as tables, and the report's own page below them.

Where a notebook is not trusted, or is shown by a site that removes pages within pages, the tables are left.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from tinyopt.report.plain import memory_size, signed_change

_MOST_REMARKS = 8  # for each pass; the page has all
_LARGEST_PAGE = 8 << 20  # characters; a larger one would make the notebook slow to open


@dataclass(frozen=True)
class _Figure:
    what: str
    before: str
    after: str
    change: str


def summary_html(report: Mapping[str, Any], page: str | None) -> str:
    """HTML for a notebook's cell. report: what report.json holds. page: report.html's text, None where it is not there.

    Names from the model are text in it, and scripts run in the page within the page alone, which reaches nothing.
    """
    shown = page if page is not None and len(page) <= _LARGEST_PAGE else None
    return _template().render(report=report, figures=_figures(report), most=_MOST_REMARKS, page=shown)


def summary_line(report: Mapping[str, Any]) -> str:
    """The model, its target, and the memory that it takes."""
    after = report["after"]
    flash = memory_size(_flash(after))
    return f"{report['model']['file']} for {report['target']['name']}: {flash} flash, {after['arena_bytes']:,} B RAM"


def _figures(report: Mapping[str, Any]) -> list[_Figure]:
    before, after = report["before"], report["after"]
    sizes = (
        ("weights (flash)", before["weight_bytes"], after["flash_constant_bytes"]),
        ("activations (RAM)", before["estimated_arena_bytes"], after["arena_bytes"]),
    )
    found = [_Figure("MACs", f"{before['macs']:,}", f"{after['macs']:,}", signed_change(before["macs"], after["macs"]))]
    found += [_Figure(what, memory_size(old), memory_size(new), signed_change(old, new)) for what, old, new in sizes]
    if after["flash_code_bytes"] is not None:
        found.append(_Figure("code (flash)", "", memory_size(after["flash_code_bytes"]), ""))
    if evaluated := report.get("evaluation"):
        old, new = evaluated["float_top1"], evaluated["compiled_top1"]
        found.append(_Figure("top-1", f"{old:.2%}", f"{new:.2%}", f"{100 * (new - old):+.2f} points"))
    return found


def _flash(after: Mapping[str, Any]) -> int:
    return int(after["flash_constant_bytes"] if after["flash_bytes"] is None else after["flash_bytes"])


@functools.cache  # it keeps the compiled template
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("tinyopt.report.html", ".")
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=True).get_template(
        "summary.html.j2"
    )
