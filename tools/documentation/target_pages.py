"""The targets as Markdown, from their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinyopt.targets import all_targets
from tinyopt.targets.target import Emulator, Target
from tools.documentation.markdown import code, literal, table


def targets_page() -> str:
    """A table of the targets that give C sources, with the compiler's flags, and one of those that give libraries."""
    targets = list(all_targets().values())
    sources = [target for target in targets if target.code == "c"]
    libraries = [target for target in targets if target.code == "object"]
    return "\n".join(
        (
            "## C sources\n",
            _table(sources, ("compile with", "emulated by"), (_flags, _emulator)),
            "## Libraries for Linux\n",
            "`lib<name>.a` and `lib<name>.so`.\n",
            _table(libraries, ("float16", "emulated by"), (_float16, _emulator)),
        )
    )


def _table(targets: Sequence[Target], head: Sequence[str], cells: Sequence[Callable[[Target], str]]) -> str:
    rows = [
        (code(target.name), literal(target.description), target.boundary, *(cell(target) for cell in cells))
        for target in targets
    ]
    return table(("`--target`", "machine", "inputs and outputs", *head), rows)


def _flags(target: Target) -> str:
    flags = [flag for flag in target.toolchain.flags if flag.startswith("-m")]
    return code(" ".join(flags)) if flags else "any C99 compiler"


def _float16(target: Target) -> str:
    return "yes" if target.facts.has_float16 else ""


def _emulator(target: Target) -> str:
    emulator: Emulator = target.emulator
    if emulator.kind == "native":
        return "runs here"
    chosen = emulator.arguments[1]
    return code(f"{emulator.program} {emulator.arguments[0]} {chosen.partition(',')[0]}")
