"""The whole way: cases in, outcomes out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.backend_tests.cases import BackendCase
from tools.backend_tests.guard import Guarded, Lost
from tools.backend_tests.preparing import Prepared, Refused, prepare
from tools.backend_tests.running import Outcome, Runner, compiled, link

PREPARING_SECONDS, RUNNING_SECONDS = 60.0, 30.0  # for one case, after which it hangs


def prepare_cases(cases: Sequence[BackendCase]) -> tuple[list[Prepared], dict[str, Outcome]]:
    """The cases that can be compiled, and the outcomes of those that cannot, by name."""
    ready: list[Prepared] = []
    outcomes: dict[str, Outcome] = {}
    for case, found in zip(cases, Guarded(prepare, PREPARING_SECONDS)(cases), strict=True):
        match found:
            case Prepared():
                ready.append(found)
            case Refused():
                outcomes[case.name] = Outcome(case.name, "refused", found.reason)
            case Lost():
                outcomes[case.name] = Outcome(case.name, found.how, found.reason)
    return ready, outcomes


def run_cases(
    cases: Sequence[BackendCase], cache_dir: Path | None, say: Callable[[str], None] = lambda _: None
) -> list[Outcome]:
    """The outcome of each case, in order. cache_dir: where compiled kernels are kept, None for nowhere."""
    by_name = {case.name: case for case in cases}
    say(f"importing {len(cases)} cases")
    ready, outcomes = prepare_cases(cases)
    requests = [request for prepared in ready for request in prepared.requests]
    say(f"compiling {len({request.key for request in requests})} kernels of {len(ready)} cases")
    functions, failures = compiled(requests, cache_dir)
    runnable: list[Prepared] = []
    for prepared in ready:
        reasons = [failures[request.key] for request in prepared.requests if request.key in failures]
        if reasons:
            outcomes[prepared.name] = Outcome(prepared.name, "crash", reasons[0])
        else:
            runnable.append(prepared)
    say(f"running {len(runnable)} cases")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        link(functions, [request.symbol for request in requests], library)
        results = Guarded(Runner(library, by_name), RUNNING_SECONDS)(runnable)
    for prepared, result in zip(runnable, results, strict=True):
        outcomes[prepared.name] = (
            Outcome(prepared.name, result.how, result.reason) if isinstance(result, Lost) else result
        )
    return [outcomes[case.name] for case in cases]
