"""Which tests a mutant is shown to, the likely killers first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.mutation.mutants import Mutant
from tools.mutation.statements import TracedTest

FIRST_SECONDS, FIRST_TESTS = 3.0, 40
REST_SECONDS = 6.0


@dataclass(frozen=True)
class Selection:
    """first: cheap, likely killers. rest: all others in the files of tests that could see it."""

    first: tuple[TracedTest, ...]
    rest: tuple[TracedTest, ...]


class Selector:
    """Chooses from the tests of the statement map."""

    def __init__(self, tree: Path, tests: Sequence[TracedTest]) -> None:
        self._tree, self._tests = tree, tests
        self._importers: dict[str, frozenset[str]] = {}

    def choose(self, mutant: Mutant) -> Selection:
        """Tests that execute the mutant's statement; nothing where none does."""
        seeing = self._seeing(mutant)
        if not seeing:
            return Selection((), ())
        words = _words(mutant.path)
        ranked = sorted(seeing, key=lambda test: (not words & _words(test.file), test.seconds, test.name))
        first, seconds = list[TracedTest](), 0.0
        for test in ranked[:FIRST_TESTS]:
            if not first or seconds + test.seconds <= FIRST_SECONDS:
                first.append(test)
                seconds += test.seconds
        # fixtures and caches of a file are made by whichever of its tests comes first: all of them may see the change
        files, taken = {test.file for test in seeing}, {test.name for test in first}
        others = [test for test in self._tests if test.file in files and test.name not in taken]
        seen = {test.name for test in seeing}
        others.sort(key=lambda test: (test.name not in seen, not words & _words(test.file), test.seconds))
        rest, seconds = list[TracedTest](), 0.0
        for test in others:
            if seconds + test.seconds <= REST_SECONDS:
                rest.append(test)
                seconds += test.seconds
        return Selection(tuple(first), tuple(rest))

    def _seeing(self, mutant: Mutant) -> list[TracedTest]:
        if mutant.is_imported:
            paths = {mutant.path, *self._importers_of(mutant.path)}
            return [test for test in self._tests if any(test.hits.get(path) for path in paths)]
        return [test for test in self._tests if mutant.statement in test.hits.get(mutant.path, ())]

    def _importers_of(self, path: str) -> frozenset[str]:
        """Files that name the module in an import."""
        if path not in self._importers:
            parts = path.removesuffix(".py").removesuffix("/__init__").removeprefix("tinyopt/").split("/")
            package, name = ".".join(["tinyopt", *parts[:-1]]), parts[-1]
            spelled = rf"(from {package}\.{name} import|from {package} import .*\b{name}\b|import {package}\.{name}\b)"
            pattern = re.compile(rf"^\s*{spelled}", re.MULTILINE)
            paths = {each for test in self._tests for each in test.hits}
            found = {each for each in paths if pattern.search((self._tree / each).read_text())}
            self._importers[path] = frozenset(found)
        return self._importers[path]


def _words(path: str) -> frozenset[str]:
    """The words of a path that tell what it is about: a test file mirrors a source when they share one."""
    words = re.split(r"[/_.]", path)
    stems = (word.removesuffix("s") for word in words)
    return frozenset(stems) - {"test", "pas", "passe", "tinyopt", "op", "py", "init", "", "graph", "layer", "kernel"}
