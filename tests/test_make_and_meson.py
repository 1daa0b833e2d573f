"""The snippets of docs/build-integration.md for Make and Meson, as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.stand_in import ROOT, Build, assert_settles, must, need, write_project, write_tools


def snippet(language: str) -> str:
    page = (ROOT / "docs" / "build-integration.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(found)


def test_under_make_models_and_c_are_compiled_only_when_something_changed(tmp_path: Path) -> None:
    need("make", "gcc")
    compiler, cc = write_tools(tmp_path)
    write_project(tmp_path, ["kws"])
    (tmp_path / "Makefile").write_text(
        snippet("make").replace("tinyopt compile", f"{shlex.quote(str(compiler))} compile")
    )
    build = Build(tmp_path, ("make", "-j2", f"CC={cc}", "app"))
    assert_settles(build, "kws", ["kws.c", "kws_weights.c", "main.c"])
    must([tmp_path / "app"], tmp_path)


def test_under_meson_models_and_c_are_compiled_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meson = shutil.which("meson") or shutil.which(str(Path(sys.executable).with_name("meson")))
    if meson is None:
        pytest.skip("no meson on PATH: pip install meson")
    need("ninja", "gcc")
    compiler, cc = write_tools(tmp_path)
    write_project(tmp_path, ["kws"])
    monkeypatch.setenv("CC", str(cc))
    (tmp_path / "meson.build").write_text(
        snippet("meson").replace("find_program('tinyopt')", f"find_program('{compiler}')")
    )
    must([meson, "setup", "build"], tmp_path)
    build = Build(tmp_path, ("ninja", "-C", "build"))
    assert_settles(build, "kws", ["kws.c", "kws_weights.c", "main.c"])
    must([tmp_path / "build" / "app"], tmp_path)
