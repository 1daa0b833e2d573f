"""The stable textual form of a graph, which goldens and diffs read: one line for each input, node and output.

    graph kws
    in %x: f32[1,1,49,10]
    %y: f32[1,64,25,5] = Conv(%x, @w: f32[64,1,10,4] #1a2b3c4d, @b: f32[64] #5e6f7081, none) {group = 1, ...}
    out %y

Constants stand where they are read, by a hash of their content, or by value where they have at most four elements.
A clamp to infinity is no clamp and is left out. Names that are not plain are quoted and escaped as in JSON, so that no
name can break a line.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np

from tinyopt.array_digest import digest_array
from tinyopt.ir import DTYPES, Array, Attribute, Graph, Node, Quantization, TensorType, Value

_SHORT = {
    dtype: re.sub("^(float|uint|int)", lambda match: {"float": "f", "uint": "u", "int": "i"}[match[0]], dtype)
    for dtype in DTYPES
}
_PLAIN = re.compile(r"[A-Za-z0-9_./$-]+")
_LARGEST_INLINE = 4  # elements
_ABSENT = {"clamp_low": -math.inf, "clamp_high": math.inf}


def print_graph(graph: Graph) -> str:
    """The whole graph; ends with a newline. Equal graphs give equal text."""
    lines = [
        f"graph {_name(graph.name)}",
        *(f"in {_definition(value)}" for value in graph.inputs),
        *(print_node(node) for node in graph.nodes),
        *(f"out {_operand(value)}" for value in graph.outputs),
    ]
    return "\n".join(lines) + "\n"


def print_node(node: Node) -> str:
    """One node on one line. Its name is left out where its first output or its first origin has the same."""
    outputs = ", ".join(_definition(value) for value in node.outputs)
    inputs = ", ".join(_operand(value) for value in node.inputs)
    text = f"{outputs} = {node.op}({inputs}){_attributes(node)}"
    if node.name not in (node.outputs[0].name, *node.origins[:1]):
        text += f"  named {_name(node.name)}"
    if node.origins:
        text += "  from " + ", ".join(_name(origin) for origin in node.origins)
    return text


def print_type(tensor_type: TensorType) -> str:
    """Such as `f32[1,25,5,64]`; a scalar is `f32[]`."""
    return f"{_SHORT[tensor_type.dtype]}[{','.join(map(str, tensor_type.shape))}]"


def _definition(value: Value) -> str:
    return f"%{_name(value.name)}: {print_type(value.type)}{_quantization(value.quantization)}"


def _operand(value: Value | None) -> str:
    if value is None:
        return "none"
    if value.constant is None:
        return f"%{_name(value.name)}"
    text = (
        f"@{_name(value.name)}: {print_type(value.type)} {_content(value.constant)}{_quantization(value.quantization)}"
    )
    if value.clusters is None:
        return text
    return f"{text} <{len(value.clusters.codebook)} clusters {_hash(value.clusters.indices)}>"


def _quantization(quantization: Quantization | None) -> str:
    if quantization is None:
        return ""
    if quantization.is_per_tensor:
        return f" <scale {_float(quantization.scale[0])}, zero {quantization.zero_point[0]}>"
    scale = _content(np.array(quantization.scale, np.float32))
    zero = "0" if quantization.is_symmetric else _content(np.array(quantization.zero_point, np.int32))
    return f" <scale {scale}, zero {zero}, axis {quantization.axis}>"


def _attributes(node: Node) -> str:
    shown = {key: value for key, value in sorted(node.attributes.items()) if _ABSENT.get(key) != value}
    return (
        " {" + ", ".join(f"{_name(key)} = {_attribute(value)}" for key, value in shown.items()) + "}" if shown else ""
    )


def _attribute(value: Attribute) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return _float(value)
        case str():
            return _name(value)
        case tuple():
            return f"[{', '.join(_attribute(item) for item in value)}]"


def _content(array: Array) -> str:
    if array.size > _LARGEST_INLINE:
        return _hash(array)
    items = [_attribute(item) for item in array.ravel().tolist()]
    return items[0] if array.ndim == 0 else f"[{', '.join(items)}]"


def _hash(array: Array) -> str:
    """Eight digits that stand for type, shape and content."""
    return f"#{digest_array(array).hex()[:8]}"


def _float(value: float) -> str:
    """The shortest text that reads back the same, taken as float32 where the value is one."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    text = str(single) if float(single) == value else repr(value)
    return text.removesuffix(".0")


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)
