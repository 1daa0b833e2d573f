"""Compile the onnx package's light architectures, with random weights, and compare them with onnxruntime.

python -m tools.light_architectures              all nine
python -m tools.light_architectures squeezenet   only these
Every output, and the logits before a softmax, may differ by 1e-3 of each element and 1e-5 of the largest one. The last
column is what the comparison says of a model with one channel of its middle convolution at 0: it has to be above 1.
Exit code 1: something differs by more, is refused or fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tinyopt.errors import TinyoptError
from tools.light_architectures.comparing import Figures, compare
from tools.light_architectures.models import NAMES

_HEAD = (
    "| architecture | model, MB | CPU, s | memory, MiB | largest difference | of what is tolerated | a channel less |",
    "|---|--:|--:|--:|--:|--:|--:|",
)


def main() -> int:
    """0 where all are equal, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.light_architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []], help=", ".join(NAMES))
    parser.add_argument("--cache", type=Path, help="where compiled kernels are kept (default: nowhere)")
    options = parser.parse_args()
    print("\n".join(_HEAD))
    problems: list[str] = []
    for name in options.names or NAMES:
        try:
            figures = compare(name, options.cache)
        except TinyoptError as error:
            problems.append(f"{name}: {error}")
            continue
        print(_row(figures), flush=True)
        if not figures.is_right:
            problems.append(f"{name}: it differs from onnxruntime, or the comparison could not tell")
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


def _row(figures: Figures) -> str:
    return (
        f"| {figures.name} | {figures.model_bytes / 1e6:.1f} | {figures.cpu_seconds:.1f}"
        f" | {figures.peak_bytes / 2**20:.0f} | {figures.of_largest:.1e} | {figures.error:.3f}"
        f" | {figures.error_without_channel:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
