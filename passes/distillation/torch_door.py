"""The one door to PyTorch, which only distillation needs and the extra `tinyopt[distill]` brings."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, TypeAlias

from tinyopt.errors import ToolchainError

Tensor: TypeAlias = Any  # torch.Tensor: without types, so that the checks come out alike where torch is not installed

_PACKAGE = "torch"


def is_torch_installed() -> bool:
    """Whether PyTorch can be imported; it is not loaded for that."""
    return importlib.util.find_spec(_PACKAGE) is not None


def require_torch() -> None:
    """Raise ToolchainError where PyTorch is missing; quick, for calling before anything slow."""
    if not is_torch_installed():
        raise ToolchainError(
            "distillation (--recover distill) trains with PyTorch, which is not installed: "
            "pip install 'tinyopt[distill]', or recover with --recover refit"
        )


def load_torch(module: str = "") -> Any:
    """The package `torch`, or a module of it such as "nn.functional".

    Raises ToolchainError where it is missing or cannot be loaded.
    """
    require_torch()
    try:
        return importlib.import_module(f"{_PACKAGE}.{module}" if module else _PACKAGE)
    except (ImportError, OSError) as error:  # OSError: a shared library of another machine
        raise ToolchainError(f"PyTorch is installed but cannot be loaded: {error}") from error
