"""tinyopt: a compiler from ONNX to small C libraries for Arm."""
