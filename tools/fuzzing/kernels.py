"""Compile each model's kernels as one object file, which takes half the time of one file for each kernel.

Run as a process of its own, as TVM is always: reads a pickled list of `Group` from standard input.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyopt.errors import TinyoptError
from tinyopt.lowering.request import KernelRequest

TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Group:
    """Kernels for one TVM target, and the file that takes all of them."""

    requests: tuple[KernelRequest, ...]
    path: Path


def compile_groups(groups: Sequence[Group]) -> None:
    """Raises TinyoptError where TVM refuses a kernel or crashes."""
    command = [sys.executable, "-m", "tools.fuzzing.kernels"]
    done = subprocess.run(
        command, input=pickle.dumps(list(groups)), capture_output=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise TinyoptError(f"kernels cannot be compiled: {done.stderr.decode(errors='replace')[-500:]}")


def main() -> None:
    groups: list[Group] = pickle.load(sys.stdin.buffer)
    from tinyopt.lowering.compiler import lower_to_one_object

    for group in groups:
        functions = [(request.template(request.spec), request.symbol, request.may_alias) for request in group.requests]
        lower_to_one_object(functions, group.requests[0].target, group.path)


if __name__ == "__main__":
    main()
