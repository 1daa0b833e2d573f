"""Build the graph: go through the ONNX nodes in order, fold constants, apply the rules, collect what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from tinyopt import guard
from tinyopt.errors import InvalidModelError, TinyoptError, UnsupportedOperatorError
from tinyopt.ir import DTYPES, Graph, Quantization, TensorType, Value
from tinyopt.onnx_import.builder import Builder, unusable_type
from tinyopt.onnx_import.definitions import Expansion, expand_definitions
from tinyopt.onnx_import.folding import FOLDABLE, can_fold, fold
from tinyopt.onnx_import.folding_budget import FoldingBudget
from tinyopt.onnx_import.functions import expand_functions
from tinyopt.onnx_import.graph_limits import check_declared, check_graph
from tinyopt.onnx_import.node_checks import check_node
from tinyopt.onnx_import.older_opsets import as_newer, is_older
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.reading import check_structure, read_model
from tinyopt.onnx_import.refusals import REASONS
from tinyopt.onnx_import.rules import RULES
from tinyopt.onnx_import.shapes import fix_input_shapes
from tinyopt.onnx_import.structure import check_model
from tinyopt.onnx_import.validation import check_limits
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.verify import verify

G_LOGGER.severity = G_LOGGER.CRITICAL + 1  # it prints to stdout, which belongs to the user's data

_MOST_LISTED = 50  # of the parts that cannot be taken; `UnsupportedOperatorError.parts` has all
_LONGEST_REASON = 200
_INPUT_DTYPES = tuple(DTYPES)


@dataclass(frozen=True)
class ImportResult:
    """The imported graph, and what the user should know about how it was understood."""

    graph: Graph
    notes: tuple[str, ...]


def supported_operators() -> tuple[str, ...]:
    """The ONNX operators that have a rule; those of another domain as `domain.Operator`."""
    return tuple(sorted(f"{domain}.{op}" if domain else op for domain, op in RULES))


def import_model(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> ImportResult:
    """Import the ONNX file `path`; `shapes` are given for inputs whose shape the file leaves open.

    Raises UsageError where the file cannot be read, UnsupportedOperatorError with all the nodes that have no rule,
    InvalidModelError for everything else that is wrong with the model.
    """
    with guard.reading(path):
        model = read_model(path)
        imported = _import(model, path.stem, shapes)
        check_declared(imported.graph, model.graph.output)
        return imported


def import_proto(model: onnx.ModelProto, name: str, shapes: Mapping[str, tuple[int, ...]]) -> ImportResult:
    """Import a model that is in memory; see `import_model`."""
    check_limits(model, name)
    return _import(model, name, shapes)


def _import(model: onnx.ModelProto, name: str, shapes: Mapping[str, tuple[int, ...]]) -> ImportResult:
    model = expand_functions(model, name)
    opset = check_model(model, name)
    expansion = expand_definitions(model, opset, _has_rule)
    result = _Importer(expansion, name, opset, shapes).run()
    return replace(result, notes=(*expansion.notes, *result.notes))


def _has_rule(node: onnx.NodeProto) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return (domain, node.op_type) in RULES or (not domain and node.op_type in FOLDABLE)


class _Importer:
    """One run over one model."""

    def __init__(self, expansion: Expansion, name: str, opset: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        model, self._origins = expansion.model, expansion.origins
        stored = {tensor.name for tensor in model.graph.initializer}
        self._model = model
        self._name = name
        self._opset = opset
        self._input_protos = [value for value in model.graph.input if value.name not in stored]
        self._shapes, self._notes = fix_input_shapes(self._input_protos, shapes)
        self._positions = {node.output[0]: i for i, node in enumerate(model.graph.node) if node.output}
        self._builder = Builder(_tensor_names(model.graph))
        self._values: dict[str, Value] = {}
        self._inputs: list[Value] = []
        self._refused: dict[str, str] = {}  # the first reason for each node of the user's file
        self._skipped = set[str]()
        self._folding = FoldingBudget(model.ByteSize())

    def run(self) -> ImportResult:
        nodes = self._surgeon_nodes()
        self._refuse_unknown(nodes)
        if not self._refused:
            check_structure(self._model, self._name)
        for proto in self._input_protos:
            self._add_input(proto)
        read = {tensor.name for node in nodes for tensor in node.inputs} | {v.name for v in self._model.graph.output}
        for node in nodes:
            self._import_node(node, read)
        if self._refused:
            raise self._unsupported()
        outputs = [self._output(proto.name) for proto in self._model.graph.output]
        graph = Graph(self._name, self._inputs, outputs, self._builder.nodes)
        graph.remove_unused()
        self._settle_quantization(graph)
        verify(graph, after="import")
        check_graph(graph)
        return ImportResult(graph, tuple(self._notes))

    def _surgeon_nodes(self) -> list[gs.Node]:
        try:
            return list(gs.import_onnx(self._model).cleanup().nodes)
        except Exception as error:  # it checks nothing, so that a broken model shows as anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InvalidModelError(f"model '{self._name}' is not valid ONNX: {reason}") from error

    # Refusals

    def _refuse_unknown(self, nodes: Sequence[gs.Node]) -> None:
        for node in nodes:
            domain = _domain(node)
            if (domain, node.op) not in RULES and (domain or node.op not in FOLDABLE):
                known = f": {REASONS[node.op]}" if not domain and node.op in REASONS else ""
                where = f"tinyopt has no rule for it in domain '{domain}'" if domain else "no rule for it"
                self._refuse(node, where + known)

    def _refuse(self, node: gs.Node, reason: str) -> None:
        name = self._node_name(node)
        self._skipped.add(name)
        origin = self._origins.get(name)
        if origin is None:
            self._refused.setdefault(name, f"{node.op} (node '{name}'): {reason}")
        else:
            inner = f"{node.op} in its definition: {reason}"
            self._refused.setdefault(origin.name, f"{origin.op} (node '{origin.name}'): {inner}")
        for tensor in node.outputs:
            if tensor.name in self._guessed_types:  # so that what comes after it is looked at, too
                self._values[tensor.name] = Value(tensor.name, self._guessed_types[tensor.name])

    @cached_property
    def _inferred(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for value in model.graph.input:
            if value.name in self._shapes:
                shape = self._shapes[value.name]
                value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
        try:
            return onnx.shape_inference.infer_shapes(model)
        except (onnx.shape_inference.InferenceError, ValueError):  # the model is broken, which others will say
            return model

    @cached_property
    def _guessed_types(self) -> dict[str, TensorType]:
        return {
            value.name: guess
            for value in [*self._inferred.graph.value_info, *self._inferred.graph.output]
            if (guess := _static_type(value)) is not None
        }

    def _unsupported(self) -> UnsupportedOperatorError:
        texts = list(self._refused.values())
        more = [f"and {len(texts) - _MOST_LISTED} more"] if len(texts) > _MOST_LISTED else []
        lines = "".join(f"\n  {text}" for text in texts[:_MOST_LISTED] + more)
        return UnsupportedOperatorError(
            f"model '{self._name}' has {len(self._refused)} part(s) that tinyopt cannot take:{lines}\n"
            f"supported operators: {', '.join(supported_operators())}",
            tuple(self._refused.values()),
        )

    # Inputs, nodes, outputs

    def _add_input(self, proto: onnx.ValueInfoProto) -> None:
        shape = self._shapes[proto.name]
        dtype = _dtype_name(proto.type.tensor_type.elem_type)
        if dtype not in DTYPES:
            self._refused[proto.name] = f"input '{proto.name}': its type is {dtype}, not one of {', '.join(DTYPES)}"
            return
        value = Value(proto.name, TensorType(dtype, shape))
        if not value.type.elements:  # all that can be known of it is known
            self._values[proto.name] = Value.of(proto.name, np.zeros(shape, DTYPES[dtype]))
            self._notes.append(f"input '{proto.name}' has no elements: it is left out")
            return
        if reason := unusable_type(value.type):
            raise InvalidModelError(f"input '{proto.name}' {reason}")
        self._inputs.append(value)
        if dtype == "uint8":
            self._builder.begin_boundary(proto.name)
            value = self._builder.flip(value)
            value.name = self._builder.unique_value_name(f"{proto.name}_int8")
            self._builder.unsigned.add(value)
        self._values[proto.name] = value

    def _import_node(self, node: gs.Node, read: set[str]) -> None:
        try:
            inputs = [self._value(tensor) for tensor in node.inputs]
            known = [tensor.is_empty() or value is not None for tensor, value in zip(node.inputs, inputs, strict=True)]
            if all(known) and self._node_name(node) not in self._skipped:
                self._apply(self._onnx_node(node, inputs, read), node)
        except Refusal as refusal:
            self._refuse(node, str(refusal))
        except TinyoptError:
            if not self._refused:  # after a refusal, types are guesses
                raise
        except Exception as error:  # a rule met what no valid model has
            if not self._refused:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
                raise InvalidModelError(
                    f"{node.op} '{self._node_name(node)}' makes no sense with these inputs and attributes ({reason})"
                ) from error

    def _apply(self, onnx_node: OnnxNode, node: gs.Node) -> None:
        check_node(onnx_node, self._builder.unsigned)
        self._builder.begin(onnx_node)
        if not is_older(onnx_node) and can_fold(onnx_node):
            proto = self._model.graph.node[self._positions[node.outputs[0].name]]
            self._folding.spend(onnx_node)
            arrays = fold(onnx_node, proto)
            results = [self._builder.constant(array, onnx_node.name) for array in arrays]
        elif (onnx_node.domain, onnx_node.op) in RULES:
            newer = as_newer(self._builder, onnx_node)
            results = list(RULES[onnx_node.domain, onnx_node.op](self._builder, newer))
        else:
            known = f": {REASONS[onnx_node.op]}" if onnx_node.op in REASONS else ""
            raise Refusal(f"it is supported on constants only{known}")
        self._builder.finish(onnx_node, results)
        named = zip(onnx_node.output_names, results, strict=False)
        self._values.update((name, value) for name, value in named if name)  # "" is what absent inputs are called

    def _value(self, tensor: gs.Variable | gs.Constant) -> Value | None:
        if tensor.name not in self._values and isinstance(tensor, gs.Constant):
            self._values[tensor.name] = _constant(tensor)
        return self._values.get(tensor.name)

    def _onnx_node(self, node: gs.Node, inputs: Sequence[Value | None], read: set[str]) -> OnnxNode:
        names = tuple(tensor.name if tensor.name in read else "" for tensor in node.outputs)
        name = self._node_name(node)
        return OnnxNode(node.op, _domain(node), name, self._opset, tuple(inputs), names, node.attrs)

    def _node_name(self, node: gs.Node) -> str:
        return str(node.name) or f"{node.op}_{self._positions[node.outputs[0].name]}"

    def _output(self, name: str) -> Value:
        if name not in self._values:
            raise InvalidModelError(f"output '{name}' of model '{self._name}' is produced by no node")
        value = self._values[name]
        is_own = value.name == name and not value.is_constant and value not in self._inputs
        self._builder.begin_boundary(name)
        try:
            value = self._builder.signed(value)
            if value in self._builder.unsigned:
                return self._renamed(value, self._builder.flip(value), name)
            return value if is_own else self._renamed(value, self._builder.emit("Identity", [value]), name)
        except Refusal as refusal:
            raise UnsupportedOperatorError(f"output '{name}' of model '{self._name}': {refusal}") from refusal

    def _renamed(self, inner: Value, outer: Value, name: str) -> Value:
        """`outer` under the output's name, which it takes from `inner` unless that is a graph input."""
        if inner.name == name and inner in self._inputs:
            self._notes.append(f"output '{name}' is an input, too: it is copied to '{outer.name}'")
            return outer
        if inner.name == name:
            suffix = inner.dtype if inner.dtype in ACTIVATION_DTYPES else "inner"
            inner.name = self._builder.unique_value_name(f"{name}_{suffix}")
        outer.name = name
        return outer

    def _settle_quantization(self, graph: Graph) -> None:
        """Give a scale to integers that no QuantizeLinear or DequantizeLinear says anything about."""
        for value in graph.values():
            if value.dtype in ACTIVATION_DTYPES and value.quantization is None:
                zero_point = -128 if value in self._builder.unsigned else 0
                self._builder.with_quantization(value, Quantization.per_tensor(1.0, zero_point))
                self._notes.append(
                    f"'{value.name}' is {value.dtype} without a scale: taken as scale 1, integers as they are"
                )
        for node in graph.nodes:
            if node.op == "FlipSign":
                outside, inside = sorted((node.input(0), node.output), key=lambda v: v.dtype == "int8")
                assert inside.quantization is not None
                outside.quantization = Quantization.per_tensor(
                    inside.quantization.scale[0], inside.quantization.zero_point[0] + 128
                )


def _domain(node: gs.Node) -> str:
    return "" if node.domain in (None, "", "ai.onnx") else str(node.domain)


def _constant(tensor: gs.Constant) -> Value:
    try:
        array = np.asarray(tensor.values)
    except (ValueError, TypeError) as error:
        raise InvalidModelError(f"the data of '{tensor.name}' does not fit its type and shape: {error}") from error
    if array.dtype.name not in DTYPES:
        raise Refusal(f"constant '{tensor.name}' is of type {array.dtype.name}")
    return Value.of(tensor.name, array)


def _dtype_name(element_type: int) -> str:
    """numpy's name of an ONNX element type."""
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _static_type(value: onnx.ValueInfoProto) -> TensorType | None:
    dtype = _dtype_name(value.type.tensor_type.elem_type)
    dimensions = value.type.tensor_type.shape.dim
    if dtype not in DTYPES or not all(dimension.HasField("dim_value") for dimension in dimensions):
        return None
    return TensorType(dtype, tuple(int(dimension.dim_value) for dimension in dimensions))


def _tensor_names(graph: onnx.GraphProto) -> set[str]:
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    return names | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
