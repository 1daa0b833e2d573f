"""Kernels in vectors, for TVM's LLVM code generator: any machine, and Arm's dot product."""
