"""tinyopt: a compiler from ONNX to small C libraries for Arm.

>>> import tinyopt
>>> result = tinyopt.compile("model.onnx", "out", target="cortex-m4", calib=samples)  # doctest: +SKIP
>>> model = tinyopt.load("out")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyopt.compile_result import CompileResult
    from tinyopt.errors import TinyoptError
    from tinyopt.ir import Graph
    from tinyopt.library import compile
    from tinyopt.loader import Model, load
    from tinyopt.pass_manager import Pass, PassContext

__all__ = [
    "CompileResult",
    "Graph",
    "Model",
    "Pass",
    "PassContext",
    "TinyoptError",
    "__version__",
    "compile",
    "load",
]
__version__ = "0.1.0"

_PLACES = {
    "CompileResult": "compile_result",
    "Graph": "ir",
    "Model": "loader",
    "Pass": "pass_manager",
    "PassContext": "pass_manager",
    "TinyoptError": "errors",
    "compile": "library",
    "load": "loader",
}
"""The modules that bring each name: not before somebody asks for it, for they need NumPy and more."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'tinyopt' has no attribute '{name}'")
    return getattr(import_module(f"tinyopt.{_PLACES[name]}"), name)
