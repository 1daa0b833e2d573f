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

WORKER_TIMEOUT_SECONDS = 900
MAX_WORKERS = 2  # each holds a copy of TVM, about 250 MB


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
    with tempfile.TemporaryDirectory(prefix="tinyopt-kernels-") as folder:
        done = _Counter(len(compiled), len(unique), on_progress)
        _run_workers(missing, code, Path(folder), done.advance)
        for request in missing:
            compiled[request.key] = (Path(folder) / f"{request.key}.{suffix}").read_bytes()
            write_cached(cache_dir, "kernels", f"{request.key}.{suffix}", compiled[request.key])
    return compiled


class _Counter:
    """Counts finished kernels from several threads."""

    def __init__(self, done: int, total: int, report: Callable[[int, int], None]) -> None:
        self._done, self._total, self._report = done, total, report
        self._lock = threading.Lock()

    def advance(self) -> None:
        with self._lock:
            self._done += 1
            self._report(self._done, self._total)


def _run_workers(
    requests: Sequence[KernelRequest],
    code: Literal["c", "object"],
    folder: Path,
    advance: Callable[[], None],
) -> None:
    """Share the requests out over worker processes."""
    # below a handful of kernels the second start of TVM costs more than it saves
    count = min(MAX_WORKERS, os.cpu_count() or 1, 1 + len(requests) // 8)
    shares = [tuple(requests[start::count]) for start in range(count)]
    with ThreadPoolExecutor(count) as pool:
        works = [Work(share, code, folder) for share in shares]
        for finished in [pool.submit(_run_worker, work, advance) for work in works]:
            finished.result()


def _run_worker(work: Work, advance: Callable[[], None]) -> None:
    command = [sys.executable, "-m", "tinyopt.lowering.worker"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        watchdog = threading.Timer(WORKER_TIMEOUT_SECONDS, process.kill)
        watchdog.start()
        try:
            finished = _feed(process, work, advance)
        finally:
            watchdog.cancel()
        if process.returncode != 0:
            errors.seek(0)
            raise _worker_failure(work, finished, process.returncode, errors.read().decode(errors="replace"))


def _feed(process: subprocess.Popen[bytes], work: Work, advance: Callable[[], None]) -> int:
    """Hand the work over and count what comes back."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(work, process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        pass  # the worker died at once: its exit code and its last words say why
    finished = 0
    for _key in process.stdout:
        finished += 1
        advance()
    process.wait()
    return finished


def _worker_failure(work: Work, finished: int, code: int, errors: str) -> TinyoptError:
    guilty = work.requests[min(finished, len(work.requests) - 1)]
    words = [line for line in errors.strip().splitlines() if line.strip()]
    reason = words[-1] if words else f"the compiler process ended with code {code}"
    return TinyoptError(f"kernel {guilty.name} ({guilty.spec}) cannot be compiled: {reason}")
