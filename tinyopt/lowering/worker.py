"""The worker process: compiles kernels with TVM, apart from the caller, so that a crash in TVM is a clean error there.

Reads a pickled `Work` (made by the parent process, never by a user) from standard input, writes one file for each
request, and prints its key when it is done.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyopt.lowering.request import KernelRequest


@dataclass(frozen=True)
class Work:
    """Requests to compile; the results go to `folder` as `<key>.c` or `<key>.o`."""

    requests: tuple[KernelRequest, ...]
    code: Literal["c", "object"]
    folder: Path


def main() -> None:
    """Compile everything asked for, one after the other."""
    work: Work = pickle.load(sys.stdin.buffer)
    from tinyopt.lowering.compiler import lower_to_c, lower_to_object

    for request in work.requests:
        function = request.template(request.spec)
        if work.code == "c":
            text = lower_to_c(function, request.symbol, request.written, request.may_alias)
            (work.folder / f"{request.key}.c").write_text(text)
        else:
            path = work.folder / f"{request.key}.o"
            lower_to_object(function, request.symbol, request.target, request.may_alias, path)
        print(request.key, flush=True)


if __name__ == "__main__":
    main()
