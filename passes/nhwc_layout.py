"""Store images with the channels last, as the kernels want them, and let the Transposes that this takes cancel out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tinyopt.ir import Graph, Node, Value, merged_origins
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.layout_conversion import SPATIAL, TO_NCHW, TO_NHWC, convert, images_of, nhwc_type
from tinyopt.passes.rewriting import Rewriter, names_of, rewrite, stored_constant, with_array
from tinyopt.passes.simplify_movers import SHAPE_RULES


@dataclass(frozen=True)
class NhwcLayout(Pass):
    """Store images with the channels last.

    What: Conv, ConvTranspose, MaxPool and AveragePool work on [N, H, W, C], and so does everything between them that
        can follow: elementwise operators, Concat, Split, Slice, Pad, Resize, reductions, Softmax, BatchNormalization,
        QuantizeLinear, DequantizeLinear. Weights and other constants are permuted, integers behind a DequantizeLinear
        too. Transposes stand at the borders only; there they cancel out with the model's own, become a Reshape where
        they move dimensions of size 1 alone, and go into the weights of a Dense layer after a flattening Reshape.
    Before -> After: Transpose(x, 0 3 1 2) -> Conv NCHW -> Relu -> Transpose(0 2 3 1)
        becomes Conv NHWC -> Relu
    Exactness: every element keeps its value; the order of the sums in a Dense layer after a flattening may change.
    Refuses when: an operator between has no fixed meaning for its axes (Reshape, MatMul): there a Transpose stays.
    Source: the layout of CMSIS-NN and XNNPACK; Li et al., "Optimizing memory efficiency for deep convolutional neural
        networks on GPUs", SC 2016, for layout chosen per region with conversions at its borders.
    """

    name: ClassVar[str] = "nhwc-layout"

    def run(self, graph: Graph, context: PassContext) -> bool:
        rewriter = Rewriter(graph, context)
        model_nodes = list(graph.nodes)
        region = _find_region(rewriter)
        if region:
            _convert_region(rewriter, region)
            layers = sum(node.op in SPATIAL for node in region)
            context.did(f"{layers} convolutions and pools, and what lies between, work on NHWC images", region, region)
        is_cleaned = _cancel_transposes(graph, context, model_nodes)
        rewriter.refresh()
        for node in graph.nodes:
            if node.op == "Transpose":
                context.declined(f"Transpose '{node.name}' stays: {_why_it_stays(rewriter, node)}", [node])
        return bool(region) or is_cleaned


def _find_region(rewriter: Rewriter) -> list[Node]:
    """The NCHW layers, and all nodes that their images reach through operators that can follow; in running order."""
    found = {id(node) for node in rewriter.graph.nodes if node.op in SPATIAL and node.str("layout") == "NCHW"}
    waiting = [node for node in rewriter.graph.nodes if id(node) in found]
    while waiting:
        for image in images_of(rewriter, waiting.pop()):
            maker = rewriter.producer(image)
            for node in [*rewriter.readers(image), *([] if maker is None else [maker])]:
                if id(node) not in found and any(value is image for value in images_of(rewriter, node)):
                    found.add(id(node))
                    waiting.append(node)
    return [node for node in rewriter.graph.nodes if id(node) in found]


def _convert_region(rewriter: Rewriter, region: list[Node]) -> None:
    images = {id(node): images_of(rewriter, node) for node in region}
    ranks = {id(node): images[id(node)][0].type.rank for node in region}
    made_inside = {output for node in region for output in node.outputs if output in images[id(node)]}
    for image in dict.fromkeys(value for node in region for value in images[id(node)]):
        readers = [n for n in rewriter.readers(image) if image in images.get(id(n), ())]
        if image in made_inside:
            _leave_region(rewriter, image, readers)
        else:
            _enter_region(rewriter, image, readers)
    for node in region:
        if needed := convert(rewriter, node, ranks[id(node)]):
            rewriter.graph.insert(node, needed)
    rewriter.refresh()


def _enter_region(rewriter: Rewriter, image: Value, readers: list[Node]) -> None:
    """Transpose an image that comes from outside, before the first of its `readers` in the region."""
    inner = rewriter.new_value(f"{image.name}_nhwc", nhwc_type(image.type), image.quantization)
    name = rewriter.unique_name(f"{image.name}_to_nhwc")
    perm = TO_NHWC[image.type.rank]
    transpose = Node("Transpose", name, [image], [inner], {"perm": perm}, readers[0].origins)
    for node in readers:
        node.inputs = [inner if value is image else value for value in node.inputs]
    rewriter.graph.insert(readers[0], [transpose])
    rewriter.refresh()


def _leave_region(rewriter: Rewriter, image: Value, readers: list[Node]) -> None:
    """Change an image made in the region to NHWC; where others than `readers` read it, they get a transposed copy."""
    maker = rewriter.producer(image)
    assert maker is not None, image.name
    if len(readers) == len(rewriter.readers(image)) and not rewriter.graph.is_output(image):
        image.type = nhwc_type(image.type)
        return
    inner = rewriter.new_value(f"{image.name}_nhwc", nhwc_type(image.type), image.quantization)
    maker.outputs = [inner if value is image else value for value in maker.outputs]
    for node in readers:
        node.inputs = [inner if value is image else value for value in node.inputs]
    name = rewriter.unique_name(f"{image.name}_to_nchw")
    transpose = Node("Transpose", name, [inner], [image], {"perm": TO_NCHW[image.type.rank]}, maker.origins)
    position = next(i for i, node in enumerate(rewriter.graph.nodes) if node is maker)
    rewriter.graph.nodes.insert(position + 1, transpose)
    rewriter.refresh()


def _cancel_transposes(graph: Graph, context: PassContext, model_nodes: list[Node]) -> bool:
    """Let Transposes cancel out; one remark says which of the model's own nodes are gone."""
    scratch = PassContext(context.facts)  # the Transposes of this pass come and go: of no interest to the user
    is_changed = rewrite(graph, scratch, (*SHAPE_RULES, _absorb_into_weights))
    left = {node.name for node in graph.nodes}
    gone = [node for node in model_nodes if node.name not in left]
    if is_changed:
        what = names_of(gone) or "only Transposes that the layout itself needed"
        context.did(f"cancelled out at the borders of the NHWC images: {what}", gone, [])
    return is_changed


def _absorb_into_weights(rewriter: Rewriter, node: Node) -> bool:
    """Transpose -> Reshape that flattens -> [elementwise] -> Dense: permute the columns of the weights instead."""
    if node.op not in ("Dense", "MatMul"):
        return False
    stored = stored_constant(rewriter, node.input(1))
    reshape = _flattening(rewriter, node.input(0))
    if stored is None or stored.value.type.rank != 2 or reshape is None:
        return False
    transpose = rewriter.owned_producer(reshape.input(0), "Transpose")
    order = None if transpose is None else _flat_order(transpose, reshape)
    column_axis = 1 if node.op == "Dense" else 0
    quantization = stored.value.quantization
    if transpose is None or order is None or (quantization is not None and quantization.axis == column_axis):
        return False
    columns = stored.value.data.take(order, column_axis)
    moved = with_array(rewriter, stored, f"{stored.value.name}_nhwc", columns, lambda axis: axis)
    clusters = stored.value.clusters
    if clusters is not None:
        indices = clusters.indices.take(order, column_axis)
        moved.constant.clusters = replace(clusters, indices=indices)
    node.inputs[1] = moved.operand
    rewriter.graph.insert(node, moved.new_nodes)
    reshape.inputs[0] = transpose.input(0)
    node.origins = merged_origins(transpose, node)
    rewriter.refresh()
    rewriter.context.did(f"Transpose '{transpose.name}' goes into the weights of '{node.name}'", [transpose], [node])
    return True


def _flattening(rewriter: Rewriter, value: Value) -> Node | None:
    """The Reshape behind `value`, through operators that treat all elements alike and have no other readers."""
    while rewriter.has_one_reader(value):
        node = rewriter.producer(value)
        if node is None or node.op == "Reshape":
            return node
        if not OPERATORS[node.op].is_elementwise or not _is_uniform(node):
            return None
        value = node.variable_inputs[0]
    return None


def _is_uniform(node: Node) -> bool:
    """Whether an elementwise node has one activation, and constants of one element only."""
    constants = [value for value in node.present_inputs if value.is_constant]
    return len(node.variable_inputs) == 1 and all(value.type.elements == 1 for value in constants)


def _flat_order(transpose: Node, reshape: Node) -> list[int] | None:
    """For each flat index before the Transpose, the one after it; None where the Reshape does not flatten its axes."""
    perm, shape = transpose.ints("perm"), transpose.output.shape
    columns = reshape.output.shape[-1] if reshape.output.shape else 0
    kept = next((axis for axis, source in enumerate(perm) if source != axis), len(perm))
    inner = next((axis for axis in range(kept + 1) if int(np.prod(shape[axis:])) == columns), None)
    if inner is None:
        return None
    after = np.arange(columns).reshape((1,) * inner + shape[inner:])
    return [int(index) for index in after.transpose(np.argsort(perm)).ravel()]


def _why_it_stays(rewriter: Rewriter, node: Node) -> str:
    maker, readers = rewriter.producer(node.input(0)), rewriter.readers(node.output)
    source = f"{maker.op} '{maker.name}'" if maker is not None else f"the graph's input '{node.input(0).name}'"
    target = names_of(readers) or f"the graph's output '{node.output.name}'"
    return f"{source} and {target} order the dimensions differently"
