"""The backend tests of the `onnx` package, compiled for this machine and run: `python -m tools.backend_tests`."""
