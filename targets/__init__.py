"""Targets: what a machine is, and the kernels that run on it."""
