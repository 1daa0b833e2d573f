"""A lock knows the compiler by its sources, not only by its version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tinyopt
from tinyopt import own_sources


def test_a_change_of_any_source_or_template_changes_the_digest_and_a_link_to_a_room_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = own_sources.sources_digest()
    copy = shutil.copytree(Path(tinyopt.__file__).parent, tmp_path / "copy", symlinks=False)  # as in a wheel
    monkeypatch.setattr(own_sources, "_ROOT", copy)
    assert own_sources.sources_digest.__wrapped__() == here
    for name in ("passes/quantize.py", "report/html/page.css", "artifact/templates", "targets/kernel_costs.json"):
        file = copy / name if (copy / name).is_file() else sorted((copy / name).iterdir())[0]
        before = own_sources.sources_digest.__wrapped__()
        file.write_bytes(file.read_bytes() + b"\n")
        assert own_sources.sources_digest.__wrapped__() != before
