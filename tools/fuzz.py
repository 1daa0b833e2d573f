"""Compile random models and compare what they compute with onnxruntime; shrink what differs.

    python -m tools.fuzz --seeds 1000                    seeds 0 to 999: each pass alone, and float32 on host
    python -m tools.fuzz --seeds 2000:2300 --int8        int8 against the numpy reference, bit by bit
    python -m tools.fuzz --seeds 100 --int8 --target cortex-m4 --target cortex-m55 --target arm
    python -m tools.fuzz --seeds 1000 --passes           each pass alone, without compiling anything
    python -m tools.fuzz --seeds 1000 --compiled         compiled, without each pass alone
    python -m tools.fuzz --seeds 100 --sanitize          float32 and int8 as C under ASan and UBSan
    python -m tools.fuzz --seeds 17:18 --keep FOLDER     write the model of seed 17, shrunk if it fails, to FOLDER
    python -m tools.fuzz --models FOLDER                 the ONNX files of FOLDER, such as NNSmith's, in place of seeds

A model is made from its seed alone (tools/fuzzing/models.py), from seed 10000 on of more operators. Those that
onnxruntime cannot run or that are too steep to be compared are left out and counted. Float outputs may differ by 1e-4
of the largest element and of their own, and by ten times what they move when the inputs are nudged by 1e-6. Exit code
1: something differs, fails or is refused.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx
from rich.console import Console
from rich.progress import track

from tools.fuzzing.differential import Check, Compilation, Finding, Setting, check_passes
from tools.fuzzing.models import RandomModel, model_of_file, random_model
from tools.fuzzing.shrinking import shrink

# signed overflow, shifts, bounds, alignment, conversions of floats that do not fit: each ends the program
SANITIZED = "gcc -g -fsanitize=address,undefined,float-cast-overflow,bounds-strict -fno-sanitize-recover=all"
BATCH = 200  # models whose kernels are compiled together: TVM takes seconds to start


def main() -> int:
    """Check all seeds, print what was found."""
    options = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-cache-") as scratch:
        cache = options.cache_dir or Path(scratch)
        found = list(
            fuzz(
                _models(options, console),
                _settings(options),
                cache,
                console,
                options.keep,
                is_compiled_only=options.compiled,
            )
        )
    return 1 if found else 0


def _models(options: argparse.Namespace, console: Console) -> Iterator[RandomModel | None]:
    if options.models:
        files = sorted(options.models.rglob("*.onnx"))
        return map(model_of_file, track(files, "models", console=console))
    first, _, last = options.seeds.rpartition(":")
    return map(random_model, track(range(int(first or 0), int(last)), "models", console=console))


def fuzz(
    models: Iterable[RandomModel | None],
    settings: Sequence[Setting],
    cache: Path,
    console: Console,
    keep: Path | None = None,
    *,
    is_compiled_only: bool = False,
) -> Iterator[Finding]:
    """Check `models`, each pass alone and compiled for every setting; print and yield what is wrong.

    models: None stands for one that is left out. keep: a folder for the smallest models that show it.
    is_compiled_only: the passes are not run alone.
    """
    compilations = [Compilation(setting, cache) for setting in settings]
    counts: collections.Counter[str] = collections.Counter()
    for batch in _batches(models):
        fit = [model for model in batch if model is not None]
        counts.update({"models": len(fit), "left out": len(batch) - len(fit)})
        for compilation in compilations:
            compilation.prepare(fit)
        checks: list[tuple[str, Check]] = [] if is_compiled_only else [("passes", check_passes)]
        checks += [(str(compilation.setting), compilation.check) for compilation in compilations]
        for model in fit:
            for name, check in checks:
                if finding := check(model):
                    counts[finding.kind] += 1
                    console.print(
                        f"{finding.name}, {name}: {finding.kind}: {finding.message}", markup=False, soft_wrap=True
                    )
                    if finding.kind != "refused" or keep:
                        _show_smallest(model, check, finding, console, keep)
                    yield finding
                    break
    console.print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def _show_smallest(model: RandomModel, check: Check, finding: Finding, console: Console, keep: Path | None) -> None:
    def fails(candidate: RandomModel) -> bool:
        found = check(candidate)
        return found is not None and found.kind == finding.kind

    smallest = shrink(model, fails)
    last = check(smallest)
    for node in smallest.model.graph.node:
        console.print(f"    {onnx.helper.printable_node(node)}", markup=False, soft_wrap=True)
    console.print(f"    {'' if last is None else last.message}", markup=False, soft_wrap=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        onnx.save(smallest.model, keep / f"{finding.name}.onnx")


def _batches(models: Iterable[RandomModel | None]) -> Iterator[list[RandomModel | None]]:
    batch: list[RandomModel | None] = []
    for model in models:
        batch.append(model)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _settings(options: argparse.Namespace) -> list[Setting]:
    if options.passes:
        return []
    if options.sanitize:
        return [Setting("c", is_quantized, SANITIZED) for is_quantized in (False, True)]
    return [Setting(target, options.int8) for target in options.target or ["host"]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100", help="how many, or FIRST:END")
    parser.add_argument("--models", type=Path, help="a folder of ONNX files, in place of seeds")
    parser.add_argument("--int8", action="store_true", help="quantize, and compare with the numpy reference")
    parser.add_argument("--target", action="append", help="default: host")
    parser.add_argument("--sanitize", action="store_true", help="C with gcc's sanitizers")
    parser.add_argument("--passes", action="store_true", help="each pass alone, nothing compiled")
    parser.add_argument("--compiled", action="store_true", help="compiled, no pass alone")
    parser.add_argument("--keep", type=Path, help="folder for the smallest models that fail")
    parser.add_argument("--cache-dir", type=Path, help="keeps compiled kernels for the next run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
