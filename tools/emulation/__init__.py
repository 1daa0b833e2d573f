"""What emulated boards need: start-up code, linker scripts, and the instruction-counting QEMU plugin."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
