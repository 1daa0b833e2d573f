"""tinyopt: a compiler from ONNX to small C libraries for Arm."""

from __future__ import annotations

from tinyopt.loader import Model, load

__all__ = ["Model", "__version__", "load"]
__version__ = "0.1.0"
