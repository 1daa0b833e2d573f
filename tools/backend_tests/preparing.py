"""A case on its way to a program: import, the passes of `tinyopt compile`, a kernel for each node, places in memory.

A compiled model has its parameters as constants, while many tests feed them as inputs: weights, shapes, axes, scales.
An input that the importer refuses because it "is not constant" is bound to its value in the test, and the case tried
again; such cases are counted apart. At least one input stays an input, unless the operator has none but shapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tinyopt.errors import TinyoptError
from tinyopt.ir import Array, Graph, TensorType
from tinyopt.lowering.lower import plan
from tinyopt.lowering.program import ArenaSlot, CallArgument, FlashConstant
from tinyopt.lowering.request import KernelRequest
from tinyopt.onnx_import.importer import import_proto
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import PassContext, run_pass
from tinyopt.pipeline import build_pipeline
from tinyopt.targets.host import HOST
from tools.backend_tests.cases import BackendCase, bound

_NOT_CONSTANT = re.compile(r"(\w+) \(node '[^']*'\): non-constant [^']*'([^']+)'")

_ON_CONSTANTS_ONLY = re.compile(r"(\w+) \(node '[^']*'\): it is supported on constants only")

Place: TypeAlias = ArenaSlot | FlashConstant


@dataclass(frozen=True, eq=False)
class Tensor:
    """An input or output of the program: its name, its type, where it lies."""

    name: str
    type: TensorType
    place: Place


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is run: the functions by their symbols, one after the other, and what to compile for it.

    bound: the inputs that were bound to their values.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    calls: tuple[tuple[str, tuple[CallArgument, ...]], ...]
    arena_bytes: int
    requests: tuple[KernelRequest, ...]
    bound: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """The one line that says why a case is not taken."""

    name: str
    reason: str


def prepare(case: BackendCase) -> Prepared | Refused:
    """Anything but a TinyoptError is let through: it would be a traceback."""
    given: dict[str, Array] = {}
    while True:
        try:
            graph = import_proto(bound(case, given), "model", {}).graph
            return _lowered(case.name, graph, tuple(given))
        except TinyoptError as error:
            name = _input_to_bind(case, str(error), given)
            if name is None:
                return Refused(case.name, reason_of(error))
            given[name] = np.asarray(case.inputs(0)[name])


def reason_of(error: TinyoptError) -> str:
    """The first thing that an error says is wrong."""
    parts = getattr(error, "parts", ())
    return " ".join(str(parts[0] if parts else error).split())


def _input_to_bind(case: BackendCase, message: str, given: dict[str, Array]) -> str | None:
    """An input of the case that the message asks to be constant, and that is not bound yet."""
    inputs = case.inputs(0)
    wanted = [name for _operator, name in _NOT_CONSTANT.findall(message)]
    for operator in _ON_CONSTANTS_ONLY.findall(message):
        wanted += [name for node in case.model.graph.node if node.op_type == operator for name in node.input]
    for name in wanted:
        source = next((known for known in inputs if name in (known, f"{known}_int8")), None)
        if source is not None and source not in given and isinstance(inputs[source], np.ndarray | np.generic):
            return source
    return None


def _lowered(name: str, graph: Graph, given: tuple[str, ...]) -> Prepared:
    context = PassContext(HOST.facts, (), 0, original=graph.copy())
    for step in build_pipeline(CompileOptions(target="host"), HOST.boundary):
        run_pass(step, graph, context)
    program, requests = plan(graph, HOST)
    inputs, outputs = (
        tuple(Tensor(value.name, value.type, program.places[value]) for value in values)
        for values in (program.graph.inputs, program.graph.outputs)
    )
    calls = tuple((call.symbol, call.arguments) for call in program.calls)
    return Prepared(name, inputs, outputs, calls, program.arena_bytes, requests, given)
