"""Comparing models: exactly the nodes that differ are named, whatever the nodes are called."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_models import model_of, node
from tinyopt.graph_diff import GraphDiff, diff_outlines
from tinyopt.onnx_import.outline import read_outline
from tinyopt.report.html.build import read_page

Edit = Callable[[onnx.ModelProto], object]


def chain(blocks: int = 3, seed: int = 0) -> onnx.ModelProto:
    """`blocks` times Conv, Relu; every second convolution has a stride of its own."""
    generator = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    for i in range(blocks):
        x, y = "x" if i == 0 else f"r{i - 1}", "y" if i == blocks - 1 else f"r{i}"
        nodes.append(node("Conv", f"{x} w{i}", f"c{i}", name=f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", f"c{i}", y, name=f"relu{i}"))
        constants[f"w{i}"] = generator.normal(size=(4, 4, 3, 3)).astype(np.float32)
    return model_of(nodes, {"x": (1, 4, 8, 8)}, constants)


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


def remove(model: onnx.ModelProto, name: str) -> None:
    doomed = node_named(model, name)
    for reader in model.graph.node:
        for position, tensor in enumerate(reader.input):
            if tensor == doomed.output[0]:
                reader.input[position] = doomed.input[0]
    model.graph.node.remove(doomed)


def rename_all(model: onnx.ModelProto) -> None:
    """As a tool that numbers nodes and tensors anew: old names turn up again on other nodes."""
    fixed = {value.name for value in [*model.graph.input, *model.graph.output]}
    names = {name: name for name in fixed}
    for tensor in model.graph.initializer:
        names[tensor.name] = tensor.name = f"w{40 + len(names)}"
    for number, item in enumerate(reversed(model.graph.node)):
        item.name = f"{'relu' if item.op_type == 'Relu' else 'conv'}{number // 2}"
    for item in model.graph.node:
        names.update({o: names.get(o, f"t{len(names)}") for o in item.output})
        item.input[:] = [names[name] for name in item.input]
        item.output[:] = [names[name] for name in item.output]


def change_weight(name: str, index: int, by: float) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[index] += by
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))

    return edit


def stride(model: onnx.ModelProto) -> None:
    node_named(model, "conv1").attribute.append(onnx.helper.make_attribute("strides", [2, 2]))


def to_sigmoid(model: onnx.ModelProto) -> None:
    node_named(model, "relu1").op_type = "Sigmoid"


def insert_tanh(model: onnx.ModelProto) -> None:
    node_named(model, "conv1").input[0] = "between"
    model.graph.node.insert(2, node("Tanh", "r0", "between", name="tanh"))


def swap_weights(model: onnx.ModelProto) -> None:
    first, second = node_named(model, "conv0"), node_named(model, "conv1")
    first.input[1], second.input[1] = second.input[1], first.input[1]


def skip(model: onnx.ModelProto) -> None:
    """conv2 reads what relu0 gives: relu1 and conv1 stay in the file's middle, unread but by an output."""
    node_named(model, "conv2").input[0] = "r0"
    model.graph.output.append(onnx.helper.make_tensor_value_info("r1", 1, None))


EDITS: dict[str, tuple[Edit, list[tuple[str, str, str]]]] = {
    "nothing": (lambda _model: None, []),
    "a weight": (change_weight("w1", 5, 2.0), [("changed", "conv1", "1 of 144 values by up to 2 ")]),
    "an attribute": (stride, [("changed", "conv1", "strides: default -> [2, 2]")]),
    "a removed node": (lambda model: remove(model, "relu1"), [("removed", "relu1", "")]),
    "an added node": (insert_tanh, [("added", "tanh", "after Relu 'relu0'")]),
    "another operator": (to_sigmoid, [("replaced", "relu1", "")]),
    "another source": (skip, [("changed", "conv2", "input 0: 'r1' -> 'r0'")]),
}


def differences(folder: Path, *edits: Edit) -> GraphDiff:
    old, new = chain(), chain()
    for edit in edits:
        edit(new)
    for name, model in (("old", old), ("new", new)):
        onnx.save(model, folder / f"{name}.onnx")
    return diff_outlines(read_outline(folder / "old.onnx"), read_outline(folder / "new.onnx"))


@pytest.mark.parametrize("is_renamed", [False, True], ids=["names kept", "names shuffled"])
@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS)
def test_an_edit_names_exactly_the_edited_nodes(
    edit: Edit, expected: list[tuple[str, str, str]], is_renamed: bool, tmp_path: Path
) -> None:
    diff = differences(tmp_path, edit, *([rename_all] if is_renamed and edit is not skip else []))
    assert [item.kind for item in diff.differences] == [kind for kind, _, _ in expected]
    for item, (kind, name, detail) in zip(diff.differences, expected, strict=True):
        if kind != "added" or not is_renamed:
            assert (item.old or item.new)[0].name == name
        assert not detail or is_renamed or item.details[0].startswith(detail)
    assert diff.is_equal == (not expected)


def random_model(generator: np.random.Generator) -> onnx.ModelProto:
    """Branches that join again, of operators that look alike."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    values = ["x"]
    for i in range(int(generator.integers(8, 40))):
        op = str(generator.choice(["Relu", "Sigmoid", "Conv", "Add", "Mul"]))
        inputs = [str(name) for name in generator.choice(values[-4:], 1 + (op in ("Add", "Mul")))]
        if op == "Conv":
            inputs.append(f"w{i}")
            constants[f"w{i}"] = generator.normal(size=(4, 4, 1, 1)).astype(np.float32)
        nodes.append(node(op, " ".join(inputs), f"v{i}", name=f"n{i}"))
        values.append(f"v{i}")
    read = {name for item in nodes for name in item.input}
    outputs = [name for name in values[1:] if name not in read]
    return model_of(nodes, {"x": (1, 4, 4, 4)}, constants, outputs=" ".join(outputs))


@pytest.mark.parametrize("seed", range(40))
def test_random_edits_of_random_models_are_named_exactly(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    model = random_model(generator)
    onnx.save(model, tmp_path / "old.onnx")
    outputs = {value.name for value in model.graph.output}
    inner = [item for item in model.graph.node if item.output[0] not in outputs]
    edited: set[tuple[str, str]] = set()
    for position in generator.choice(len(inner), 2, replace=False):
        item = inner[position]
        if item.op_type == "Conv":
            change_weight(item.input[1], 3, 1.0)(model)
            edited.add(("changed", item.name))
        elif item.op_type == "Relu":
            remove(model, item.name)
            edited.add(("removed", item.name))
        elif item.op_type == "Sigmoid":
            item.op_type = "Tanh"
            edited.add(("replaced", item.name))
    onnx.save(model, tmp_path / "new.onnx")
    diff = diff_outlines(read_outline(tmp_path / "old.onnx"), read_outline(tmp_path / "new.onnx"))
    assert {(item.kind, item.old[0].name) for item in diff.differences} == edited
    assert not diff.model


def test_swapped_weights_are_two_changes_under_the_old_names(tmp_path: Path) -> None:
    diff = differences(tmp_path, swap_weights)
    assert [(item.kind, item.old[0].name, item.new[0].name) for item in diff.differences] == [
        ("changed", "conv0", "conv0"),
        ("changed", "conv1", "conv1"),
    ]


def test_shapes_that_follow_from_a_change_are_told_but_are_no_differences(tmp_path: Path) -> None:
    diff = differences(tmp_path, stride)
    assert [node.name for node, _ in diff.reshaped] == ["relu1", "conv2", "relu2"]
    assert diff.same == 5


def test_inputs_and_outputs_are_the_interface_and_their_names_count(tmp_path: Path) -> None:
    def rename_input(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = "image"
        node_named(model, "conv0").input[0] = "image"

    diff = differences(tmp_path, rename_input)
    assert diff.model == ("input 'x' float32[1,4,8,8] -> 'image' float32[1,4,8,8]",)
    assert not diff.differences


def test_constants_in_nodes_and_defaults_that_are_written_out_change_nothing(tmp_path: Path) -> None:
    def as_nodes(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer.pop(1)
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
        node_named(model, "conv1").attribute.extend(
            [onnx.helper.make_attribute("group", 1), onnx.helper.make_attribute("strides", [1, 1])]
        )

    assert differences(tmp_path, as_nodes).is_equal


def test_thousands_of_nodes_take_seconds_and_the_edit_is_found_among_renamed_ones(tmp_path: Path) -> None:
    old, new = chain(1500), chain(1500)
    change_weight("w700", 0, 1.0)(new)
    remove(new, "relu900")
    rename_all(new)
    for name, model in (("old", old), ("new", new)):
        onnx.save(model, tmp_path / f"{name}.onnx")
    outlines = [read_outline(tmp_path / f"{name}.onnx") for name in ("old", "new")]
    started = time.perf_counter()
    diff = diff_outlines(*outlines)
    assert time.perf_counter() - started < 10
    assert [(item.kind, item.old[0].name) for item in diff.differences] == [
        ("changed", "conv700"),
        ("removed", "relu900"),
    ]


def test_models_with_nothing_in_common_are_compared_too(tmp_path: Path) -> None:
    onnx.save(chain(2), tmp_path / "old.onnx")
    onnx.save(model_of([node("MatMul", "a b")], {"a": (2, 3), "b": (3, 2)}), tmp_path / "new.onnx")
    diff = diff_outlines(read_outline(tmp_path / "old.onnx"), read_outline(tmp_path / "new.onnx"))
    assert {item.kind for item in diff.differences} <= {"added", "removed", "replaced"}
    assert diff.same == 0


def test_the_command_prints_json_and_says_by_its_exit_code_whether_the_models_differ(tmp_path: Path) -> None:
    differences(tmp_path, to_sigmoid)
    command = [sys.executable, "-m", "tinyopt.cli", "diff", "--json", str(tmp_path / "old.onnx")]
    equal = subprocess.run([*command, str(tmp_path / "old.onnx")], capture_output=True, text=True, check=False)
    different = subprocess.run([*command, str(tmp_path / "new.onnx")], capture_output=True, text=True, check=False)
    assert (equal.returncode, different.returncode) == (0, 6)
    assert json.loads(equal.stdout)["is_equal"] is True
    (found,) = json.loads(different.stdout)["nodes"]
    assert (found["kind"], found["old"][0]["name"], found["new"][0]["op"]) == ("replaced", "relu1", "Sigmoid")


def test_a_hand_edit_of_mobilenetv2_is_found(models_dir: Path, tmp_path: Path) -> None:
    model = onnx.load(models_dir / "mobilenetv2.onnx")
    clips = [item for item in model.graph.node if item.op_type == "Clip"]
    remove(model, clips[4].name)
    clips[9].op_type = "Relu"
    del clips[9].input[1:]
    onnx.save(model, tmp_path / "edited.onnx")
    diff = diff_outlines(read_outline(models_dir / "mobilenetv2.onnx"), read_outline(tmp_path / "edited.onnx"))
    assert [(item.kind, item.old[0].name) for item in diff.differences] == [
        ("removed", clips[4].name),
        ("replaced", clips[9].name),
    ]


def test_the_page_shows_every_difference_by_its_sign_and_holds_no_markup_of_names(tmp_path: Path) -> None:
    differences(tmp_path, stride, to_sigmoid, lambda model: remove(model, "relu0"))
    new = onnx.load(tmp_path / "new.onnx")
    node_named(new, "conv2").name = "</script><b>🙂"
    onnx.save(new, tmp_path / "new.onnx")
    command = [sys.executable, "-m", "tinyopt.cli", "diff", "old.onnx", "new.onnx", "--html", "diff.html"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 6
    data = read_page(tmp_path / "diff.html")
    assert "</script><b>" not in (tmp_path / "diff.html").read_text()
    signs = {
        side: sorted(
            (data["nodes"][number]["name"], status)
            for cell in data["views"][1]["cells"]
            if side in cell
            for number, status in [cell[side]]
            if status != "same"
        )
        for side in ("before", "after")
    }
    assert signs["before"] == [("conv1", "changed"), ("relu0", "removed"), ("relu1", "removed")]
    assert signs["after"] == [("conv1", "changed"), ("relu1", "added")]


def test_names_that_are_no_text_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(chain().SerializeToString().replace(b"conv1", b"\xff\xfe\xfd\xfc1"))
    command = [sys.executable, "-m", "tinyopt.cli", "diff", "bad.onnx", "bad.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: model 'bad' is damaged: ")
    assert len(done.stderr.splitlines()) == 1
