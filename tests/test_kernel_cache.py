"""Compiled kernels are kept as soon as they are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.graph_builder import GraphBuilder
from tinyopt.errors import TinyoptError
from tinyopt.lowering import kernel_cache
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.request import KernelRequest, request_for
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.portable_c import PORTABLE_C


def _request() -> KernelRequest:
    build = GraphBuilder()
    node = build.graph_of(build("Relu", build.input("x", (1, 4)))).nodes[0]
    kernel = SCALAR["Relu"][0](node)
    assert isinstance(kernel, Kernel)
    return request_for(kernel, PORTABLE_C.tvm)


def test_what_was_compiled_before_a_kernel_failed_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = _request()
    bad = replace(good, key="bad", name="broken", spec=None)
    counted: list[tuple[int, int]] = []
    with pytest.raises(TinyoptError, match=r"kernel broken .* cannot be compiled"):
        compile_kernels([good, bad], "c", tmp_path, lambda done, count: counted.append((done, count)))
    assert counted == [(1, 2)]
    monkeypatch.setattr(kernel_cache, "_run_workers", lambda *_: pytest.fail("it is compiled again"))
    assert good.symbol.encode() in compile_kernels([good], "c", tmp_path, lambda *_: None)[good.key]


def test_a_kernel_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "WORKER_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(TinyoptError, match="cannot be compiled: the compiler process ended with code -9"):
        compile_kernels([_request()], "c", None, lambda *_: None)
