"""The inner loops of the kernels for 64-bit Arm, as LLVM's models of CPUs see them: writes docs/inner-loops.md.

    python -m tools.inner_loops

Each layer of LAYERS is compiled as `--target` compiles it. Of its innermost loops the one with the most products, of
Winograd's also the two that transform, is disassembled and given to llvm-mca, which repeats it with all data in the
first cache. A new kernel is a line in LAYERS. The newest llvm-mca on PATH is taken (apt-get install llvm-19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyopt.disk_cache import default_cache_dir
from tinyopt.lowering.draft import Drafting
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.request import KernelRequest, request_for
from tinyopt.targets import target_named
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.kernels.vector.pointwise_nest import PointwiseSpec
from tinyopt.targets.kernels.vector.winograd import WinogradKernelSpec
from tinyopt.targets.kernels.vector.winograd_transforms import TAPS
from tinyopt.targets.target import Target
from tools.inner_loop_analysis import (
    Instruction,
    analyzer_version,
    cost_of,
    disassembled,
    product_loop,
    products_of,
    stored_vectors_of,
    transform_loops,
)
from tools.instruction_costs.grid import Layer

WINDOW = TAPS * TAPS  # cells of Winograd's
PAGE = Path(__file__).resolve().parents[1] / "docs" / "inner-loops.md"

Level = Literal["neon", "dotprod", "i8mm"]  # without the dot product, with it, with the matrix product
Part = Literal["products", "input transform", "output transform"]


@dataclass(frozen=True)
class Cpu:
    """model: llvm-mca's name of it. targets: whose code is shown to it."""

    name: str
    model: str
    targets: Mapping[Level, str]


CPUS = (
    Cpu("cortex-a55", "cortex-a55", {"neon": "cortex-a53", "dotprod": "cortex-a55", "i8mm": "cortex-a510"}),
    Cpu("cortex-a76", "neoverse-n1", {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "cortex-a710"}),
    Cpu("cortex-a710", "cortex-a710", {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "cortex-a710"}),
)
PIPELINES = {  # what a model is, by LLVM's name of its pipeline
    "CortexA55": "the Cortex-A55, which issues in order",
    "N1": "the Neoverse N1, the Cortex-A76 for servers",
    "N2": "the Neoverse N2, the Cortex-A710 for servers",
    "A57": "the Cortex-A57 with other latencies, for want of a newer llvm-mca: the CPU may well do better",
}


@dataclass(frozen=True)
class InnerLoop:
    """A row of the table.

    layer: as tools.instruction_costs.grid writes it. share: of the products, those that count.
    """

    level: Level
    layer: str
    is_quantized: bool = True
    share: float = 1.0
    part: Part = "products"

    @property
    def text(self) -> str:
        layer = Layer.parse(self.layer)
        window = f"{layer.rows}x{layer.columns}{'/2' if layer.stride == 2 else ''}"
        image = f"{layer.height}x{layer.width}x{layer.channels} to {layer.outputs}"
        dtype = f"int8, {self.level}" if self.is_quantized else "float32"
        return f"{layer.op} {window}, {image}, {dtype}{'' if self.part == 'products' else f': {self.part}'}"


def _float(layer: str, part: Part = "products") -> InnerLoop:
    return InnerLoop("dotprod", layer, is_quantized=False, part=part)


LAYERS = (
    InnerLoop("neon", "Conv 25x5x64 1x1/1 64"),
    InnerLoop("neon", "Conv 16x16x32 3x3/1 32"),
    InnerLoop("neon", "Conv 49x10x1 10x4/2 64"),
    InnerLoop("neon", "Conv 7x7x320 1x1/1 320"),
    InnerLoop("neon", "Dense 1x1x640 1x1/1 128"),
    InnerLoop("neon", "Depthwise 12x12x64 3x3/1 64"),
    InnerLoop("neon", "Depthwise 12x12x64 3x3/2 64"),
    InnerLoop("neon", "Depthwise 14x14x96 5x5/1 96"),
    InnerLoop("dotprod", "Conv 25x5x64 1x1/1 64"),
    InnerLoop("dotprod", "Conv 16x16x32 3x3/1 32"),
    InnerLoop("dotprod", "Conv 32x32x3 3x3/1 16"),
    InnerLoop("dotprod", "Dense 1x1x640 1x1/1 128"),
    InnerLoop("dotprod", "Depthwise 12x12x64 3x3/1 64", share=3 / 4),  # the fourth product of a lane is with zero
    InnerLoop("dotprod", "Depthwise 12x12x64 3x3/2 64", share=3 / 4),
    InnerLoop("dotprod", "Depthwise 14x14x96 5x5/1 96", share=5 / 8),  # three of a lane's second four are with zero
    InnerLoop("i8mm", "Conv 25x5x64 1x1/1 64"),
    InnerLoop("i8mm", "Conv 16x16x32 3x3/1 32"),
    InnerLoop("i8mm", "Conv 16x16x64 3x3/2 64"),
    InnerLoop("i8mm", "Conv 49x10x1 10x4/2 64"),
    InnerLoop("i8mm", "Conv 7x7x320 1x1/1 320"),
    _float("Conv 14x14x96 1x1/1 96"),
    _float("Conv 25x5x64 1x1/1 64"),
    _float("Conv 16x16x64 3x3/2 64"),
    _float("Conv 32x32x3 3x3/1 16"),
    _float("Dense 1x1x640 1x1/1 128"),
    _float("Depthwise 12x12x64 3x3/1 64"),
    _float("Depthwise 12x12x64 3x3/2 64"),
    _float("Depthwise 14x14x96 5x5/1 96"),
    *(_float("Conv 24x24x32 3x3/1 32", part) for part in ("input transform", "products", "output transform")),
    *(_float("Conv 16x16x32 3x3/1 32", part) for part in ("input transform", "products", "output transform")),
    *(_float("Conv 6x6x32 3x3/1 32", part) for part in ("input transform", "products", "output transform")),
)


@dataclass(frozen=True)
class Analysis:
    """Of one pass through a loop. macs: of the layer, that a pass stands for."""

    kernel: Kernel
    instructions: int
    macs: float
    cycles: float
    bound: str
    pipeline: str


def main() -> None:
    PAGE.write_text(page(analyses(LAYERS)))


def analyses(entries: Sequence[InnerLoop]) -> list[tuple[InnerLoop, list[Analysis]]]:
    """Each entry on each of CPUS. Raises TinyoptError where a tool is missing or refuses its input."""
    requests: dict[tuple[InnerLoop, str], tuple[Kernel, KernelRequest]] = {}
    for entry in entries:
        for cpu in CPUS:
            target = target_named(cpu.targets[entry.level])
            kernel = kernel_of(entry, target)
            requests[entry, cpu.name] = kernel, request_for(kernel, target.tvm)
    wanted = [request for _, request in requests.values()]
    codes = compile_kernels(wanted, "object", default_cache_dir(), lambda _done, _total: None)

    def analysis(entry: InnerLoop, cpu: Cpu) -> Analysis:
        kernel, request = requests[entry, cpu.name]
        loop, macs = loop_of(entry, kernel, disassembled(codes[request.key], request.symbol))
        cost = cost_of(loop, cpu.model)
        return Analysis(kernel, len(loop), macs, cost.cycles, cost.bound, cost.pipeline)

    return [(entry, [analysis(entry, cpu) for cpu in CPUS]) for entry in entries]


def kernel_of(entry: InnerLoop, target: Target) -> Kernel:
    """The first kernel of the target that takes the layer."""
    drafting = Drafting.of_nodes(target.facts, entry.is_quantized)
    (node,) = drafting.draft_node(Layer.parse(entry.layer).node(""))
    answers = (planner(node) for planner in target.kernels[node.op])
    return next(answer for answer in answers if isinstance(answer, Kernel))


def loop_of(entry: InnerLoop, kernel: Kernel, function: Sequence[Instruction]) -> tuple[list[Instruction], float]:
    """(the loop of `entry.part`, the layer's MACs that a pass stands for).

    Those of a Winograd convolution are the direct one's: the cycles for each MAC of its three loops add up.
    """
    products = product_loop(function)
    if not isinstance(kernel.spec, WinogradKernelSpec):
        return products, entry.share * products_of(products)
    tiling = kernel.spec.tiling
    pixels = tiling.outputs * tiling.outputs
    inputs, outputs = transform_loops(function)
    match entry.part:
        case "products":
            return products, products_of(products) * WINDOW * pixels / tiling.positions
        case "input transform":
            tiles = stored_vectors_of(inputs) / tiling.positions
            return inputs, tiles * tiling.lanes * pixels * WINDOW * tiling.out_channels
        case "output transform":
            return outputs, stored_vectors_of(outputs) * tiling.lanes * WINDOW * tiling.window.channels


def page(rows: Sequence[tuple[InnerLoop, Sequence[Analysis]]]) -> str:
    """The page, in Markdown."""
    heads = [f"{cpu.name}: instructions | cycles | bound by" for cpu in CPUS]
    table = [
        f"| layer | kernel | {' | '.join(heads)} |",
        "|--|--|" + "--:|--:|--|" * len(CPUS),
        *(_row(entry, analyses) for entry, analyses in rows),
    ]
    models = [
        f"- {cpu.name}: the pipeline of {PIPELINES.get(pipeline, pipeline)}."
        for cpu, pipeline in zip(CPUS, (analysis.pipeline for analysis in rows[0][1]), strict=True)
    ]
    return TEXT.format(table="\n".join(table), version=analyzer_version(), models="\n".join(models))


def _row(entry: InnerLoop, analyses: Sequence[Analysis]) -> str:
    kernel = analyses[0].kernel
    figures = [f"{a.instructions / a.macs:.3f} | {a.cycles / a.macs:.3f} | {a.bound}" for a in analyses]
    return f"| {entry.text} | {kernel.name}{_tile(kernel)} | {' | '.join(figures)} |"


def _tile(kernel: Kernel) -> str:
    """What a pass works on, where the kernel's spec says it: pixels x channels."""
    if isinstance(kernel.spec, WinogradKernelSpec):
        tiling = kernel.spec.tiling
        return f" F({tiling.outputs}x{tiling.outputs}), {tiling.pixels}x{tiling.channels}"
    tile = kernel.spec if isinstance(kernel.spec, PointwiseSpec) else getattr(kernel.spec, "tile", None)
    return f" {tile.pixels}x{tile.channels}" if tile is not None else ""


TEXT = """\
# Inner loops of the Arm kernels

Instructions and cycles for each multiply-accumulate, of the innermost loop alone. The cycles are those of llvm-mca
{version}, a model with all data in the first cache: nobody ran these loops on silicon. Its models are

{models}

Loops without dot product (neon) are compiled for Cortex-A53 and A72, those with it (dotprod, and float32) for A55 and
A76, those with the matrix product (i8mm) for A510 and A710. Of these CPUs the A710 alone has SMMLA; the others'
models count what they take other vector products for.

What bounds a loop is the unit that is busy for nine tenths of the cycles: FPALU and FPMAC are the A55's pipes for
vectors, V0 and V1 those of the Neoverses (V0 alone multiplies integers on the N1), W and X those of the A57; Ld and L
load, St and S store, "issue" is the number of instructions that begin in a cycle. With "latency" it is none of them:
instructions wait for results. The loops of depthwise convolutions and of short windows contain their requantization.
Winograd's multiply-accumulates are those of the direct convolution, so that its three loops add up to the layer. The
kernel's name is followed by its tile, pixels x channels. Pointwise, dense and depthwise layers of int8 are those that
read their sizes at run time, as layers of several sizes share them; a layer that shares with none is made for its own.

{table}

`python -m tools.inner_loops` writes this page.
"""

if __name__ == "__main__":
    main()
