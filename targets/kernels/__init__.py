"""Kernels in TensorIR, one file per family."""
