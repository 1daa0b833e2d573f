"""`pytest --sanitize`: kernels with gcc's sanitizers, and their memory within poisoned memory.

The first finding ends pytest: the last test that it named is the one to blame, and the sanitizer's report stands below.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

FLAGS = ("-g", "-fsanitize=address,undefined,float-cast-overflow,bounds-strict", "-fno-sanitize-recover=all")
_CHOSEN = "TINYOPT_TEST_SANITIZE"


def are_running() -> bool:
    """Whether this process is the one that was started anew."""
    return _CHOSEN in os.environ


def restart(arguments: Sequence[str]) -> NoReturn:
    """Run pytest anew as sanitizers want it: their library first, output to the terminal."""
    # with the library of C++, or TVM's exceptions would be thrown past it; Python itself leaks
    libraries = " ".join(_file_of_gcc(name) for name in ("libasan.so", "libstdc++.so"))
    environment = os.environ | {_CHOSEN: "1", "LD_PRELOAD": libraries, "ASAN_OPTIONS": "detect_leaks=0"}
    os.execve(sys.executable, [sys.executable, "-m", "pytest", "-s", "-v", *arguments], environment)


def _file_of_gcc(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def keep_to_this_process() -> None:
    """What the tests start is not to have the sanitizer's library: it was not made for it."""
    os.environ.pop("LD_PRELOAD", None)


def compiler(given: tuple[str, ...]) -> tuple[str, ...]:
    """The compiler and its flags: `given`, with sanitizers where the tests run with these."""
    return (*given, *FLAGS) if are_running() else given


@contextmanager
def poisoned(regions: Sequence[tuple[int, int]]) -> Generator[None]:
    """Nobody may touch these (address, bytes), as long as AddressSanitizer watches."""
    library = _address_sanitizer()
    if library is None:
        yield
        return
    for address, size in regions:
        library.__asan_poison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(size))
    try:
        yield
    finally:
        for address, size in regions:
            library.__asan_unpoison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(size))


@cache
def _address_sanitizer() -> Any | None:
    return ctypes.CDLL(None) if are_running() else None
