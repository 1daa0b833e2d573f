"""The ONNX operators that can be imported as Markdown, from the table of import rules."""

from __future__ import annotations

from tinyopt.onnx_import.rules import RULES
from tools.documentation.markdown import code


def operators_page() -> str:
    """The operators of each domain in the order of their names."""
    domains = sorted({domain for domain, _ in RULES})
    return "\n".join(_domain(domain) for domain in domains)


def _domain(domain: str) -> str:
    names = sorted(operator for other, operator in RULES if other == domain)
    return f"## {f'Of {domain}' if domain else 'Of ONNX'}\n\n{', '.join(map(code, names))}.\n"
