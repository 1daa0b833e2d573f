"""Small files that ask for a lot: of memory, of time, of nodes, of text. And names that want to be something else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tools.broken.case import Case, changed, floats, ints, model_of, node, of_model, single

HOSTILE_NAMES = {
    "newline": 'a\n#include "/etc/passwd"',
    "carriage-return": "a\rerror: nothing",
    "escape": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "nul": "a\0b",
    "parent": "../../../../tmp/escaped",
    "absolute": "/etc/passwd",
    "quotes": "a'\"`b",
    "comment": "*/ int main(void) { return 1; } /*",
    "html": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "shell": "; touch /tmp/escaped; $(touch /tmp/escaped)",
    "formula": '=HYPERLINK("http://localhost")',
    "format": "%s%n%x{0.__class__}",
    "markup": "[bold red]x[/bold red][link=http://localhost]",
    "unicode": "\u202egnp.exe \U0001f4a9 \ufeff",
    "surrogates": "a\u0301" * 200,
    "keyword": "int",
    "trigraph": "??/",
    "backslash": "a\\",
    "long": "n" * 4_000,
    "empty": "",
    "python": "__import__('os').system('true')",
    "json": '"},"x":{"',
    "jinja": "{{ 7 * 7 }}{% raw %}",
    "cmake": "${CMAKE_CURRENT_LIST_DIR})\nexecute_process(COMMAND true",
}
_VALID = "the name is valid in ONNX: it is renamed in C, escaped in pages and messages"


def bomb_cases() -> Iterator[Case]:
    """About 80 cases."""
    yield from _folding()
    yield from _many()
    yield from _large()
    yield from _names()


def _folding() -> Iterator[Case]:
    """A sum of x and of a constant that is computed from a few bytes."""
    large = ints(2**20, 2**20)
    one = np.float32(1)
    column, row = np.ones((2**16, 1), np.float32), np.ones((1, 2**16), np.float32)
    for name, nodes, constants in (
        ("ConstantOfShape", [node("ConstantOfShape", "s", "c")], {"s": large}),
        ("ConstantOfShape-negative", [node("ConstantOfShape", "s", "c")], {"s": ints(-1, -5)}),
        ("ConstantOfShape-2-to-the-62", [node("ConstantOfShape", "s", "c")], {"s": ints(2**62, 2**62)}),
        ("ConstantOfShape-weights", [node("ConstantOfShape", "s", "c")], {"s": ints(2**14, 2**14)}),
        ("Expand", [node("Expand", "o s", "c")], {"o": one, "s": large}),
        ("Tile", [node("Tile", "o s", "c")], {"o": np.ones((1, 1), np.float32), "s": large}),
        ("Range", [node("Range", "a b d", "c")], {"a": np.float32(0), "b": np.float32(1e12), "d": one}),
        ("Range-without-end", [node("Range", "a b d", "c")], {"a": np.float32(0), "b": one, "d": np.float32(0)}),
        ("Range-tiny-steps", [node("Range", "a b d", "c")], {"a": np.float32(0), "b": one, "d": np.float32(1e-30)}),
        ("Range-int64", [node("Range", "a b d", "c")], {"a": np.int64(0), "b": np.int64(2**62), "d": np.int64(1)}),
        ("OneHot", [node("OneHot", "i d v", "c")], {"i": ints(0), "d": ints(2**40), "v": floats(0, 1)}),
        ("Pad", [node("Pad", "o p", "c")], {"o": floats(1), "p": ints(2**40, 2**40)}),
        (
            "Resize",
            [node("Resize", "o - s", "c")],
            {"o": np.ones((1, 1, 2, 2), np.float32), "s": floats(1, 1, 1e6, 1e6)},
        ),
        ("outer-sum", [node("Add", "k r", "c")], {"k": column, "r": row}),
        ("outer-product", [node("MatMul", "k r", "c")], {"k": column, "r": row}),
        ("outer-where", [node("Where", "t k r", "c")], {"t": np.array(True), "k": column, "r": row}),
        (
            "Gather",
            [node("Gather", "o i", "c")],
            {"o": np.ones((2, 2**16), np.float32), "i": np.zeros(2**16, np.int64)},
        ),
        ("Einsum", [node("Einsum", "k r", "c", equation="ab,bc->ac")], {"k": column, "r": row}),
        (
            "Upsample",
            [node("Resize", "o - - z", "c")],
            {"o": np.ones((1, 1, 2, 2), np.float32), "z": ints(1, 1, 2**20, 2**20)},
        ),
        ("EyeLike", [node("EyeLike", "k", "c")], {"k": np.ones((2, 2), np.float32)}),
        ("Pow", [node("Pow", "a b", "c")], {"a": np.int64(10), "b": np.int64(10**9)}),
        ("CumSum", [node("CumSum", "k a", "c")], {"k": floats(1, 2), "a": np.int64(9)}),
    ):
        yield of_model(f"bomb-{name}", model_of([*nodes, node("Add", "x c")], {"x": (1, 4)}, constants))
    doubling = [node("Concat", f"c{i} c{i}", f"c{i + 1}", name=f"double{i}", axis=0) for i in range(40)]
    last = node("Add", "x c40")
    yield of_model("bomb-doubling", model_of([*doubling, last], {"x": (1, 4)}, {"c0": floats(1, 2)}))
    doubling = [node("Concat", f"x{i} x{i}", f"x{i + 1}", name=f"double{i}", axis=1) for i in range(40)]
    first = node("Relu", "x", "x0")
    end = node("Relu", "x40")
    yield of_model("bomb-doubling-activations", model_of([first, *doubling, end], {"x": (1, 4)}))
    growing = [node("ConstantOfShape", "s", f"c{i}", name=f"c{i}") for i in range(200)]
    summed = [node("Add", f"c{i} {'x' if i == 0 else f's{i - 1}'}", f"s{i}", name=f"s{i}") for i in range(200)]
    end = node("Relu", "s199")
    yield of_model("bomb-many-small", model_of([*growing, *summed, end], {"x": (1, 4)}, {"s": ints(2**21, 1)}))


def _many() -> Iterator[Case]:
    """More nodes, inputs and texts than any network has."""
    chain = [node("Relu", "x" if i == 0 else f"t{i - 1}", f"t{i}", name=f"r{i}") for i in range(20_001)]
    yield of_model("many-nodes-20001", model_of(chain, {"x": (1, 4)}, outputs={"t20000": None}))
    unread = [node("Relu", "x", f"u{i}", name=f"u{i}") for i in range(100_000)]
    yield of_model("many-nodes-nobody-reads", model_of([*unread, node("Relu", "x")], {"x": (1, 4)}))
    yield of_model("many-inputs-of-a-node", single("Sum", (1, 4), {}, inputs=" ".join(["x"] * 300_000)))
    yield of_model("many-graph-inputs", model_of([node("Relu", "i0")], {f"i{i}": (1, 4) for i in range(20_000)}))
    yield of_model(
        "many-weights", model_of([node("Relu", "x")], {"x": (1, 4)}, {f"w{i}": floats(1) for i in range(100_001)})
    )
    yield of_model(
        "many-split-outputs",
        model_of(
            [node("Split", "x", " ".join(f"o{i}" for i in range(250_000)), axis=1)],
            {"x": (1, 250_000)},
            outputs={"o0": None},
        ),
    )
    yield of_model(
        "many-numbers", single("Conv", (1, 3, 8, 8), {"w": np.ones((4, 3, 3, 3), np.float32)}, pads=[1] * 2_000_000)
    )
    yield changed("name-of-10-megabytes", lambda m: setattr(m.graph.node[0], "name", "n" * 10_000_000))
    yield changed("operator-of-10-megabytes", lambda m: setattr(m.graph.node[0], "op_type", "O" * 10_000_000))
    yield changed("domain-of-10-megabytes", lambda m: setattr(m.graph.node[0], "domain", "d" * 10_000_000))
    yield changed("tensor-name-of-5000-bytes", lambda m: setattr(m.graph.input[0], "name", "é" * 2_500))


def _large() -> Iterator[Case]:
    """Valid networks whose activations or windows are beyond all bounds."""
    kernel = np.ones((64, 3, 3, 3), np.float32)
    yield of_model("large-conv", single("Conv", (1, 3, 12_000, 12_000), {"w": kernel}))
    yield of_model(
        "large-window", single("AveragePool", (1, 1, 2_000, 2_000), kernel_shape=[1000, 1000], pads=[500] * 4)
    )
    yield of_model(
        "large-max-window", single("MaxPool", (1, 1, 2_000, 2_000), kernel_shape=[1001, 1001], pads=[500] * 4)
    )
    yield of_model("large-matmul", model_of([node("MatMul", "x z")], {"x": (20_000, 20_000), "z": (20_000, 20_000)}))
    yield of_model("large-outer", model_of([node("Add", "x z")], {"x": (20_000, 1), "z": (1, 20_000)}))
    wide = [node("Add", f"x{i} x{i}", f"x{i + 1}", name=f"a{i}") for i in range(200)]
    yield of_model(
        "large-chain", model_of([node("Relu", "x", "x0"), *wide, node("Relu", "x200")], {"x": (1, 4_000_000)})
    )
    yield of_model("large-softmax", single("Softmax", (1, 2**29), axis=1))
    yield of_model("large-transpose", single("Transpose", (2**14, 2**15), perm=[1, 0]))
    batch = model_of([node("Relu", "x")], {"x": ("n", 2**31 - 1)})
    yield of_model("large-open-batch", batch)


def _names() -> Iterator[Case]:
    for name, hostile in HOSTILE_NAMES.items():
        valid = "" if name in ("nul",) else _VALID
        if hostile:
            yield of_model(f"name-tensors-{name}", _named_tensors(hostile), valid)
            yield of_model(f"name-broken-{name}", _broken_named(hostile))
        yield of_model(f"name-nodes-{name}", model_of([node("Relu", "x", name=hostile or " ")], {"x": (1, 4)}), valid)
        yield of_model(f"name-operator-{name}", model_of([node(hostile or " ", "x", name="n")], {"x": (1, 4)}))
    for position in (b"gemm", b"conv"):
        content = changed("", lambda _model: None).files["model.onnx"]
        yield Case(
            f"name-not-utf-8-{position.decode()}", {"model.onnx": content.replace(position, b"\xff\xfe\xfd\xfc", 1)}
        )


def _named_tensors(hostile: str) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", [hostile], [hostile + "y"], name="relu")],
        hostile,
        [helper.make_tensor_value_info(hostile, TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(hostile + "y", TensorProto.FLOAT, [1, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def _broken_named(hostile: str) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", [hostile, hostile + "w"], ["y"], name=hostile)],
        hostile,
        [helper.make_tensor_value_info(hostile, TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor(hostile + "w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
