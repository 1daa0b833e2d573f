"""From a graph to an ONNX model that any runtime can run, at every stage of the compilation."""

from __future__ import annotations

from tinyopt.onnx_export.export import export_model, save_model

__all__ = ["export_model", "save_model"]
