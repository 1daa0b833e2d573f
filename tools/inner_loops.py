"""The inner loops of the kernels for 64-bit Arm, as LLVM's models of two CPUs see them: writes docs/inner-loops.md.

    python -m tools.inner_loops

Each layer of LAYERS is compiled as `--target` compiles it. Of its innermost loops the one with the most products is
disassembled and given to llvm-mca, which repeats it with all data in the first cache. A new kernel is a line in LAYERS.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import TinyoptError
from tinyopt.lowering.draft import Drafting
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.request import request_for
from tinyopt.targets import target_named
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.target import Target
from tools.instruction_costs.grid import Layer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "inner-loops.md"
OBJDUMPS = ("aarch64-linux-gnu-objdump", "llvm-objdump")
ANALYZERS = ("llvm-mca-19", "llvm-mca")
ITERATIONS = 100
NEARLY = 0.9  # a resource that is busy for this share of the cycles bounds the loop

# LLVM's model, and the targets whose code is shown to it: without dot product, with it, with the matrix product
CPUS = {
    "cortex-a55": {"neon": "cortex-a53", "dotprod": "cortex-a55", "i8mm": "cortex-a510"},
    "cortex-a76": {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "cortex-a710"},
}
PRODUCTS = {  # of one instruction, by the type of its result
    "smmla": {"4s": 32},
    "sdot": {"4s": 16},
    **{name: {"8h": 8, "4s": 4} for name in ("smull", "smull2", "smlal", "smlal2")},
    "fmla": {"8h": 8, "4s": 4},
}


@dataclass(frozen=True)
class InnerLoop:
    """A row of the table.

    level: a key of CPUS' targets. layer: as tools.instruction_costs.grid writes it. share: of the products, those that
    count.
    """

    level: str
    layer: str
    is_quantized: bool = True
    share: float = 1.0


LAYERS = (
    InnerLoop("neon", "Conv 25x5x64 1x1/1 64"),
    InnerLoop("neon", "Conv 16x16x32 3x3/1 32"),
    InnerLoop("neon", "Dense 1x1x640 1x1/1 128"),
    InnerLoop("neon", "Depthwise 12x12x64 3x3/1 64"),
    InnerLoop("neon", "Depthwise 14x14x96 5x5/1 96"),
    InnerLoop("dotprod", "Conv 25x5x64 1x1/1 64"),
    InnerLoop("dotprod", "Conv 16x16x32 3x3/1 32"),
    InnerLoop("dotprod", "Dense 1x1x640 1x1/1 128"),
    InnerLoop("dotprod", "Depthwise 12x12x64 3x3/1 64", share=3 / 4),  # the fourth product of a lane is with zero
    InnerLoop("i8mm", "Conv 25x5x64 1x1/1 64"),
    InnerLoop("i8mm", "Conv 16x16x32 3x3/1 32"),
    InnerLoop("dotprod", "Conv 25x5x64 1x1/1 64", is_quantized=False),
    InnerLoop("dotprod", "Depthwise 12x12x64 3x3/1 64", is_quantized=False),
)


@dataclass(frozen=True)
class Instruction:
    address: int
    mnemonic: str
    operands: str

    @property
    def jumps_to(self) -> int | None:
        """The address that a branch within the function goes to."""
        if self.mnemonic != "b" and not self.mnemonic.startswith(("b.", "cb", "tb")):
            return None
        return int(self.operands.split(",")[-1].split()[0], 16)

    @property
    def products(self) -> int:
        kind = re.match(r"v\d+\.(\w+)", self.operands)
        return PRODUCTS.get(self.mnemonic, {}).get(kind[1], 0) if kind else 0


@dataclass(frozen=True)
class Analysis:
    """Of one pass through a loop. bound: the resource that takes nearly all of the cycles, or "latency"."""

    kernel: str
    instructions: int
    macs: float
    cycles: float
    bound: str


def main() -> None:
    rows = [(entry, [analyze(entry, cpu) for cpu in CPUS]) for entry in LAYERS]
    PAGE.write_text(page(rows))


def analyze(entry: InnerLoop, cpu: str) -> Analysis:
    """The inner loop of a layer on one of CPUS. Raises TinyoptError where a tool is missing or refuses its input."""
    target = target_named(CPUS[cpu][entry.level])
    kernel = kernel_of(entry, target)
    loop = inner_loop(disassembled(kernel, target))
    macs = entry.share * sum(instruction.products for instruction in loop)
    cycles, bound = cycles_of(loop, cpu)
    return Analysis(kernel.name, len(loop), macs, cycles, bound)


def kernel_of(entry: InnerLoop, target: Target) -> Kernel:
    """The first kernel of the target that takes the layer."""
    drafting = Drafting.of_nodes(target.facts, entry.is_quantized)
    (node,) = drafting.draft_node(Layer.parse(entry.layer).node(""))
    answers = (planner(node) for planner in target.kernels[node.op])
    return next(answer for answer in answers if isinstance(answer, Kernel))


def disassembled(kernel: Kernel, target: Target) -> list[Instruction]:
    """The instructions of the kernel's function."""
    request = request_for(kernel, target.tvm)
    code = compile_kernels([request], "object", default_cache_dir(), lambda _done, _total: None)[request.key]
    with tempfile.TemporaryDirectory(prefix="tinyopt-loops-") as folder:
        file = Path(folder) / "kernel.o"
        file.write_bytes(code)
        text = _run([_tool(OBJDUMPS), "-d", "--no-show-raw-insn", str(file)])
    function = text.split(f"<{request.symbol}>:\n")[1].split("\n\n")[0]
    lines = re.findall(r"^ *([0-9a-f]+):\s+(\S+)[ \t]*([^\n]*)$", function, re.MULTILINE)
    return [Instruction(int(address, 16), name, rest.split("//")[0].strip()) for address, name, rest in lines]


def inner_loop(function: Sequence[Instruction]) -> list[Instruction]:
    """Of the loops without a loop inside, the one with the most products, and them most densely."""
    loops = list(_loops(function))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [list(function[first : last + 1]) for first, last in innermost]
    return max(bodies, key=lambda body: sum(instruction.products for instruction in body) ** 2 / len(body))


def _loops(function: Sequence[Instruction]) -> Iterator[tuple[int, int]]:
    """(first instruction, branch back) of each loop."""
    places = {instruction.address: place for place, instruction in enumerate(function)}
    for place, instruction in enumerate(function):
        start = places.get(instruction.jumps_to) if instruction.jumps_to is not None else None
        if start is not None and start <= place:
            yield start, place


def cycles_of(loop: Sequence[Instruction], cpu: str) -> tuple[float, str]:
    """(cycles of one pass, what bounds it) by llvm-mca."""
    lines = ["loop:", *(f"{i.mnemonic} {i.operands}" for i in loop[:-1]), f"{loop[-1].mnemonic} {_back(loop[-1])}"]
    arguments = ("-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm,+fullfp16", f"-iterations={ITERATIONS}")
    report = _run([_tool(ANALYZERS), *arguments], "\n".join(lines))
    cycles = _number("Total Cycles", report) / ITERATIONS
    busy = resource_pressure(report)
    busy["issue"] = _number("Total uOps", report) / ITERATIONS / _number("Dispatch Width", report)
    most = max(busy, key=lambda name: busy[name])
    return cycles, most if busy[most] >= NEARLY * cycles else "latency"


def _back(branch: Instruction) -> str:
    return ", ".join([*branch.operands.split(", ")[:-1], "loop"])


def resource_pressure(report: str) -> dict[str, float]:
    """Cycles of one pass for which each kind of unit is busy, shared among those of the kind."""
    units = dict(re.findall(r"^\[([\d.]+)\] +- (\w+)$", report, re.MULTILINE))
    head, values = report.split("Resource pressure per iteration:\n")[1].split("\n")[:2]
    found: dict[str, list[float]] = {}
    for unit, value in zip(re.findall(r"\[([\d.]+)\]", head), values.split(), strict=True):
        found.setdefault(units[unit], []).append(0.0 if value == "-" else float(value))
    return {re.sub(r"^.*Unit", "", name): sum(values) / len(values) for name, values in found.items()}


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


def page(rows: Sequence[tuple[InnerLoop, Sequence[Analysis]]]) -> str:
    """The page, in Markdown."""
    version = re.search(r"LLVM version ([\d.]+)", _run([_tool(ANALYZERS), "--version"]))
    heads = [f"{cpu}: instructions | cycles | bound by" for cpu in CPUS]
    table = [
        f"| layer | kernel | {' | '.join(heads)} |",
        "|--|--|" + "--:|--:|--|" * len(CPUS),
        *(_row(entry, analyses) for entry, analyses in rows),
    ]
    return TEXT.format(table="\n".join(table), version=version[1] if version else "")


def _row(entry: InnerLoop, analyses: Sequence[Analysis]) -> str:
    layer = Layer.parse(entry.layer)
    what = f"{layer.op} {layer.rows}x{layer.columns}, {layer.height}x{layer.width}x{layer.channels} to {layer.outputs}"
    figures = [f"{a.instructions / a.macs:.3f} | {a.cycles / a.macs:.3f} | {a.bound}" for a in analyses]
    dtype = "int8" if entry.is_quantized else "float32"
    return f"| {what}, {dtype}, {entry.level} | {analyses[0].kernel} | {' | '.join(figures)} |"


TEXT = """\
# Inner loops of the Arm kernels

Instructions and cycles for each multiply-accumulate, of the innermost loop alone. The cycles are those of llvm-mca
{version}, a model with all data in the first cache: nobody ran these loops on silicon. Its cortex-a76 is the pipeline
of the Cortex-A57 with other latencies, so that an A76 may well do better; its cortex-a55 issues in order. SMMLA, which
neither CPU has, counts as what the model takes other vector products for. Loops without dot product (neon) are compiled
for Cortex-A53 and A72, those with it (dotprod, and float32) for A55 and A76, those with the matrix product (i8mm) for
A510 and A710.

What bounds a loop is the unit that is busy for nine tenths of the cycles: FPALU and FPMAC are the A55's pipes for
vectors, W multiplies vectors in the A57's model and X is its other pipe for them, Ld and L load, "issue" is the number
of instructions that begin in a cycle. With "latency" it is none of them: instructions wait for results. The loops of
depthwise convolutions and of short windows contain their requantization.

{table}

`python -m tools.inner_loops` writes this page.
"""

if __name__ == "__main__":
    main()
