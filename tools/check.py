"""The one command that says whether the tree is green.

python tools/check.py            static checks and the fast tests
python tools/check.py --all      and the slow and the emulated ones
python tools/check.py --static   no tests
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

STATIC: tuple[tuple[str, ...], ...] = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("pyright", "--pythonpath", sys.executable),
    ("lint-imports",),
    ("mkdocs", "build", "--strict"),
)
TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "": (("pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not qemu and not slow"),),
    "--all": (("pytest", "-q", "-n", "2", "--dist", "loadfile"),),
    "--static": (),
}


def _passes(check: tuple[str, ...]) -> bool:
    program = Path(sys.executable).parent / check[0]
    if not program.exists():
        print(f"{check[0]} is not installed: pip install -c constraints.txt -e '.[dev,docs]'")
        return False
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement
    return subprocess.run([str(program), *check[1:]], cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    """Run every check, even after one failed, and say at the end which did."""
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    if mode not in TESTS:
        print(__doc__)
        return 2
    failed: list[str] = []
    for check in (*STATIC, *TESTS[mode]):
        started = time.monotonic()
        print(f"== {' '.join(check)}", flush=True)
        if not _passes(check):
            failed.append(check[0])
        print(f"   {time.monotonic() - started:.0f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all green")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
