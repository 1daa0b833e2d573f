"""Runs tests against mutants, each in a forked process.

A mutant is written into a copy of the tree, so that processes that a test starts, and caches that go by the sources,
see it. The fork comes from a pytest session that has collected all tests: in it the functions of the mutant's module
get their changed code. What is executed when a module is imported cannot be changed there: then the fork comes from a
process that has imported nothing but libraries, and pytest starts anew.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Literal

import pytest

from tools.mutation import tracing
from tools.mutation.mutants import Mutant
from tools.mutation.selection import Selection
from tools.mutation.statements import TracedTest, environment_of

Verdict = Literal["killed", "killed by the time limit", "survived", "not executed"]

MEMORY_BYTES = 12 << 30
NOT_COLLECTED = 5  # pytest's exit code


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. test: the one that failed. seconds: of CPU, of all its runs."""

    verdict: Verdict
    test: str
    seconds: float


class FreshRuns:
    """A process that has imported the libraries, and forks a new pytest for each run."""

    def __init__(self, tree: Path, warm_cache: Path) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, far_end = context.Pipe()
        context.Process(target=_serve, args=(far_end, tree, warm_cache), daemon=True).start()

    def run(self, tests: Sequence[TracedTest]) -> Outcome:
        """Run these tests on the tree as it is."""
        self._pipe.send(tests)
        outcome: Outcome = self._pipe.recv()
        return outcome


def _serve(pipe: Connection, tree: Path, warm_cache: Path) -> None:
    """Until the other end is closed."""
    with contextlib.suppress(EOFError):
        while True:
            tests = pipe.recv()
            tracing.import_libraries()  # when they are needed for the first time
            pipe.send(_forked(tests, partial(_run_anew, tree, warm_cache, tests)))


class Session:
    """The pytest plugin in whose session mutants are tried.

    work: called once all tests are collected.
    """

    def __init__(self, tree: Path, warm_cache: Path, fresh: FreshRuns, work: Callable[[Session], None]) -> None:
        self._tree, self._warm_cache, self._fresh, self._work = tree, warm_cache, fresh, work
        self._items: dict[str, pytest.Item] = {}
        self._functions: dict[str, list[FunctionType]] = {}
        self._failed: Path | None = None

    def start(self, files: Sequence[str]) -> None:
        """Collect the tests of these files, do the work, return."""
        _enter(self._tree, self._warm_cache, Path(tempfile.gettempdir()))
        options = ["-q", "-s", "-p", "no:cacheprovider", "--tb=no", f"--rootdir={self._tree}", "-W", "ignore"]
        pytest.main([*options, "-c", str(self._tree / "pyproject.toml"), *files], plugins=[self])

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        gc.collect()
        for each in gc.get_objects():
            if isinstance(each, FunctionType):
                self._functions.setdefault(each.__code__.co_filename, []).append(each)
        gc.freeze()  # the forks share these pages as long as nobody writes to them
        self._work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed" and self._failed is not None:
            self._failed.write_text(report.nodeid)
            os._exit(1)

    def run(self, mutant: Mutant, selection: Selection) -> Outcome:
        """Show the mutant to its tests until one fails."""
        if not selection.first:
            return Outcome("not executed", "", 0.0)
        path = self._tree / mutant.path
        source, time_ns = path.read_bytes(), path.stat().st_mtime_ns
        path.write_bytes(mutant.applied(source))
        try:
            return self._run(mutant, source, selection)
        finally:
            path.write_bytes(source)
            os.utime(path, ns=(time_ns, time_ns))  # its compiled module is good again

    def control(self, selection: Selection) -> Outcome:
        """The same tests with nothing changed: they must pass."""
        return _first_killed(self._fresh.run(tests) for tests in (selection.first, selection.rest) if tests)

    def _run(self, mutant: Mutant, source: bytes, selection: Selection) -> Outcome:
        batches = [tests for tests in (selection.first, selection.rest) if tests]
        codes = {} if mutant.is_imported else self._changed_codes(mutant, source)
        if not codes:
            return _first_killed(self._fresh.run(tests) for tests in batches)
        return _first_killed(_forked(tests, partial(self._run_here, codes, tests)) for tests in batches)

    def _changed_codes(self, mutant: Mutant, source: bytes) -> dict[FunctionType, CodeType]:
        """The functions of the module that the mutant changes, with their new code."""
        found: dict[FunctionType, CodeType] = {}
        for filename, functions in self._functions.items():
            if not filename.endswith(mutant.path) or Path(filename).resolve() != (self._tree / mutant.path).resolve():
                continue
            old = _codes(compile(source, filename, "exec", dont_inherit=True))
            new = _codes(compile(mutant.applied(source), filename, "exec", dont_inherit=True))
            changed = dict(zip(old, new, strict=False)) if len(old) == len(new) else {}
            for function in functions:
                code = changed.get(function.__code__)
                if code is not None and code != function.__code__ and code.co_freevars == function.__code__.co_freevars:
                    found[function] = code
        return found

    def _run_here(self, codes: Mapping[FunctionType, CodeType], tests: Sequence[TracedTest], scratch: Path) -> int:
        """In the forked process."""
        for function, code in codes.items():
            function.__code__ = code
        _own_environment(self._tree, _own_cache(self._warm_cache, scratch), scratch)
        self._failed = scratch / "failed"
        items = [self._items[test.name] for test in tests if test.name in self._items]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return 0


def _first_killed(outcomes: Iterable[Outcome]) -> Outcome:
    """The first that is no survival, with the seconds of all up to there."""
    seconds = 0.0
    for outcome in outcomes:
        seconds += outcome.seconds
        if outcome.verdict != "survived":
            return Outcome(outcome.verdict, outcome.test, seconds)
    return Outcome("survived", "", seconds)


def _codes(code: CodeType) -> list[CodeType]:
    """A code object and all those inside it, in their order."""
    return [code, *(each for inner in code.co_consts if isinstance(inner, CodeType) for each in _codes(inner))]


def _forked(tests: Sequence[TracedTest], run: Callable[[Path], int]) -> Outcome:
    """What `run` says in a forked process: pytest's exit code, and in the file `failed` of its folder the test."""
    expected = sum(test.seconds for test in tests)
    cpu_limit, limit = int(30 + 8 * expected), 300 + 60 * expected
    with tempfile.TemporaryDirectory(prefix="tinyopt-mutant-") as folder:
        scratch = Path(folder)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = os.fork()
        if child == 0:
            _become(partial(run, scratch), scratch, cpu_limit)
        status = _wait(child, limit)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        failed = scratch / "failed"
        test = failed.read_text() if failed.exists() else ""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return Outcome("killed by the time limit", test, seconds)
    code = os.waitstatus_to_exitcode(status)
    return Outcome("survived" if code in (0, NOT_COLLECTED) else "killed", test or f"exit code {code}", seconds)


def _become(run: Callable[[], int], scratch: Path, cpu_limit: int) -> None:
    """In the forked process: run, and end with the exit code."""
    code = 3
    try:
        os.setsid()
        with open(scratch / "output", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu_limit + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        sys.dont_write_bytecode = True  # a mutant's module must not stay behind
        code = run()
    finally:
        os._exit(code)


def _run_anew(tree: Path, warm_cache: Path, tests: Sequence[TracedTest], scratch: Path) -> int:
    """In the forked process: pytest from its beginning."""
    _enter(tree, _own_cache(warm_cache, scratch), scratch)
    files = list(dict.fromkeys(test.file for test in tests))
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", f"--rootdir={tree}", "-W", "ignore"]
    chosen = _Chosen([test.name for test in tests], scratch / "failed")
    return int(pytest.main([*options, "-c", str(tree / "pyproject.toml"), *files], plugins=[chosen]))


def _enter(tree: Path, cache: Path, scratch: Path) -> None:
    """Take modules from the copy from here on."""
    os.chdir(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tinyopt", "tests"}]:
        del sys.modules[name]
    root = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [str(tree), *(path for path in sys.path if path not in ("", root))]
    importlib.invalidate_caches()
    _own_environment(tree, cache, scratch)


def _own_environment(tree: Path, cache: Path, scratch: Path) -> None:
    os.environ.update(environment_of(tree, cache) | {"PYTHONDONTWRITEBYTECODE": "1"})
    os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = str(scratch)
    tempfile.tempdir = None


def copy_tree(root: Path, copy: Path) -> None:
    """The files that git knows, and those that it does not ignore, with their times."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (root / name).is_symlink() or (root / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name, follow_symlinks=False)


def _wait(child: int, limit_seconds: float) -> int | None:
    """The child's status; None where it took too long. Everything that it started is ended, too."""
    deadline, status = time.monotonic() + limit_seconds, None
    while time.monotonic() < deadline:
        ended, found = os.waitpid(child, os.WNOHANG)
        if ended:
            status = found
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def _own_cache(warm_cache: Path, scratch: Path) -> Path:
    """A cache with the kernels of earlier runs, which are kept by their sources, and nothing that passes made."""
    cache = scratch / "cache"
    cache.mkdir()
    if (warm_cache / "kernels").is_dir():
        (cache / "kernels").symlink_to(warm_cache / "kernels")
    shared = warm_cache / "tinyopt-kernel-tests"  # libraries of the kernels' tests, by their C text
    shared.mkdir(parents=True, exist_ok=True)
    (scratch / shared.name).symlink_to(shared)
    return cache


class _Chosen:
    """Runs the chosen tests only, in their order, and notes the first that fails."""

    def __init__(self, names: Sequence[str], failed: Path) -> None:
        self._order = {name: place for place, name in enumerate(names)}
        self._failed = failed

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "failed" and not self._failed.exists():
            self._failed.write_text(report.nodeid)
