"""What lowering asks of the worker process: kernels to compile, each identified by its content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tinyopt.targets.kernel import Kernel, OutputArgument, ScratchArgument


@dataclass(frozen=True)
class KernelRequest:
    """One function to compile. `key` identifies everything that its code depends on.

    target: TVM's. written: for each argument whether the kernel writes through it. may_alias: an output may overlap an
    input.
    """

    key: str
    name: str
    template: Callable[[Any], Any]
    spec: Any
    target: Mapping[str, Any]
    written: tuple[bool, ...]
    may_alias: bool

    @property
    def symbol(self) -> str:
        """The function's C identifier, unique by content."""
        return f"tinyopt_{self.name}_{self.key[:10]}"


def request_for(kernel: Kernel, target: Mapping[str, Any]) -> KernelRequest:
    """The request that compiles `kernel` for a TVM target. Kernels of equal content get equal keys."""
    written = tuple(isinstance(argument, OutputArgument | ScratchArgument) for argument in kernel.arguments)
    identity = (
        f"{kernel.template.__module__}:{kernel.template.__qualname__}",
        repr(kernel.spec),
        kernel.name,
        repr(sorted(target.items())),
        repr(written),
        repr(kernel.may_alias),
        compiler_fingerprint(),
        _source_of(kernel.template),
    )
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()
    return KernelRequest(key, kernel.name, kernel.template, kernel.spec, target, written, kernel.may_alias)


def _source_of(template: Callable[[Any], Any]) -> str:
    """The source text of the module that a template comes from: third parties' kernels are not in our fingerprint."""
    path = sys.modules[template.__module__].__file__
    return Path(path).read_text() if path else ""


@cache
def compiler_fingerprint() -> str:
    """A hash of all that turns a spec into code: the kernels' sources, the driver's, and TVM's versions."""
    digest = hashlib.sha256()
    for package in ("apache-tvm", "apache-tvm-ffi"):
        digest.update(importlib.metadata.version(package).encode())
    root = Path(__file__).resolve().parents[1]
    for source in sorted([*(root / "targets" / "kernels").rglob("*.py"), root / "lowering" / "compiler.py"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()
