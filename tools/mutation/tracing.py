"""Which statements each test executes, of the files that are mutated; also those of processes that a test starts.

Every statement is preceded by a call that notes its line when the module is compiled: far cheaper than a tracer, which
is called for every line of every library. `sitecustomize` (written by `trace_tests`) does the same in the processes
that tests start; they name the test by PYTEST_CURRENT_TEST, which pytest keeps in the environment.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

VARIABLE = "TINYOPT_STATEMENTS"  # names the file that hits are appended to
PREFIXES = ("tinyopt.ops", "tinyopt.passes", "tinyopt.targets")
SITE = "from tools.mutation import tracing\n\ntracing.install()\n"
_NOTE = "__note_line__"
LIBRARIES = (
    "numpy",
    "onnx",
    "networkx",
    "sklearn.cluster",
    "jinja2",
    "rich.console",
    "click",
    "tvm",
    "torch",
    "pytest",
)

_hits: dict[str, set[int]] = {}  # of the test that runs, by path


class _Noting(ast.NodeTransformer):
    """Puts a call before each statement."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, _noted(statements))
        return node


def _noted(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    noted: list[ast.stmt] = []
    for index, statement in enumerate(statements):
        is_docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_import = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        if not is_docstring and not is_import:
            call = ast.Call(ast.Name(_NOTE, ast.Load()), [ast.Constant(statement.lineno)], [])
            noted.append(ast.Expr(call))
        noted.append(statement)
    return noted


class _NotingLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        tree = _Noting().visit(ast.parse(Path(self.path).read_text()))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        path = str(Path(self.path).resolve())
        module.__dict__[_NOTE] = _hits.setdefault(path, set()).add
        super().exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if not name.startswith(PREFIXES):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _NotingLoader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Note lines from here on, and write them at the end of the process."""
    if VARIABLE in os.environ:
        sys.meta_path.insert(0, _Finder())
        atexit.register(_write_of_started_process)


def _write_of_started_process() -> None:
    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    if test:
        _write({"test": test.rsplit(" ", 1)[0]})


def _write(record: dict[str, Any]) -> None:
    record["hits"] = {path: sorted(lines) for path, lines in _hits.items() if lines}
    with open(os.environ[VARIABLE], "a") as file:
        file.write(json.dumps(record) + "\n")
    for lines in _hits.values():
        lines.clear()


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Plugin:
    """Writes for every test its outcome, CPU seconds and lines."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None]:
        for lines in _hits.values():
            lines.clear()
        started = _cpu_seconds()
        yield
        _write({"test": item.nodeid, "seconds": _cpu_seconds() - started, "outcome": self._outcomes.get(item.nodeid)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid] = report.outcome


def import_libraries() -> None:
    """What tests import is there already where mutants are tried: no test is the slower for being the first."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main(files: Sequence[str]) -> int:
    """Run these test files, in the copy of the tree that is the current folder. Gives pytest's exit code."""
    import_libraries()
    options = ["-q", "-p", "no:cacheprovider", "-m", "not qemu and not slow"]
    return int(pytest.main([*options, *files], plugins=[Plugin()]))
