"""Graphs that do not hold together: versions, boundary, cycles, duplicates, types, functions, subgraphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

from tools.broken.case import Case, Change, changed, floats, model_of, network, node, numbered, of_model, replaced

_VERSIONS = (-1, 0, 29, 100, 999, 2**31, 2**63 - 1, -(2**63))


def graph_cases() -> Iterator[Case]:
    """About 70 cases."""
    yield from _versions()
    yield from numbered("graph", _CHANGES)
    yield from _boundary()
    yield from _functions()
    yield from _subgraphs()


def _versions() -> Iterator[Case]:
    for version in _VERSIONS:
        yield changed(f"opset-{version}", lambda m, v=version: _set_opset(m, v))  # type: ignore[misc]
    for version in (-5, 0, 1, 15, 999, 2**62):
        yield changed(f"ir-version-{version}", lambda m, v=version: setattr(m, "ir_version", v))  # type: ignore[misc]
    yield changed("opset-none", lambda m: m.ClearField("opset_import"))
    yield changed("opset-two", lambda m: m.opset_import.append(helper.make_opsetid("", 13)))
    yield changed("opset-two-names", lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 999)))
    yield changed("opset-other-domain-only", lambda m: setattr(m.opset_import[0], "domain", "acme"))


def _set_opset(model: ModelProto, version: int) -> None:
    model.opset_import[0].version = version


def _rename_output(old: str, new: str) -> Change:
    def change(model: ModelProto) -> None:
        for each in model.graph.node:
            for index, name in enumerate(each.output):
                if name == old:
                    each.output[index] = new

    return change


def _rename_input(position: int, index: int, new: str) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node[position].input[index] = new

    return change


def _swap(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def _sparse(model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(floats(1, 2), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 1], np.int64), "i"))
    sparse.dims.extend([4])


def _remove_node(position: int) -> Change:
    def change(model: ModelProto) -> None:
        del model.graph.node[position]

    return change


def _set_operator(position: int, op: str, domain: str = "") -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node[position].op_type = op
        model.graph.node[position].domain = domain

    return change


def _repeat(message: str, position: int = 0) -> Change:
    def change(model: ModelProto) -> None:
        items = getattr(model.graph, message)
        items.add().CopyFrom(items[position])

    return change


_CHANGES: dict[str, Change] = {
    "without-nodes": lambda m: m.graph.ClearField("node"),
    "without-outputs": lambda m: m.graph.ClearField("output"),
    "without-inputs": lambda m: m.graph.ClearField("input"),
    "without-weights": lambda m: m.graph.ClearField("initializer"),
    "without-a-graph": lambda m: m.ClearField("graph"),
    "cycle-of-one": _rename_input(1, 0, "h2"),
    "cycle-of-two": _rename_input(0, 0, "h2"),
    "cycle-of-all": _rename_input(0, 0, "y"),
    "reversed": _swap,
    "reads-nothing-known": _rename_input(1, 0, "nowhere"),
    "reads-itself": _rename_input(4, 1, "y"),
    "two-give-one-name": _rename_output("h2", "h1"),
    "gives-a-weight": _rename_output("h2", "w"),
    "gives-an-input": _rename_output("h2", "x"),
    "output-of-nobody": _rename_output("y", "z"),
    "node-twice": _repeat("node"),
    "weight-twice": _repeat("initializer"),
    "input-twice": _repeat("input"),
    "output-twice": _repeat("output"),
    "last-node-gone": _remove_node(4),
    "middle-node-gone": _remove_node(2),
    "sparse-weights": _sparse,
    "unknown-operator": _set_operator(1, "Frobnicate"),
    "unknown-domain": _set_operator(1, "Relu", "acme.corp"),
    "empty-operator": _set_operator(1, ""),
    "training-operator": _set_operator(1, "Gradient", "ai.onnx.preview.training"),
    "ml-operator": _set_operator(1, "TreeEnsembleRegressor", "ai.onnx.ml"),
    "input-without-type": lambda m: m.graph.input[0].ClearField("type"),
    "input-without-shape": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
    "input-without-name": lambda m: setattr(m.graph.input[0], "name", ""),
    "output-without-name": lambda m: setattr(m.graph.output[0], "name", ""),
    "output-of-wrong-shape": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 7),
    "output-of-wrong-rank": lambda m: m.graph.output[0].type.tensor_type.shape.dim.add(),
    "output-of-wrong-type": lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.INT64),
    "too-few-inputs": lambda m: m.graph.node[0].input.pop() and m.graph.node[0].input.pop(),
    "no-inputs": lambda m: m.graph.node[1].ClearField("input"),
    "too-many-inputs": lambda m: m.graph.node[1].input.extend(["w", "b", "v"]),
    "no-outputs": lambda m: m.graph.node[1].ClearField("output"),
    "too-many-outputs": lambda m: m.graph.node[1].output.extend(["p", "q"]),
    "required-input-absent": _rename_input(0, 1, ""),
    "weight-of-wrong-channels": lambda m: replaced(m, "w", np.ones((4, 2, 3, 3), np.float32)),
    "weight-of-wrong-rank": lambda m: replaced(m, "w", np.ones((4, 3, 3), np.float32)),
    "weight-scalar": lambda m: replaced(m, "w", np.float32(1)),
    "bias-of-wrong-length": lambda m: replaced(m, "b", np.ones(7, np.float32)),
    "gemm-of-wrong-length": lambda m: replaced(m, "v", np.ones((63, 5), np.float32)),
    "gemm-bias-of-wrong-length": lambda m: replaced(m, "c", np.ones(4, np.float32)),
    "weight-of-integers": lambda m: replaced(m, "w", np.ones((4, 3, 3, 3), np.int64)),
    "weight-of-doubles": lambda m: replaced(m, "w", np.ones((4, 3, 3, 3), np.float64)),
    "weight-of-no-elements": lambda m: replaced(m, "w", np.ones((0, 3, 3, 3), np.float32)),
}


def _boundary() -> Iterator[Case]:
    for size in (-1, -2, -(2**62), 0, 2**31, 2**40, 2**62):
        for index in (1, 2):
            name = f"input-size-{index}-{size}"
            yield of_model(name, model_of([node("Relu", "x")], {"x": [1, *([4] * (index - 1)), size]}))
    yield of_model("input-product-overflows", model_of([node("Relu", "x")], {"x": [2**16] * 5}))
    yield of_model("input-rank-100", model_of([node("Relu", "x")], {"x": [1] * 100}))
    yield of_model("input-of-a-gigabyte", model_of([node("Relu", "x")], {"x": [1, 2**28]}))
    for element in (0, 8, 14, 15, 24, 99, 2**31 - 1):
        model = network()
        model.graph.input[0].type.tensor_type.elem_type = element
        yield of_model(f"input-type-{element}", model)
    sequence, optional, sparse = TypeProto(), TypeProto(), TypeProto()
    sequence.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    optional.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    sparse.sparse_tensor_type.elem_type = TensorProto.FLOAT
    for name, kind in (("sequence", sequence), ("optional", optional), ("sparse", sparse)):
        yield changed(f"input-{name}", lambda m, kind=kind: m.graph.input[0].type.CopyFrom(kind))  # type: ignore[misc]
        yield changed(f"output-{name}", lambda m, kind=kind: m.graph.output[0].type.CopyFrom(kind))  # type: ignore[misc]


def _function(name: str, calls: list[str]) -> FunctionProto:
    """A function of one input and output that calls others one after the other; without any, it is a Relu."""
    steps = calls or ["Relu"]
    nodes = [
        helper.make_node(step, [f"t{i}"], [f"t{i + 1}"], domain="" if step == "Relu" else "f")
        for i, step in enumerate(steps)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["t0"], [f"t{len(steps)}"], nodes, opsets)


def _calling(functions: list[FunctionProto], first: str = "f0") -> ModelProto:
    model = model_of([node(first, "x", domain="f", name="call")], {"x": [1, 4]})
    model.functions.extend(functions)
    return model


def _functions() -> Iterator[Case]:
    for levels, calls in ((30, 2), (60, 2), (12, 10), (99, 8)):
        functions = [_function(f"f{i}", [f"f{i + 1}"] * calls) for i in range(levels)]
        yield of_model(f"functions-{calls}-to-the-{levels}", _calling([*functions, _function(f"f{levels}", [])]))
    chain = [_function(f"f{i}", [f"f{i + 1}"]) for i in range(5_000)]
    yield of_model("functions-5000-deep", _calling([*chain, _function("f5000", [])]))
    yield of_model("function-calls-itself", _calling([_function("f0", ["f0"])]))
    yield of_model("functions-call-each-other", _calling([_function("f0", ["f1"]), _function("f1", ["f0"])]))
    yield of_model("function-missing", _calling([_function("f0", ["f1"])]))
    yield of_model("function-twice", _calling([_function("f0", []), _function("f0", [])]))
    big = _function("f0", [])
    big.node.add().CopyFrom(
        helper.make_node("Constant", [], ["unused"], value=numpy_helper.from_array(np.zeros(300_000, np.float32)))
    )
    model = _calling([big])
    model.graph.node.extend([node("f0", "x", f"z{i}", domain="f", name=f"c{i}") for i in range(2_000)])
    yield of_model("function-with-a-large-constant", model)
    bad = _function("f0", [])
    bad.output[0] = "nowhere"
    yield of_model("function-without-its-output", _calling([bad]))


def _branch(name: str) -> GraphProto:
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])
    return helper.make_graph([helper.make_node("Relu", ["x"], [name])], name, [], [out])


def _subgraphs() -> Iterator[Case]:
    condition = np.array(True)
    yield of_model(
        "subgraph-if",
        model_of(
            [node("If", "k", then_branch=_branch("a"), else_branch=_branch("b"))], {"x": [1, 4]}, {"k": condition}
        ),
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["s"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 4]),
        ],
    )
    trips = {"n": np.array(2**62), "k": condition}
    yield of_model("subgraph-loop-without-end", model_of([node("Loop", "n k x", body=body)], {"x": [1, 4]}, trips))
    scan = node("Scan", "x", body=body, num_scan_inputs=2**40)
    yield of_model("subgraph-scan", model_of([scan], {"x": [1, 4]}))
    yield of_model("subgraph-in-a-relu", model_of([node("Relu", "x", body=body)], {"x": [1, 4]}))
