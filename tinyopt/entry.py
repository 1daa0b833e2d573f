"""What `tinyopt` runs: the command in a process with limits, and one that watches it.

The process that works may be killed, by a limit, by a defect in a library, or because memory ran out: the one that
watches is small, says in one line what happened, and removes what was being written. When the one that watches is
killed instead, the system ends the other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from tinyopt import guard

MOST_CPU_SECONDS = 6 * 3600
MOST_MEMORY_BYTES = 16 * 2**30
_CPU_VARIABLE, _MEMORY_VARIABLE = "TINYOPT_MAX_CPU_SECONDS", "TINYOPT_MAX_MEMORY_BYTES"
_TOLD = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_SENT_BY_THE_SYSTEM = 0x80  # SI_KERNEL: the terminal told the whole group, the working process included
_PR_SET_PDEATHSIG = 1


def run() -> NoReturn:
    """The command line, watched where the system can do that."""
    if not (sys.platform == "linux" and hasattr(signal, "sigwaitinfo")):
        _work()
    told = {getattr(signal, name) for name in _TOLD} | {signal.SIGCHLD}
    folder = Path(tempfile.mkdtemp(prefix="tinyopt-"))
    old = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    watcher = os.getpid()
    worker = os.fork()
    if worker == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        _work_watched(folder, watcher)
    status = _wait(worker, told)
    problem = _clean(folder)
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    sys.exit(_report(os.WTERMSIG(status), problem))


def _work() -> NoReturn:
    from tinyopt.cli import main  # it takes a second, which the watching process need not spend

    main()
    sys.exit(0)


def _work_watched(folder: Path, watcher: int) -> NoReturn:
    _end_with(watcher)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # so that it is looked up again
    guard.begin(folder)
    try:
        _set_limits()
        _work()
    finally:
        if os.getppid() != watcher:
            _clean(folder)


def _end_with(watcher: int) -> None:
    """Have the system send SIGTERM when the watching process ends."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != watcher:
        os._exit(128 + signal.SIGKILL)


def _set_limits() -> None:
    import resource

    for kind, variable, default in (
        (resource.RLIMIT_CPU, _CPU_VARIABLE, MOST_CPU_SECONDS),
        (resource.RLIMIT_DATA, _MEMORY_VARIABLE, MOST_MEMORY_BYTES),
    ):
        text = os.environ.get(variable, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 19):
            print(f"error: {variable} is '{ascii(text)[1:-1]}', which is no number", file=sys.stderr)
            os._exit(2)
        soft, hard = resource.getrlimit(kind)
        known = [limit for limit in (soft, hard, int(text or default)) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min(known), hard))


def _wait(worker: int, told: set[Any]) -> int:
    """Pass signals on until the working process has ended; its status."""
    while True:
        info = signal.sigwaitinfo(told)
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _SENT_BY_THE_SYSTEM:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, info.si_signo)
            continue
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended == worker:
            return status


def _clean(folder: Path) -> str:
    """Remove what the working process left; what it was doing, where it was doing something dangerous."""
    try:
        doing = (folder / guard.DOING).read_text(encoding="utf-8", errors="replace")
    except OSError:
        doing = ""
    guard.remove_unfinished(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return doing


def _report(number: int, doing: str) -> int:
    """Say in one line why the working process was killed; the exit code."""
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        return 128 + number
    shown = "".join(character if character.isprintable() else "?" for character in doing)
    what = shown or "the command"
    reason = {
        signal.SIGXCPU: "took too much CPU time and was stopped",
        signal.SIGKILL: "was killed, perhaps for taking too much memory",
    }.get(signal.Signals(number), f"ended the compiler with {signal.Signals(number).name}")
    help_text = "the model is broken or too large" if doing else f"see {_CPU_VARIABLE} and {_MEMORY_VARIABLE}"
    print(f"error: {what} {reason}: {help_text}", file=sys.stderr)
    return 3 if doing or number == signal.SIGXCPU else 1
