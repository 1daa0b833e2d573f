"""Passes: one pass, one file, one frozen dataclass."""
