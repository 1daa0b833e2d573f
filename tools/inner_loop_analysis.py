"""Finds the inner loops in a kernel's machine code for 64-bit Arm, and asks llvm-mca what they cost."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyopt.errors import TinyoptError

OBJDUMPS = ("aarch64-linux-gnu-objdump", "llvm-objdump")
NEWEST = 25  # of the versions of llvm-mca that are looked for
ANALYZERS = (*(f"llvm-mca-{version}" for version in range(NEWEST, 13, -1)), "llvm-mca")
FEATURES = "-mattr=+dotprod,+i8mm,+fullfp16"
ITERATIONS = 100
NEARLY = 0.9  # a resource that is busy for this share of the cycles bounds the loop

PRODUCTS = {  # of one instruction, by the type of its result
    "smmla": {"4s": 32},
    "sdot": {"4s": 16},
    **{name: {"8h": 8, "4s": 4} for name in ("smull", "smull2", "smlal", "smlal2")},
    "fmla": {"8h": 8, "4s": 4},
}
VECTOR_STORES = {"str": 1, "stur": 1, "stp": 2}  # of q registers


@dataclass(frozen=True)
class Instruction:
    address: int
    mnemonic: str
    operands: str

    @property
    def jumps_to(self) -> int | None:
        """The address that a branch within the function goes to."""
        if not re.fullmatch(r"b|b\.\w+|cbn?z|tbn?z", self.mnemonic):  # tbl is no branch
            return None
        return int(self.operands.split(",")[-1].split()[0], 16)

    @property
    def products(self) -> int:
        kind = re.match(r"v\d+\.(\w+)", self.operands)
        return PRODUCTS.get(self.mnemonic, {}).get(kind[1], 0) if kind else 0

    @property
    def stored_vectors(self) -> int:
        """But for those that are kept on the stack for want of registers."""
        is_stored = self.operands.startswith("q") and "[sp" not in self.operands
        return VECTOR_STORES.get(self.mnemonic, 0) if is_stored else 0


@dataclass(frozen=True)
class Cost:
    """Of one pass through a loop. bound: the resource that takes nearly all of the cycles, or "latency".

    pipeline: whose resources those are, by LLVM's name.
    """

    cycles: float
    bound: str
    pipeline: str


def products_of(loop: Sequence[Instruction]) -> int:
    return sum(instruction.products for instruction in loop)


def stored_vectors_of(loop: Sequence[Instruction]) -> int:
    return sum(instruction.stored_vectors for instruction in loop)


def disassembled(code: bytes, symbol: str) -> list[Instruction]:
    """The instructions of a function in an object file."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-loops-") as folder:
        file = Path(folder) / "kernel.o"
        file.write_bytes(code)
        text = _run([_tool(OBJDUMPS), "-d", "--no-show-raw-insn", str(file)])
    function = text.split(f"<{symbol}>:\n")[1].split("\n\n")[0]
    lines = re.findall(r"^ *([0-9a-f]+):\s+(\S+)[ \t]*([^\n]*)$", function, re.MULTILINE)
    return [Instruction(int(address, 16), name, rest.split("//")[0].strip()) for address, name, rest in lines]


def innermost_loops(function: Sequence[Instruction]) -> list[list[Instruction]]:
    """The loops without a loop inside."""
    loops = list(_loops(function))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [list(function[first : last + 1]) for first, last in innermost]


def product_loop(function: Sequence[Instruction]) -> list[Instruction]:
    """Of the innermost loops the one with the most products, and them most densely."""
    return max(innermost_loops(function), key=lambda body: products_of(body) ** 2 / len(body))


def transform_loops(function: Sequence[Instruction]) -> tuple[list[Instruction], list[Instruction]]:
    """The largest innermost loops before and behind the product loop that subtract floats and store vectors.

    Raises TinyoptError where there is none.
    """
    products = product_loop(function)
    loops = [
        body
        for body in innermost_loops(function)
        if stored_vectors_of(body) and any(instruction.mnemonic == "fsub" for instruction in body)
    ]
    before = [body for body in loops if body[-1].address < products[0].address]
    behind = [body for body in loops if body[0].address > products[-1].address]
    if not before or not behind:
        raise TinyoptError(f"{len(before)} transforms before the products and {len(behind)} behind them")
    return max(before, key=len), max(behind, key=len)


def _loops(function: Sequence[Instruction]) -> Iterator[tuple[int, int]]:
    """(first instruction, branch back) of each loop."""
    places = {instruction.address: place for place, instruction in enumerate(function)}
    for place, instruction in enumerate(function):
        start = places.get(instruction.jumps_to) if instruction.jumps_to is not None else None
        if start is not None and start <= place:
            yield start, place


def cost_of(loop: Sequence[Instruction], model: str) -> Cost:
    """By llvm-mca's model of a CPU. Raises TinyoptError where a tool is missing or refuses its input."""
    lines = ["loop:", *(_text(instruction) for instruction in loop)]
    arguments = ("-mtriple=aarch64", f"-mcpu={model}", FEATURES, f"-iterations={ITERATIONS}")
    report = _run([_tool(ANALYZERS), *arguments], "\n".join(lines))
    cycles = _number("Total Cycles", report) / ITERATIONS
    pipeline, busy = resource_pressure(report)
    busy["issue"] = _number("Total uOps", report) / ITERATIONS / _number("Dispatch Width", report)
    most = max(busy, key=lambda name: busy[name])
    return Cost(cycles, most if busy[most] >= NEARLY * cycles else "latency", pipeline)


def _text(instruction: Instruction) -> str:
    """With a label that the assembler knows, where it is a branch."""
    if instruction.jumps_to is None:
        return f"{instruction.mnemonic} {instruction.operands}"
    return f"{instruction.mnemonic} {', '.join([*instruction.operands.split(', ')[:-1], 'loop'])}"


def resource_pressure(report: str) -> tuple[str, dict[str, float]]:
    """(the pipeline's name, cycles of one pass for which each kind of unit is busy, shared among those of the kind)."""
    units = dict(re.findall(r"^\[([\d.]+)\] +- (\w+)$", report, re.MULTILINE))
    head, values = report.split("Resource pressure per iteration:\n")[1].split("\n")[:2]
    found: dict[str, list[float]] = {}
    for unit, value in zip(re.findall(r"\[([\d.]+)\]", head), values.split(), strict=True):
        found.setdefault(units[unit], []).append(0.0 if value == "-" else float(value))
    (pipeline,) = {name.split("Unit")[0] for name in found}
    return pipeline, {name.split("Unit")[1]: sum(values) / len(values) for name, values in found.items()}


def analyzer_version() -> str:
    """llvm-mca's own. Raises TinyoptError where it is not installed."""
    found = re.search(r"LLVM version ([\d.]+)", _run([_tool(ANALYZERS), "--version"]))
    return found[1] if found else "of an unknown version"


def _number(name: str, report: str) -> float:
    found = re.search(rf"^{name}: +([\d.]+)$", report, re.MULTILINE)
    assert found, report
    return float(found[1])


def _tool(names: Sequence[str]) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise TinyoptError(f"none of {', '.join(names)} is installed")
    return found


def _run(command: Sequence[str], text: str = "") -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise TinyoptError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout
