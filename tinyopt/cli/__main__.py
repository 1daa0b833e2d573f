"""`python -m tinyopt.cli` does what `tinyopt` does."""

from tinyopt.entry import run

run()
