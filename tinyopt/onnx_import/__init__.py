"""From ONNX to the IR: reading, checking, and one rule per ONNX operator."""

from __future__ import annotations

from tinyopt.onnx_import.boundary import convert_boundary
from tinyopt.onnx_import.external_data import external_files
from tinyopt.onnx_import.importer import ImportResult, import_model, import_proto, supported_operators

__all__ = ["ImportResult", "convert_boundary", "external_files", "import_model", "import_proto", "supported_operators"]
