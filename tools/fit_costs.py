"""Fit the instruction models of targets/kernel_costs.py to layers counted under QEMU.

    python -m tools.fit_costs --count [--family NAME ...]    count the grid of layers again, and fit
    python -m tools.fit_costs                                fit to the committed counts

The counts are kept in tests/golden/instruction_counts.csv (family, layer, kernel, instructions), the fitted models in
targets/kernel_costs.json. For each kernel every combination of roundings is tried, each with the non-negative
coefficients of least squared relative error; the one with the least error is taken. Counting takes about ten minutes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from tinyopt.lowering.draft import Drafting
from tinyopt.targets import target_named
from tinyopt.targets.kernel_costs import TABLE, KernelCost, Rounding, Shape
from tools.instruction_costs.counting import count_layers
from tools.instruction_costs.grid import Layer, grid

COUNTS = Path(__file__).resolve().parents[1] / "tests" / "golden" / "instruction_counts.csv"
FEWEST_LAYERS = 4  # below that a kernel has no model of its own
ROUNDINGS = tuple(itertools.starmap(Rounding, itertools.product((1, 2, 4), (1, 2, 4, 8, 16), (1, 2, 4, 8, 16))))


@dataclass(frozen=True)
class Family:
    """Cores with the same kernels: which of them is counted, and the largest layers that it is given, in MACs."""

    core: str
    is_quantized: bool
    most_macs: int


FAMILIES = {
    "thumb1": (Family("cortex-m0plus", True, 1_500_000), Family("cortex-m0plus", False, 100_000)),
    "thumb2": (Family("cortex-m3", True, 1_500_000), Family("cortex-m3", False, 100_000)),
    "dsp": (Family("cortex-m4", True, 4_000_000), Family("cortex-m4", False, 1_500_000)),
    "mve": (Family("cortex-m55", True, 4_000_000),),
    "sdot": (Family("cortex-a76", True, 4_000_000), Family("cortex-a76", False, 1_500_000)),
}


@dataclass(frozen=True)
class Count:
    """One layer that was counted."""

    family: str
    core: str
    is_quantized: bool
    layer: Layer
    kernel: str
    instructions: int


def main() -> None:
    """Count where that is asked for, fit, and say how well the models fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", action="store_true", help="count the layers again: needs the emulators")
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="count only these again")
    arguments = parser.parse_args()
    counts = read_counts()
    if arguments.count:
        wanted = arguments.family or list(FAMILIES)
        counts = [count for count in counts if count.family not in wanted]
        for name in wanted:
            counts += counted(name)
            write_counts(counts)
    table = fit(counts)
    rows = {family: {name: model.as_dict() for name, model in kernels.items()} for family, kernels in table.items()}
    TABLE.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", "ascii")
    for family, kernels in table.items():
        for name, model in kernels.items():
            print(f"{family:8s}{name:28s}{model.layers:4d} layers, error {100 * model.error:5.1f} %")


def counted(name: str) -> Iterator[Count]:
    """The grid's layers on one family."""
    for family in FAMILIES[name]:
        layers = grid(family.most_macs)
        for layer, kernel, instructions in count_layers(family.core, layers, family.is_quantized):
            yield Count(name, family.core, family.is_quantized, layer, kernel, instructions)


def read_counts() -> list[Count]:
    """The committed counts."""
    with COUNTS.open(newline="", encoding="ascii") as file:
        return [
            Count(row[0], row[1], row[2] == "int8", Layer.parse(row[3]), row[4], int(row[5]))
            for row in itertools.islice(csv.reader(file), 1, None)
        ]


def write_counts(counts: Iterable[Count]) -> None:
    """Commit them."""
    with COUNTS.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("family", "core", "type", "layer", "kernel", "instructions"))
        for c in counts:
            kind = "int8" if c.is_quantized else "float"
            writer.writerow((c.family, c.core, kind, c.layer.text, c.kernel, c.instructions))


def fit(counts: Sequence[Count]) -> dict[str, dict[str, KernelCost]]:
    """The models by family and kernel."""
    found: dict[tuple[str, str], list[Count]] = {}
    for count in counts:
        found.setdefault((count.family, count.kernel), []).append(count)
    table: dict[str, dict[str, KernelCost]] = {}
    for (family, kernel), members in sorted(found.items()):
        if len(members) >= FEWEST_LAYERS:
            table.setdefault(family, {})[kernel] = fit_kernel(members)
    return table


def fit_kernel(counts: Sequence[Count]) -> KernelCost:
    """The roundings and coefficients of least squared relative error."""
    shapes = [shape_of(count) for count in counts]
    wanted = np.array([count.instructions for count in counts], np.float64)
    return min((_fit_rounding(shapes, wanted, rounding) for rounding in ROUNDINGS), key=lambda model: model.error)


def shape_of(count: Count) -> Shape:
    """Of the layer as it is run."""
    facts = target_named(count.core).facts
    (node,) = Drafting.of_nodes(facts, count.is_quantized).draft_node(count.layer.node("layer"))
    return Shape.of(node)


def _fit_rounding(shapes: Sequence[Shape], wanted: NDArray[np.float64], rounding: Rounding) -> KernelCost:
    rows = [shape.terms(rounding) for shape in shapes]
    names = list(rows[0])
    terms = np.array([[row[name] for name in names] for row in rows], np.float64) / wanted[:, None]  # [layers, terms]
    sizes = np.maximum(terms.max(axis=0), 1e-30)
    factors = nnls(terms / sizes, np.ones(len(rows)))[0] / sizes
    error = float(np.sqrt(np.mean((terms @ factors - 1) ** 2)))
    coefficients = {name: float(f"{factor:.4g}") for name, factor in zip(names, factors, strict=True) if factor > 0}
    return KernelCost(rounding, coefficients, len(rows), float(f"{error:.3g}"))


if __name__ == "__main__":
    main()
