"""tinyopt: a compiler from ONNX to small C libraries for Arm."""

from __future__ import annotations

__version__ = "0.1.0"
