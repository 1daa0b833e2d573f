"""The CMake package: `find_package(tinyopt)` looks into this folder, which `tinyopt --cmake-dir` prints."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
