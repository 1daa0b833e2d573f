"""A case on its way to a program: import, the passes of `tinyopt compile`, a kernel for each node, places in memory.

A compiled model has its parameters as constants, while many tests feed them as inputs: weights, shapes, axes, scales.
An input that the importer refuses because it "is not constant" is bound to its value in the test, and the case tried
again. Such cases are counted apart as "bound", and as "folded" where nothing is left to feed, because the operator has
no inputs but sizes (Range, ConstantOfShape): then only what the importer computes is tested. Inputs behind other nodes
are bound only where they are integers of one dimension or none.
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

_NODE = r"(\w+) \(node '[^']*'\): (?:\w+ in its definition: )?"
_NOT_CONSTANT = re.compile(_NODE + r"non-constant [^']*'([^']+)'")
_ON_CONSTANTS_ONLY = re.compile(_NODE + "it is supported on constants only")

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
    open_inputs = [name for name in inputs if name not in given and isinstance(inputs[name], np.ndarray | np.generic)]
    known = {name for node in case.model.graph.node for name in (*node.input, *node.output)}
    for operator, wanted in _NOT_CONSTANT.findall(message):
        direct = next((name for name in open_inputs if wanted in (name, f"{name}_int8")), None)
        if direct is not None:
            return direct
        if wanted not in known:  # something that the importer made of a parameter
            return next((name for name in _parameters(case, operator) if name in open_inputs), None)
        return next((name for name in _sizes_behind(case, wanted) if name in open_inputs), None)
    for operator in _ON_CONSTANTS_ONLY.findall(message):
        tensors = [name for node in case.model.graph.node if node.op_type == operator for name in node.input]
        sizes = [size for tensor in tensors for size in (tensor, *_sizes_behind(case, tensor))]
        return next((name for name in sizes if name in open_inputs), None)
    return None


def _parameters(case: BackendCase, operator: str) -> list[str]:
    """The inputs of the nodes of an operator, but for the first."""
    return [name for node in case.model.graph.node if node.op_type == operator for name in node.input[1:]]


def _sizes_behind(case: BackendCase, tensor: str) -> list[str]:
    """The case's integer inputs of one dimension or none that `tensor` is computed from."""
    makers = {name: node for node in case.model.graph.node for name in node.output}
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(makers[name].input if name in makers else ())
    inputs = case.inputs(0)
    arrays = {name: np.asarray(inputs[name]) for name in inputs if name in seen}
    return [name for name, array in arrays.items() if array.dtype.kind in "iu" and array.ndim <= 1]


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
