"""`python -m tinyopt.cli` does what `tinyopt` does."""

from tinyopt.cli.main import main

main()
