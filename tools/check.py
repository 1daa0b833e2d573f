"""The one command that says whether the tree is green: `python tools/check.py`, with --all for the emulated runs too."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("pyright", "--warnings"),
    ("lint-imports",),
)
FAST_TESTS = ("pytest", "-q", "-n", "2", "-m", "not qemu and not slow")
ALL_TESTS = ("pytest", "-q", "-n", "2")


def main() -> int:
    """Run every check, even after one failed, and say at the end which did."""
    tests = ALL_TESTS if "--all" in sys.argv[1:] else FAST_TESTS
    failed: list[str] = []
    for check in (*CHECKS, tests):
        started = time.monotonic()
        print(f"== {' '.join(check)}", flush=True)
        tool = Path(sys.executable).parent / check[0]
        if subprocess.run([str(tool), *check[1:]], cwd=ROOT, check=False).returncode:
            failed.append(" ".join(check))
        print(f"   {time.monotonic() - started:.0f} s", flush=True)
    print(f"failed: {'; '.join(failed)}" if failed else "all green")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
