"""Passes: one pass, one file, one frozen dataclass."""

if __name__ != "tinyopt.passes":
    raise ImportError("import tinyopt.passes: a bare `passes` makes a second copy of every module")
