"""What the user allows a model to take, checked when all is known: flash, RAM, and instructions of one inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import BudgetError, ToolchainError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.measure import measure
from tinyopt.ir import Array
from tinyopt.lowering.estimates import NodeEstimates
from tinyopt.lowering.lower import planned_arena_bytes
from tinyopt.lowering.program import Program
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import PassContext
from tinyopt.passes.split_rows import SplitRows
from tinyopt.toolchain import CompilerChoice

_INT8_BITS, _FLOAT_BITS = 8, 32
_CLUSTERS, _CLUSTER_BITS = 32, 5


def check_budgets(
    program: Program, code: int | None, options: CompileOptions, folder: Path, sample: Mapping[str, Array]
) -> None:
    """Raise BudgetError that names every limit that is missed, by how much, and what would help.

    code: bytes of it, None where nothing measures code. folder: where the model was written, its report included.
    sample: one inference's inputs, in the types of the final graph.
    """
    misses = [*_flash(program, code, options), *_ram(program, options), *_cycles(program, options, folder, sample)]
    if misses:
        raise BudgetError("; ".join(misses))


def _flash(program: Program, code: int | None, options: CompileOptions) -> list[str]:
    constants = sum(constant.array.nbytes for constant in program.constants)
    needed = constants + (code or 0)
    if options.max_flash is None or needed <= options.max_flash:
        return []
    parts = f"{constants:,} of constants" + (
        ", no compiler to measure the code" if code is None else f", {code:,} of code"
    )
    return [
        f"the library takes {needed:,} B of flash ({parts}), {needed - options.max_flash:,} more than the "
        f"{options.max_flash:,} of --max-flash: {_less_flash(program, options)}, or allow more"
    ]


def _less_flash(program: Program, options: CompileOptions) -> str:
    """What would make it smaller, of what has not been asked for."""
    ways = ["prune it (--prune-to flash=SIZE)" if not (options.prune or options.prune_to) else "prune more"]
    if options.cluster == "auto":
        ways.append(f"let decoding take longer (--cluster-cost, now {options.cluster_cost:g})")
    elif options.cluster:
        ways.append("cluster its weights with fewer values (--cluster auto)")
    else:
        bits = _INT8_BITS if options.is_quantized and options.calibration else _FLOAT_BITS
        weights = sum(call.weight_bytes for call in program.calls)
        saved = weights * (bits - _CLUSTER_BITS) // bits
        ways.append(
            f"cluster its weights (--cluster {_CLUSTERS} saves up to {saved:,} B, --cluster auto what it takes)"
        )
    if options.is_quantized and not options.calibration:
        ways.append("quantize it (--calib)")
    return ", ".join(ways)


def _ram(program: Program, options: CompileOptions) -> list[str]:
    if options.max_ram is None or program.arena_bytes <= options.max_ram:
        return []
    return [
        f"the arena takes {program.arena_bytes:,} B of RAM, {program.arena_bytes - options.max_ram:,} more than the "
        f"{options.max_ram:,} of --max-ram (no plan of these layers takes less than "
        f"{program.arena_lower_bound_bytes:,}): {_less_ram(program, options)}, or allow more"
    ]


def _less_ram(program: Program, options: CompileOptions) -> str:
    ways: list[str] = []
    if options.patches == "off" and options.threads == 1:
        saved = program.arena_bytes - _arena_in_bands(program)
        if saved > 0:
            ways.append(f"compute the first layers in bands of rows (--patches auto saves about {saved:,} B)")
    if options.threads > 1:
        ways.append("use fewer threads (--threads 1)")
    if any(value.dtype == "float32" for value in program.graph.inputs) and options.boundary != "int8":
        if options.is_quantized and options.calibration:
            size = sum(value.type.bytes * 3 // 4 for value in program.graph.inputs if value.dtype == "float32")
            ways.append(f"take int8 inputs (--io int8 makes them {size:,} B smaller)")
        else:
            ways.append("quantize it (--calib)")
    ways.append("prune it (--prune-to ram=SIZE)" if not (options.prune or options.prune_to) else "prune more")
    return ", ".join(ways)


def _arena_in_bands(program: Program) -> int:
    """About the arena with `--patches auto`; that of today where bands save too little."""
    graph = program.graph.copy()
    context = PassContext(program.target.facts)
    context.arena_bytes = lambda candidate: planned_arena_bytes(candidate, program.target)
    if not SplitRows(bands="auto").run(graph, context):
        return program.arena_bytes
    return planned_arena_bytes(graph, program.target)


def _cycles(program: Program, options: CompileOptions, folder: Path, sample: Mapping[str, Array]) -> list[str]:
    if options.max_cycles is None:
        return []
    count, how = _instructions(program, options, folder, sample)
    if count <= options.max_cycles:
        return []
    share = 1 - options.max_cycles / count
    prune = f"--prune {min(share + 0.01, 0.95):.2f} removes that share" if not options.prune_to else "prune more"
    ways = [prune, "quantize it (--calib)"] if not (options.is_quantized and options.calibration) else [prune]
    if options.cluster and options.cluster_cost > 1:
        ways.append("look up fewer weights (--cluster-cost 1)")
    return [
        f"one inference takes {count:,} instructions ({how}), {count - options.max_cycles:,} more than the "
        f"{options.max_cycles:,} of --max-cycles: {', '.join(ways)}, or allow more"
    ]


def _instructions(
    program: Program, options: CompileOptions, folder: Path, sample: Mapping[str, Array]
) -> tuple[int, str]:
    """Of one inference: counted where the target is emulated here, else estimated; and which of the two."""
    if program.target.emulator.kind != "native":
        try:
            cache_dir = options.cache_dir or default_cache_dir()
            measured = measure(load_built_model(folder), [sample], CompilerChoice(options.cc), cache_dir)
            return measured.instructions[0], "counted under QEMU"
        except ToolchainError:
            pass
    is_integer = any(value.dtype in ("int8", "int16") for node in program.graph.nodes for value in node.outputs)
    estimates = NodeEstimates(program.target, is_integer)
    return round(sum(estimates.of_lowered(call.node) for call in program.calls)), "estimated: nothing here counts them"
