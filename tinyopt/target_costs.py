"""What float graphs will take on a target: instructions by its own kernels, its arena, and the library's flash.

Flash and RAM are those of a draft (see tinyopt.lowering.draft), planned as the finished graph will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tinyopt.artifact.write import code_bytes
from tinyopt.errors import ToolchainError
from tinyopt.ir import Graph
from tinyopt.lowering.draft import Drafting
from tinyopt.lowering.estimates import NodeEstimates
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.lower import plan, planned_arena_bytes
from tinyopt.lowering.program import Program
from tinyopt.lowering.request import KernelRequest
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Pass, PassContext, TargetCosts
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.quantize import Quantize
from tinyopt.passes.split_rows import SplitRows
from tinyopt.samples import Sample
from tinyopt.targets.target import Target
from tinyopt.toolchain import Compiler, find_compiler

_DRAFTED = (LowerInteger, SplitRows)  # what of the pipeline changes, after quantization, which kernels there are


def target_costs(
    target: Target, options: CompileOptions, pipeline: Sequence[Pass], calibration: Sequence[Sample]
) -> TargetCosts:
    """The costs of what the passes of `pipeline` make of a float graph; without samples nothing is quantized.

    Raises ToolchainError where the compiler that the options name is missing.
    """
    quantize = next((step for step in pipeline if isinstance(step, Quantize)), None) if calibration else None
    lowering = tuple(step for step in pipeline if isinstance(step, _DRAFTED))
    is_integer = quantize is not None and any(isinstance(step, LowerInteger) for step in lowering)
    compiler = find_code_compiler(target, options.cc)
    drafting = Drafting(target.facts, quantize, lowering, calibration)
    memory = DraftMemory(target, drafting, compiler, options.cache_dir)
    return TargetCosts(
        label=f"{target.name} {'int8' if is_integer else 'float'} {quantize} {lowering} {memory.measured_by}",
        instructions=NodeEstimates(target, is_integer).instructions,
        flash_bytes=memory.flash_bytes,
        ram_bytes=memory.ram_bytes,
        flash_note="" if memory.measures_code else f"constants alone: there is no compiler for {target.name}",
    )


def find_code_compiler(target: Target, cc: str | None) -> Compiler | None:
    """The compiler that code is measured with; None where there is none, unless the user named one."""
    try:
        return find_compiler(target, cc)
    except ToolchainError:
        if cc:
            raise
        return None


@dataclass(frozen=True, eq=False)
class DraftMemory:
    """Flash and RAM of float graphs. Code is measured once for each set of kernels: compiling takes seconds."""

    target: Target
    drafting: Drafting
    compiler: Compiler | None
    cache_dir: Path | None
    _code: dict[frozenset[str], int] = field(default_factory=dict[frozenset[str], int])

    @property
    def measures_code(self) -> bool:
        """Whether there is a compiler, and one with a tool that tells sizes."""
        return self.compiler is not None and bool(self.compiler.size)

    @property
    def measured_by(self) -> str:
        """The compiler that code is measured with, and its version; empty where nothing measures code."""
        return f"{self.compiler.command} {self.compiler.version()}" if self.compiler and self.measures_code else ""

    def ram_bytes(self, graph: Graph) -> int:
        """The arena, in one piece."""
        return self._plan(graph)[0].arena_bytes

    def flash_bytes(self, graph: Graph) -> int:
        """All constants, equal ones once, and the code; the constants alone where nothing measures code."""
        program, requests = self._plan(graph)
        return sum(constant.array.nbytes for constant in program.constants) + self._code_bytes(program, requests)

    def _plan(self, graph: Graph) -> tuple[Program, tuple[KernelRequest, ...]]:
        return plan(self._draft(graph), self.target)

    def _draft(self, graph: Graph) -> Graph:
        context = PassContext(self.target.facts)
        context.arena_bytes = lambda candidate: planned_arena_bytes(candidate, self.target)
        return self.drafting.draft(graph, context)

    def _code_bytes(self, program: Program, requests: tuple[KernelRequest, ...]) -> int:
        if self.compiler is None or not self.measures_code:
            return 0
        kernels = frozenset(request.key for request in requests)
        if kernels not in self._code:
            target = self.target
            functions = compile_kernels(requests, target.code, self.cache_dir, lambda _done, _all: None)
            size = code_bytes(replace(program, functions=functions), self.compiler, self.cache_dir)
            assert size is not None, "the compiler has a tool that tells sizes"
            self._code[kernels] = size
        return self._code[kernels]
