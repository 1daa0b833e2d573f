"""tools/mutate.py: which changes are made, and which are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.mutate import interval
from tools.mutation.mutants import compiles, mutants_of, sample
from tools.mutation.selection import Selector
from tools.mutation.statements import TracedTest

SOURCE = '''"""Module of 1 docstring."""

__all__ = ["f"]
LIMIT: int = 3


@dataclass(frozen=True)
def f(x: list[int] | None, y: int = 2) -> int:
    """Docstring: 1 + 1 < 3."""
    assert x is not None and y > 0
    if y < LIMIT:
        raise ValueError(f"{y + 1} is below {LIMIT}")
    for each in x:
        if not each:
            break
        y += g(each, y)
    return min(x[1:y]) - 1
'''


def changed_lines() -> set[str]:
    """For each mutant, the line that differs, as it becomes."""
    found: set[str] = set()
    for mutant in mutants_of("f.py", SOURCE.encode()):
        assert compiles(mutant, SOURCE.encode())
        after = mutant.applied(SOURCE.encode()).decode().splitlines()
        found |= {new.strip() for old, new in zip(SOURCE.splitlines(), after, strict=True) if old != new}
    return found


def test_every_kind_of_statement_is_changed_in_its_ways_and_nothing_else_is() -> None:
    assert changed_lines() == {
        "LIMIT: int = 4",
        "def f(x: list[int] | None, y: int = 3) -> int:",
        "if y <= LIMIT:",
        "if y >= LIMIT:",
        "pass",  # in place of raise, and of y +=
        "if (each):",
        "continue",
        "y -= g(each, y)",
        "y += g(y, each)",
        "return 0",
        "return max(x[1:y]) - 1",
        "return min(x[2:y]) - 1",
        "return min(x[1:(y) - 1]) - 1",
        "return min(x[1:y]) + 1",
        "return min(x[1:y]) - 2",
    }


def test_which_negative_size_a_reshape_is_given_is_left_alone() -> None:
    source = b"def f(x):\n    x[0] = y.reshape(3, -1)\n"
    changed = [mutant.applied(source).decode().splitlines()[1].strip() for mutant in mutants_of("f.py", source)]
    assert changed == [
        "pass",
        "x[1] = y.reshape(3, -1)",
        "x[0] = y.reshape(4, -1)",
        "x[0] = y.reshape(-1, 3)",
        "x[0] = y.reshape(3, (1))",
    ]


def test_a_sample_follows_from_its_seed_and_takes_from_every_file_its_share() -> None:
    mutants = [*mutants_of("a.py", SOURCE.encode()), *mutants_of("b.py", (SOURCE + SOURCE).encode())]
    chosen = sample(mutants, 12, seed=5)
    assert chosen == sample(mutants, 12, seed=5) != sample(mutants, 12, seed=6)
    assert len(set(chosen)) == 12
    assert sum(mutant.path == "a.py" for mutant in chosen) == 4
    assert set(sample(mutants, 1000, seed=0)) == set(mutants)


def test_tests_that_execute_the_statement_come_first_and_then_those_of_their_files(tmp_path: Path) -> None:
    mutant = next(mutant for mutant in mutants_of("f.py", SOURCE.encode()) if "min(" in mutant.before)
    line = SOURCE.splitlines().index("    return min(x[1:y]) - 1") + 1
    seeing = TracedTest("tests/test_other.py::test_a", 0.5, {"f.py": frozenset({line})})
    mirror = TracedTest("tests/test_f.py::test_b", 1.0, {"f.py": frozenset({line})})
    same_file = TracedTest("tests/test_f.py::test_c", 0.1, {"f.py": frozenset({line - 1})})
    elsewhere = TracedTest("tests/test_g.py::test_d", 0.1, {"g.py": frozenset({line})})
    selection = Selector(tmp_path, [elsewhere, same_file, seeing, mirror]).choose(mutant)
    assert selection.first == (mirror, seeing)
    assert selection.rest == (same_file,)


def test_the_interval_is_wilsons() -> None:
    assert interval(90, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
