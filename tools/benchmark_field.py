"""TFLite Micro with CMSIS-NN, measured on the same work: totals, and layer by layer beside ours."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tinyopt.execution.profile import LayerProfile
from tinyopt.ir import Graph, Node

_GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
LAYER_CORES = ("cortex-m4", "cortex-m55")

_WINDOWED = re.compile(r"(?P<kind>\w+) in (?P<input>\S+) k (?P<window>\S+) out (?P<rows>\d+)x(?P<columns>\d+)x\d+")
_KINDS = {"QDense": "fc", "QAveragePool": "avgpool", "QSoftmax": "softmax", "QAdd": "add"}


@dataclass(frozen=True)
class FieldLayer:
    """One kernel call of CMSIS-NN. key: what it computes, but for the channels, which passes may remove."""

    text: str
    key: tuple[str, ...]
    instructions: int


@dataclass(frozen=True)
class Layer:
    """One of our layers; `replaces`: the calls of CMSIS-NN that do the same work, `cmsis_nn` their instructions."""

    model: str
    core: str
    index: int
    kernel: str
    replaces: str
    instructions: int
    cmsis_nn: int | None

    @property
    def is_slower(self) -> bool:
        return self.cmsis_nn is not None and self.instructions > self.cmsis_nn


@cache
def field_totals() -> dict[str, dict[str, int]]:
    """By model: instructions by core, and bytes."""
    rows = _rows("tflite_micro.csv")
    return {row.pop("model"): {name: int(value) for name, value in row.items()} for row in rows}


def field_layers(model: str, core: str) -> list[FieldLayer]:
    """The calls of one inference, in running order."""
    rows = [row for row in _rows("cmsis_nn_layers.csv") if row["model"] == model]
    return [FieldLayer(row["layer"], _field_key(row["layer"]), int(row[core])) for row in rows]


def _rows(file: str) -> list[dict[str, str]]:
    lines = (_GOLDEN / file).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _field_key(text: str) -> tuple[str, ...]:
    if (match := _WINDOWED.match(text)) and match["kind"] in ("conv", "dwconv"):
        return match["kind"], match["window"], match["rows"], match["columns"]
    return (text.split()[0],)


def compare_layers(
    model: str, core: str, graph: Graph, counted: Sequence[LayerProfile], field: Sequence[FieldLayer]
) -> list[Layer]:
    """Each of our layers beside the first call with its key that is still free; a fused residual takes an add, too."""
    nodes = {node.name: node for node in graph.nodes}
    free = list(field)
    found: list[Layer] = []
    for layer in counted:
        taken: list[FieldLayer] = []
        for key in _keys(nodes[layer.name]):
            if (first := next((call for call in free if call.key == key), None)) is not None:
                free.remove(first)
                taken.append(first)
        theirs = sum(call.instructions for call in taken) if taken else None
        text = " + ".join(call.text for call in taken)
        found.append(Layer(model, core, layer.index, layer.kernel, text, layer.instructions, theirs))
    return found


def _keys(node: Node) -> list[tuple[str, ...]]:
    """What a node computes, in the terms of the field's calls."""
    if node.op != "QConv":
        return [(_KINDS.get(node.op, node.op),)]
    _, height, width, _ = node.input(1).shape  # OHWI
    _, rows, columns, _ = node.output.shape
    kind = "conv" if node.int("group") == 1 else "dwconv"
    keys: list[tuple[str, ...]] = [(kind, f"{height}x{width}", str(rows), str(columns))]
    return keys if node.optional_input(4) is None else [*keys, ("add",)]


def residual_instructions_per_element(layers: Sequence[Layer]) -> float | None:
    """What a fused residual costs an element: the difference of two convolutions that are alike but for it."""
    plain = {layer.replaces: layer.instructions for layer in layers}
    for layer in layers:
        convolution, _, addition = layer.replaces.partition(" + add n ")
        if addition and convolution in plain:
            return (layer.instructions - plain[convolution]) / int(addition)
    return None
