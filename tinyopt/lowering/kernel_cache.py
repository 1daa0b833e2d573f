"""Compiled kernels, kept on disk by content, and the worker processes that compile the missing ones."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.errors import TinyoptError
from tinyopt.lowering.request import KernelRequest
from tinyopt.lowering.worker import Work

WORKER_TIMEOUT_SECONDS = 900  # for one kernel, on a machine that may have other things to do
MAX_WORKERS = 2  # each holds a copy of TVM, about 250 MB
_WORTH_A_START = {"c": 64, "object": 8}  # kernels that take about as long as it takes to start TVM


def compile_kernels(
    requests: Sequence[KernelRequest],
    code: Literal["c", "object"],
    cache_dir: Path | None,
    on_progress: Callable[[int, int], None],
) -> dict[str, bytes]:
    """The C text or object code for each request, by its key; from the cache where it is there.

    cache_dir: where compiled kernels are kept, None for no cache. on_progress: called with (done, all).
    Raises TinyoptError where TVM refuses a kernel or crashes.
    """
    suffix = "c" if code == "c" else "o"
    unique = {request.key: request for request in requests}
    compiled: dict[str, bytes] = {}
    for key in unique:
        code_kept = read_cached(cache_dir, "kernels", f"{key}.{suffix}")
        if code_kept is not None:
            compiled[key] = code_kept
    missing = [request for key, request in unique.items() if key not in compiled]
    if not missing:
        return compiled
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="tinyopt-kernels-") as folder:

        def keep(key: str) -> None:
            """At once, so that what is interrupted goes on where it was."""
            content = (Path(folder) / f"{key}.{suffix}").read_bytes()
            write_cached(cache_dir, "kernels", f"{key}.{suffix}", content)
            with lock:
                compiled[key] = content
                on_progress(len(compiled), len(unique))

        _run_workers(missing, code, Path(folder), keep)
    return compiled


def _run_workers(
    requests: Sequence[KernelRequest],
    code: Literal["c", "object"],
    folder: Path,
    keep: Callable[[str], None],
) -> None:
    """Share the requests out over worker processes."""
    count = min(MAX_WORKERS, os.cpu_count() or 1, 1 + len(requests) // _WORTH_A_START[code])
    shares = [tuple(requests[start::count]) for start in range(count)]
    with ThreadPoolExecutor(count) as pool:
        works = [Work(share, code, folder) for share in shares]
        for finished in [pool.submit(_run_worker, work, keep) for work in works]:
            finished.result()


def _run_worker(work: Work, keep: Callable[[str], None]) -> None:
    command = [sys.executable, "-m", "tinyopt.lowering.worker"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        watchdog = _Watchdog(process)
        try:
            finished = _feed(process, work, keep, watchdog)
        finally:
            watchdog.stop()
        if process.returncode != 0:
            errors.seek(0)
            raise _worker_failure(work, finished, process.returncode, errors.read().decode(errors="replace"))


class _Watchdog:
    """Ends a process that takes too long for one kernel."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._timer = self._started()

    def restart(self) -> None:
        self._timer.cancel()
        self._timer = self._started()

    def stop(self) -> None:
        self._timer.cancel()

    def _started(self) -> threading.Timer:
        timer = threading.Timer(WORKER_TIMEOUT_SECONDS, self._process.kill)
        timer.start()
        return timer


def _feed(process: subprocess.Popen[bytes], work: Work, keep: Callable[[str], None], watchdog: _Watchdog) -> int:
    """Hand the work over and keep what comes back; how many kernels that was."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(work, process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        pass  # the worker died at once: its exit code and its last words say why
    finished = 0
    for line in process.stdout:
        watchdog.restart()
        keep(line.decode().strip())
        finished += 1
    process.wait()
    return finished


def _worker_failure(work: Work, finished: int, code: int, errors: str) -> TinyoptError:
    guilty = work.requests[min(finished, len(work.requests) - 1)]
    words = [line for line in errors.strip().splitlines() if line.strip()]
    reason = words[-1] if words else f"the compiler process ended with code {code}"
    return TinyoptError(f"kernel {guilty.name} ({guilty.spec}) cannot be compiled: {reason}")
