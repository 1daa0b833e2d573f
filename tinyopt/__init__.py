"""tinyopt: a compiler from ONNX to small C libraries for Arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyopt.loader import Model, load

__all__ = ["Model", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load` and `Model` bring NumPy along: not before somebody asks for them."""
    if name not in ("Model", "load"):
        raise AttributeError(f"module 'tinyopt' has no attribute '{name}'")
    from tinyopt import loader

    return getattr(loader, name)
