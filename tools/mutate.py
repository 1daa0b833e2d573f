"""Break the sources on purpose, one small change at a time, and see that tests fail.

    python -m tools.mutate passes/ tinyopt/ops --sample 200 --seed 0     the rate by folder, and what survived
    python -m tools.mutate passes/simplify_movers.py --sample 1000       every mutant of one file
    python -m tools.mutate targets/kernels/dsp --sample 40 --tests tests/test_kernels_dsp.py
    python -m tools.mutate passes/ --sample 20 --list                    what would be tried

A mutant is a change of tools/mutation/mutants.py, written into a copy of the tree. It is shown to the tests that
execute its statement (a map made once, kept in the cache folder, brought up to date where tests change) and to the
other tests of their files, fast ones only, the likely killers first. It is killed when one fails or takes too long, and
survives otherwise, also where no test executes it. Survivors that mean the same as the original are listed with the
reason in tools/mutation/equivalent.toml; the rate is given with and without them. `--controls` runs what some of the
mutants are shown to on the unchanged sources, which must pass.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.mutation.mutants import Mutant, compiles, mutants_in, sample
from tools.mutation.running import FreshRuns, Outcome, Session, copy_tree
from tools.mutation.selection import Selector
from tools.mutation.statements import StatementMap, fast_test_files

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).resolve().parent / "mutation" / "equivalent.toml"
DEFAULT_MAP = Path.home() / ".cache" / "tinyopt-mutation"


@dataclass(frozen=True)
class Result:
    """A mutant and what became of it. equivalent: why nothing can kill it, if so."""

    mutant: Mutant
    outcome: Outcome
    equivalent: str

    @property
    def is_killed(self) -> bool:
        return self.outcome.verdict.startswith("killed")


def main() -> int:
    """Try a sample of mutants; print each, what survived, and the rates. Exit code 1: a control failed."""
    options = _arguments()
    tried = sample(list(mutants_in(ROOT, options.rooms)), options.sample, options.seed)
    tried = [m for m in tried if options.only in m.label and compiles(m, (ROOT / m.path).read_bytes())]
    if options.list:
        print("\n".join(mutant.label for mutant in tried))
        return 0
    with tempfile.TemporaryDirectory(prefix="tinyopt-mutation-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(ROOT, tree)
        statements = StatementMap(options.map)
        tests = statements.update(tree, options.tests or fast_test_files(tree), options.keep_map)
        trial = _Trial(tried, Selector(tree, tests), options)
        fresh = FreshRuns(tree, statements.warm_cache)
        Session(tree, statements.warm_cache, fresh, trial.run).start(sorted({test.file for test in tests}))
    print(report(trial.results))
    return 0 if trial.is_sound else 1


class _Trial:
    """Tries the mutants of a sample, one after the other."""

    def __init__(self, tried: Sequence[Mutant], selector: Selector, options: argparse.Namespace) -> None:
        self._tried, self._selector, self._options = tried, selector, options
        listed = _equivalents(EQUIVALENT)
        self._reasons = {mutant: _reason(listed, mutant) for mutant in tried}  # now: sources may be edited meanwhile
        self.results: list[Result] = []
        self.is_sound = True

    def run(self, session: Session) -> None:
        """All mutants, then the controls."""
        for mutant in self._tried:
            outcome = session.run(mutant, self._selector.choose(mutant))
            reason = "" if outcome.verdict.startswith("killed") else self._reasons[mutant]
            self.results.append(Result(mutant, outcome, reason))
            _tell(len(self.results), len(self._tried), self.results[-1])
            _append(self._options.results, self.results[-1])
        for mutant in _spread(self._tried, self._options.controls):
            self.is_sound &= _passes(session, self._selector, mutant)


def report(results: Sequence[Result]) -> str:
    """What survived, and the rates by folder with their 95 % intervals."""
    lines = ["", "survived:"]
    lines += [f"  {result.mutant.label}{_remark(result)}" for result in results if not result.is_killed]
    verdicts = collections.Counter(result.outcome.verdict for result in results)
    lines += ["", ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())]
    folders = sorted({str(Path(result.mutant.path).parent) for result in results})
    rooms = [room for room in ("passes", "tinyopt/ops", "targets") if any(f.startswith(room) for f in folders)]
    lines += ["", f"{'':40s} killed of  rate   95 % interval   without equivalents"]
    lines += [_rate(folder, [r for r in results if str(Path(r.mutant.path).parent) == folder]) for folder in folders]
    lines += [_rate(f"{room}/**", [r for r in results if r.mutant.path.startswith(room)]) for room in rooms]
    return "\n".join([*lines, _rate("all", results)])


def interval(killed: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share. Wilson, 1927, doi:10.1080/01621459.1927.10502953."""
    share, z = killed / count, 1.96
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    return (middle - half) / whole, (middle + half) / whole


def _rate(name: str, results: Sequence[Result]) -> str:
    killed, count = sum(result.is_killed for result in results), len(results)
    low, high = interval(killed, count)
    able = count - sum(bool(result.equivalent) for result in results)
    return (
        f"{name:40s} {killed:4d} {count:4d}  {100 * killed / count:5.1f} %  {100 * low:5.1f} - {100 * high:5.1f} %"
        f"  {100 * killed / able if able else 100:5.1f} %"
    )


def _remark(result: Result) -> str:
    if result.equivalent:
        return f"  (equivalent: {result.equivalent})"
    return "  (no test executes it)" if result.outcome.verdict == "not executed" else ""


def _tell(number: int, count: int, result: Result) -> None:
    outcome = result.outcome
    by = f" by {outcome.test}" if outcome.test else ""
    print(f"{number}/{count} {result.mutant.label}: {outcome.verdict}{by} ({outcome.seconds:.1f} s)", flush=True)


def _append(file: Path | None, result: Result) -> None:
    if file is not None:
        with file.open("a") as stream:
            told = {"mutant": vars(result.mutant), "outcome": vars(result.outcome), "equivalent": result.equivalent}
            stream.write(json.dumps(told) + "\n")


def _passes(session: Session, selector: Selector, mutant: Mutant) -> bool:
    selection = selector.choose(mutant)
    outcome = session.control(selection) if selection.first else None
    if outcome is None or outcome.verdict == "survived":
        return True
    print(f"control: with nothing changed, the tests of {mutant.label} fail: {outcome.test} ({outcome.verdict})")
    return False


def _spread(mutants: Sequence[Mutant], count: int) -> Iterable[Mutant]:
    return mutants[:: max(1, len(mutants) // count)][:count] if count else ()


_Key = tuple[str, str, str, str]


def _equivalents(file: Path) -> Mapping[_Key, str]:
    """Reasons by path, function, text before and after."""
    listed = tomllib.loads(file.read_text())["mutant"] if file.exists() else []
    return {(item["path"], item["function"], item["line"], item["after"]): item["reason"] for item in listed}


def _reason(reasons: Mapping[_Key, str], mutant: Mutant) -> str:
    line = (ROOT / mutant.path).read_text().splitlines()[mutant.line - 1].strip()
    return reasons.get((mutant.path, mutant.function, line, mutant.after), "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", metavar="PATH", help="folders or files to change, from the root")
    parser.add_argument("--sample", type=int, default=200, help="how many mutants; from each file its share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="those of the sample whose description has this")
    parser.add_argument("--list", action="store_true", help="only say what would be tried")
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="test files, in place of the fast ones of tests/")
    parser.add_argument("--controls", type=int, default=5, help="runs with nothing changed")
    parser.add_argument("--map", type=Path, default=DEFAULT_MAP, help="the folder of the map from statements to tests")
    parser.add_argument("--keep-map", action="store_true", help="trace no tests anew")
    parser.add_argument("--results", type=Path, help="a file that gets a line of JSON for each mutant")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
