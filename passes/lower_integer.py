"""Turn quantized float operators into integer ones: DequantizeLinear -> operator -> QuantizeLinear becomes one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node, TensorType, Value
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES, level_limits
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.integer_rules import RULES, Refusal, Site, rescaled, rescaling_table
from tinyopt.passes.integer_rules.movers import (
    forward,
    is_float_mover,
    lift_quantize,
    merge_quantizers,
    quantizers_of,
    sink_dequantize,
)
from tinyopt.passes.integer_rules.site import is_activation, quantization_of
from tinyopt.passes.rewriting import Rewriter

BOUNDARIES = ("float", "int8")


@dataclass(frozen=True)
class LowerInteger(Pass):
    """Make integer operators of the quantized float ones.

    What: every operator whose inputs come from DequantizeLinear and whose output goes to QuantizeLinear becomes one
        operator on int8 that multiplies, adds and shifts integers; functions of one variable become tables of 256
        entries; operators that move values work on int8 directly. Values that QuantizeLinear makes int16 stay int16,
        and operators take and give any mix of the two; only tables are of int8.
    Before -> After:
        int8 -> DequantizeLinear -> Conv -> QuantizeLinear -> int8    =>    int8 -> QConv -> int8
        with boundary=int8 also: float input -> QuantizeLinear    =>    int8 input, its scale in the header
    Exactness: the correctly rounded value of what the float operators say; onnxruntime's QDQ result differs by one step
        at most for each operator, where a value lies between two levels. Tables and moved values are exact. The factor
        of a residual has 16 bits behind the point, which moves a value by 0.002 steps at most before it is rounded.
    Refuses when: an input or the output is not quantized, weights have zero points or are float, a sum could exceed
        32 bits, a function that is no sum, product or clamp reads int16, or the operator has no integer form. It then
        stays in float between DequantizeLinear and QuantizeLinear.
    Source: Jacob et al., arXiv:1712.05877, section 2.
    """

    name: ClassVar[str] = "lower-integer"

    boundary: str = "float"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if self.boundary not in BOUNDARIES:
            raise UsageError(f"lower-integer.boundary is '{self.boundary}', not one of {', '.join(BOUNDARIES)}")
        if not any(_is_quantized_activation(value) for value in graph.values()):
            return False
        rewriter = Rewriter(graph, context)
        is_changed = _lift(rewriter)
        for node in list(graph.nodes):
            is_changed |= _lower(rewriter, node)
        if self.boundary == "int8":
            is_changed |= _quantize_boundary(rewriter)
        return _remove_unused(graph, context) or is_changed


def _is_quantized_activation(value: Value) -> bool:
    return value.dtype in ACTIVATION_DTYPES and value.quantization is not None and not value.is_constant


def _lift(rewriter: Rewriter) -> bool:
    """Lift QuantizeLinear above movers, the last mover first, so that chains of them end on int8."""
    is_changed = False
    for node in [node for node in reversed(rewriter.graph.nodes) if is_float_mover(node)]:
        if (lifted := lift_quantize(rewriter, node)) is not None:
            message = f"{node.op} '{node.name}' works on {lifted.output.dtype}"
            rewriter.context.did(message, *rewriter.take_changes())
            is_changed = True
    return is_changed


def _remove_unused(graph: Graph, context: PassContext) -> bool:
    """Remove what nobody reads any more; a remark names what no other remark does."""
    dropped = graph.remove_unused()
    named = {name for remark in context.remarks if remark.kind == "did" for name in remark.before}
    if rest := [node for node in dropped if node.name not in named]:
        context.did(f"removed {len(rest)} nodes that no output depends on any more", rest)
    return bool(dropped)


def _lower(rewriter: Rewriter, node: Node) -> bool:
    """Lower one node; returns whether anything changed."""
    if node.op == "QuantizeLinear":
        return _join_quantize(rewriter, node)
    if OPERATORS[node.op].quantization is QuantizationRule.INTEGER or node.outputs[0].dtype != "float32":
        return False
    dequantizers = [p for v in node.variable_inputs if (p := rewriter.producer(v)) and p.op == "DequantizeLinear"]
    rewriter.take_changes()
    lowered = sink_dequantize(rewriter, node) if is_float_mover(node) else _lower_by_rule(rewriter, node)
    if isinstance(lowered, Refusal):
        rewriter.context.declined(f"{node.op} '{node.name}' stays in float: {lowered.reason}", [node])
        return False
    replaced, new = rewriter.take_changes()
    rewriter.context.did(
        f"{node.op} '{node.name}' became {lowered.op} on {_types(lowered)}", [*dequantizers, *replaced], new
    )
    return True


def _types(node: Node) -> str:
    """int8, or what the node reads and gives where that is not all int8."""
    read = sorted({value.dtype for value in node.variable_inputs})
    given = node.outputs[0].dtype
    return given if read == [given] else f"{' and '.join(read)}, giving {given}"


def _lower_by_rule(rewriter: Rewriter, node: Node) -> Node | Refusal:
    if node.op not in RULES:
        return Refusal("it has no integer form")
    quantizers = [] if len(node.outputs) != 1 else quantizers_of(rewriter, node.output)
    if not quantizers:
        return Refusal("its output is not quantized, or something reads it in float")
    operands = _operands(rewriter, node)
    if isinstance(operands, Refusal):
        return operands
    lowered = RULES[node.op](Site(rewriter, node, operands, quantizers[0].output))
    if isinstance(lowered, Node):
        rewriter.substitute(node, [lowered])
        merge_quantizers(rewriter, quantizers)
    return lowered


def _operands(rewriter: Rewriter, node: Node) -> tuple[Value | None, ...] | Refusal:
    """For each input the integers behind its DequantizeLinear, or the constant itself."""
    found: list[Value | None] = []
    for value in node.inputs:
        producer = None if value is None else rewriter.producer(value)
        if producer is not None and producer.op == "DequantizeLinear":
            found.append(producer.input(0))
        elif value is None or value.is_constant:
            found.append(value)
        else:
            return Refusal(f"its input '{value.name}' is not quantized")
    return tuple(found)


def _join_quantize(rewriter: Rewriter, node: Node) -> bool:
    """DequantizeLinear -> QuantizeLinear: nothing where the parameters are equal, else a table or a QRequantize."""
    producer = rewriter.producer(node.input(0))
    if producer is None or producer.op != "DequantizeLinear" or producer.input(0).dtype not in ACTIVATION_DTYPES:
        return False
    source, target = producer.input(0), node.output
    if (quantization_of(source), source.dtype) == (quantization_of(target), target.dtype):
        rewriter.remove(node)
        forward(rewriter, target, source, node)
        rewriter.context.did(f"'{source.name}' already has the scale of '{target.name}'", [producer, node])
        return True
    if not (quantization_of(source).is_per_tensor and quantization_of(target).is_per_tensor):
        rewriter.context.declined(f"'{node.name}' stays: '{source.name}' has more than one scale", [node])
        return False
    lowered = _rescaling(rewriter, node, source)
    if isinstance(lowered, Refusal):
        rewriter.context.declined(f"'{node.name}' stays in float: {lowered.reason}", [node])
        return False
    rewriter.substitute(node, [lowered])
    how = "is rescaled by a table" if lowered.op == "QLookup" else f"of {source.dtype} is rescaled to {target.dtype}"
    rewriter.context.did(f"'{source.name}' {how}", [node], [lowered])
    return True


def _rescaling(rewriter: Rewriter, node: Node, source: Value) -> Node | Refusal:
    """From int8 to int8 by a table, else by a multiplication."""
    target = node.output
    if source.dtype != "int8" or target.dtype != "int8":
        return rescaled(node, source, target, *level_limits(target.dtype))
    levels = rescaling_table(quantization_of(source), quantization_of(target))
    table = Value.of(rewriter.unique_name(f"{node.name}_table"), levels)
    return Node("QLookup", node.name, [source, table], [target], {}, node.origins)


def _quantize_boundary(rewriter: Rewriter) -> bool:
    """Take integers where a float input is only quantized, give them where a float output is only dequantized."""
    is_changed = False
    for value in list(rewriter.graph.inputs):
        if value.dtype == "float32":
            is_changed |= _quantize_input(rewriter, value)
    for value in list(rewriter.graph.outputs):
        if value.dtype == "float32":
            is_changed |= _quantize_output(rewriter, value)
    return is_changed


def _quantize_input(rewriter: Rewriter, value: Value) -> bool:
    quantizers = quantizers_of(rewriter, value)
    if not quantizers:
        rewriter.context.declined(f"input '{value.name}' stays float: not all its readers quantize it alike")
        return False
    quantization, dtype = quantization_of(quantizers[0].output), quantizers[0].output.dtype
    twin = Value(value.name, TensorType(dtype, value.shape), quantization=quantization)
    rewriter.graph.inputs = [twin if old is value else old for old in rewriter.graph.inputs]
    for node in quantizers:
        rewriter.remove(node)
        forward(rewriter, node.output, twin, node)
    rewriter.context.did(f"input '{value.name}' is {dtype} with scale {quantization.scale[0]:g}", quantizers)
    return True


def _quantize_output(rewriter: Rewriter, value: Value) -> bool:
    producer = rewriter.producer(value)
    if producer is None or producer.op != "DequantizeLinear":
        rewriter.context.declined(f"output '{value.name}' stays float: it is computed in float")
        return False
    source = producer.input(0)
    if not is_activation(source):
        rewriter.context.declined(
            f"output '{value.name}' stays float: '{source.name}' is not int8 or int16 with one scale"
        )
        return False
    if (
        rewriter.graph.is_output(source)
        or source.is_constant
        or any(source is given for given in rewriter.graph.inputs)
    ):
        rewriter.context.declined(
            f"output '{value.name}' stays float: '{source.name}' is an input or output under its own name"
        )
        return False
    rewriter.graph.outputs = [source if old is value else old for old in rewriter.graph.outputs]
    source.name, value.name = value.name, source.name
    rewriter.context.did(
        f"output '{source.name}' is {source.dtype} with scale {quantization_of(source).scale[0]:g}", [producer]
    )
    return True
