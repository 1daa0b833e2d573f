"""Subgraphs in subgraphs, and functions that contradict the model, each other, or themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from tools.broken.case import Case, model_of, node, of_model

_FLOAT = TensorProto.FLOAT


def subgraph_cases() -> Iterator[Case]:
    """About 40 cases."""
    for depth in (5, 20, 30):
        yield of_model(f"deep-if-{depth}", _calls(_deep_if(depth)))
        yield of_model(f"deep-loop-{depth}", _calls(_deep_loop(depth)))
        yield of_model(f"deep-scan-{depth}", _calls(_deep_scan(depth)))
    wide = helper.make_graph(
        [helper.make_node("Relu", ["x"], [f"w{i}"]) for i in range(50_000)], "wide", [], [_value("w0")]
    )
    yield of_model("wide-if", _calls(_if(wide, wide)))
    stranger = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["s"])], "stranger", [], [_value("s")])
    yield of_model("if-reads-nothing-known", _calls(_if(stranger, stranger)))
    yield of_model("if-without-branches", _calls(helper.make_node("If", ["k"], ["y"], name="if")))
    yield of_model("if-of-a-float", model_of([_if(_relu("x"), _relu("x"))], {"x": (1, 4)}, {"k": np.float32(1)}))
    yield of_model("relu-with-100-graphs", _calls(helper.make_node("Relu", ["x"], ["y"], g=[_relu("x")] * 100)))
    yield from _functions()


def _value(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, _FLOAT, [1, 4])


def _relu(name: str) -> GraphProto:
    return helper.make_graph([helper.make_node("Relu", [name], ["r"])], "relu", [], [_value("r")])


def _calls(*nodes: NodeProto) -> ModelProto:
    return model_of(nodes, {"x": (1, 4)}, {"k": np.array(True), "n": np.array(3)})


def _if(one: GraphProto, other: GraphProto) -> NodeProto:
    return helper.make_node("If", ["k"], ["y"], name="if", then_branch=one, else_branch=other)


def _deep_if(depth: int) -> NodeProto:
    made = _if(_relu("x"), _relu("x"))
    for _ in range(depth):
        inner = helper.make_graph([made], "deeper", [], [_value("y")])
        made = _if(inner, _relu("x"))
    return made


def _deep_loop(depth: int) -> NodeProto:
    boundary = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        _value("s"),
    ]
    made = helper.make_node("Relu", ["s"], ["y"], name="innermost")
    for _ in range(depth):
        steps = [helper.make_node("Identity", ["c"], ["d"]), made]
        outputs = [helper.make_tensor_value_info("d", TensorProto.BOOL, []), _value("y")]
        body = helper.make_graph(steps, "deeper", boundary, outputs)
        made = helper.make_node("Loop", ["n", "k", "x"], ["y"], name="loop", body=body)
    return made


def _deep_scan(depth: int) -> NodeProto:
    made = helper.make_node("Relu", ["s"], ["y"], name="innermost")
    for _ in range(depth):
        body = helper.make_graph([made], "deeper", [_value("s")], [_value("y")])
        made = helper.make_node("Scan", ["x"], ["y"], name="scan", body=body, num_scan_inputs=1)
    return made


def _function(name: str, nodes: list[NodeProto], opset: int = 17, domain: str = "f") -> FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, opsets)


def _calling(*functions: FunctionProto, call: NodeProto | None = None) -> ModelProto:
    model = _calls(call or node("F", "x", domain="f", name="call"))
    model.functions.extend(functions)
    return model


def _functions() -> Iterator[Case]:
    relu, call = helper.make_node("Relu", ["a"], ["b"]), helper.make_node("F", ["a"], ["b"], domain="f")
    branch = helper.make_graph([call], "branch", [], [_value("b")])
    hidden = helper.make_node("If", ["k"], ["b"], then_branch=branch, else_branch=branch)
    yield of_model("function-calls-itself-in-a-branch", _calling(_function("F", [hidden])))
    yield of_model("function-without-nodes", _calling(_function("F", [])))
    yield of_model("function-cycle", _calling(_function("F", [helper.make_node("Add", ["a", "b"], ["b"])])))
    reads = helper.make_node("Add", ["a", "nowhere"], ["b"])
    yield of_model("function-reads-nothing-known", _calling(_function("F", [reads])))
    yield of_model("function-gives-twice", _calling(_function("F", [relu, relu])))
    unknown = helper.make_node("Frobnicate", ["a"], ["b"])
    yield of_model("function-of-an-unknown-operator", _calling(_function("F", [unknown])))
    for opset in (0, 999, -1):
        yield of_model(f"function-of-opset-{opset}", _calling(_function("F", [relu], opset)))
    without = _function("F", [relu])
    del without.opset_import[:]
    yield of_model("function-without-opset", _calling(without))
    three = helper.make_node("F", ["x", "x", "x"], ["y"], domain="f", name="call")
    yield of_model("function-called-with-too-many", _calling(_function("F", [relu]), call=three))
    two = helper.make_node("F", ["x"], ["y", "z"], domain="f", name="call")
    yield of_model("function-gives-too-many", _calling(_function("F", [relu]), call=two))
    slope = helper.make_node("LeakyRelu", ["a"], ["b"])
    reference = slope.attribute.add(name="alpha", ref_attr_name="missing")
    reference.type = reference.FLOAT
    asking = _function("F", [slope])
    asking.attribute.append("missing")
    yield of_model("function-lacks-an-attribute", _calling(asking), "the attribute has a default value")
    text = helper.make_node("F", ["x"], ["y"], domain="f", name="call", missing="text")
    yield of_model("function-attribute-of-another-type", _calling(asking, call=text))
    twice = _function("F", [relu])
    twice.input.append("a")
    yield of_model("function-of-two-inputs-of-one-name", _calling(twice))
    yield of_model("function-name-empty", _calling(_function("", [relu]), call=helper.make_node("", ["x"], ["y"])))
    long = helper.make_node("F" * 1_000_000, ["x"], ["y"], domain="f", name="call")
    yield of_model("function-name-of-a-megabyte", _calling(_function("F" * 1_000_000, [relu]), call=long))
    over = _function("Relu", [relu], domain="")
    yield of_model("function-in-place-of-an-operator", _calling(over, call=node("Relu", "x")))
    unread = [_function(f"U{i}", [relu]) for i in range(20_001)]
    yield of_model("functions-20001-that-nobody-calls", _calling(*unread, call=node("Relu", "x")))
