"""Cut a model that shows a mistake down to the smallest part that still shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.shape_inference

from tools.fuzzing.models import RandomModel, measured, random_numbers

Fails = Callable[[RandomModel], bool]


def shrink(found: RandomModel, fails: Fails) -> RandomModel:
    """The smallest model that fails and is left by cutting outputs, the end, and the beginning, again and again.

    A cut tensor becomes an input, or an output. Delta debugging on a graph: Zeller and Hildebrandt, Simplifying and
    isolating failure-inducing input, IEEE TSE 28(2), 2002, with cuts in place of chunks.
    """
    while True:
        smaller = next((cut for cut in _cuts(found) if fails(cut)), None)
        if smaller is None:
            return found
        found = smaller


def _cuts(found: RandomModel) -> Iterator[RandomModel]:
    """Parts of the model, the smallest first."""
    types = _types(found.model)
    nodes = found.model.graph.node
    made = [name for node in nodes for name in node.output if name in types]
    outputs = [value.name for value in found.model.graph.output]
    if len(outputs) > 1:
        for name in outputs:
            yield from _part(found, types, [name], [])
    for name in made:  # a part that ends earlier
        if name not in outputs:
            yield from _part(found, types, [name], [])
    for name in reversed(made):  # a part that begins later
        if name not in outputs:
            yield from _part(found, types, outputs, [name])


def _types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    known = {value.name: value for value in [*graph.input, *graph.value_info, *graph.output]}
    return {name: value for name, value in known.items() if value.type.tensor_type.HasField("shape")}


def _part(
    found: RandomModel, types: dict[str, onnx.ValueInfoProto], outputs: Sequence[str], cut: Sequence[str]
) -> Iterator[RandomModel]:
    """What computes `outputs` from the inputs and from `cut`, where that is smaller and onnxruntime can measure it."""
    needed, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(found.model.graph.node):
        if needed.difference(cut).intersection(node.output):
            kept.insert(0, node)
            needed.update(node.input)
    if not kept or len(kept) >= len(found.model.graph.node):
        return
    old = {value.name for value in found.model.graph.input}
    inputs = [name for name in [*sorted(old), *cut] if name in needed]
    graph = onnx.helper.make_graph(
        kept,
        found.model.graph.name,
        [types[name] for name in inputs],
        [types[name] for name in outputs],
        [tensor for tensor in found.model.graph.initializer if tensor.name in needed],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=list(found.model.opset_import), ir_version=found.model.ir_version
    )
    random = np.random.default_rng(0)
    samples = [{name: random_numbers(random, types[name]) for name in inputs} for _ in range(9)]
    part = measured(found.name, model, samples[0], samples[1:], set(inputs))
    if part is not None:
        yield part
