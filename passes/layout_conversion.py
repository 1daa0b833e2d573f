"""What each operator's attributes and constants become when its images are stored with the channels last.

An *image* is a tensor [N, C, H, W], or [N, C, W] beside a 1-D convolution. `images_of` says which of a node's tensors
must change together; `convert` rewrites the node after the types of its images were changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tinyopt.ir import Node, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.ops.reduce import REDUCED_DTYPES
from tinyopt.passes.rewriting import Rewriter, stored_constant, with_array

SPATIAL = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
TO_NHWC: Mapping[int, tuple[int, ...]] = {4: (0, 2, 3, 1), 3: (0, 2, 1)}
TO_NCHW: Mapping[int, tuple[int, ...]] = {4: (0, 3, 1, 2), 3: (0, 2, 1)}

_ALONG_AXIS = ("BatchNormalization", "Softmax", "LogSoftmax", "Concat", "Split", "Gather", "Interpolate")
_REDUCTIONS = tuple(REDUCED_DTYPES)
_OF_ONE_IMAGE = (
    "BatchNormalization",
    "Softmax",
    "LogSoftmax",
    "Split",
    "Gather",
    "Slice",
    "Pad",
    "Resize",
    "Interpolate",
)
_RESIDUAL = 3

_Item = TypeVar("_Item", int, float)


def images_of(rewriter: Rewriter, node: Node) -> list[Value]:
    """The inputs and outputs of `node` that change their layout together; empty where the node cannot follow."""
    if node.op in SPATIAL:
        residual = node.optional_input(_RESIDUAL) if node.op == "Conv" else None
        images = [node.input(0), node.output, *([] if residual is None else [residual])]
        return images if node.str("layout") == "NCHW" else []
    if node.op in _REDUCTIONS:
        return _images_of_reduction(node)
    if node.op == "Reshape":
        return [node.input(0), node.output] if _is_unit_height(node) else []
    if node.op in _OF_ONE_IMAGE:
        images = [node.input(0), *node.outputs]
    elif node.op == "Concat" or OPERATORS[node.op].is_elementwise:
        images = [*(v for v in node.variable_inputs if stored_constant(rewriter, v) is None), *node.outputs]
    else:
        return []
    rank = node.outputs[0].type.rank
    return images if rank in TO_NHWC and all(value.type.rank == rank for value in images) else []


def nhwc_type(tensor_type: TensorType) -> TensorType:
    """The type of an image after its channels went last."""
    return TensorType(tensor_type.dtype, _permuted(tensor_type.shape, TO_NHWC[tensor_type.rank]))


def convert(rewriter: Rewriter, node: Node, rank: int) -> list[Node]:
    """Rewrite attributes and constants of `node`, whose images of `rank` were NCHW and now are NHWC.

    Returns the nodes that must stand before it: DequantizeLinear of rearranged integers, Transpose of computed weights.
    """
    perm = TO_NHWC[rank]
    if node.op in ("Conv", "ConvTranspose"):
        node.attributes["layout"] = "NHWC"
        return _convert_weights(rewriter, node)
    if node.op in SPATIAL:
        node.attributes["layout"] = "NHWC"
    elif node.op == "Reshape":
        node.attributes["shape"] = node.output.shape
    elif node.op in _REDUCTIONS:
        node.attributes["axes"] = tuple(sorted(perm.index(axis) for axis in node.ints("axes")))
    elif node.op == "Pad":
        pads = node.ints("pads")
        node.attributes["pads"] = (*_permuted(pads[:rank], perm), *_permuted(pads[rank:], perm))
    elif node.op in ("Slice", "Resize"):
        _permute_attributes(node, perm)
    if node.op in _ALONG_AXIS:
        node.attributes["axis"] = perm.index(node.int("axis"))
    if node.op == "Concat" or OPERATORS[node.op].is_elementwise:
        return _convert_constants(rewriter, node, perm)
    return []


def _permute_attributes(node: Node, perm: Sequence[int]) -> None:
    for key in ("starts", "steps", "sizes", "scales"):
        items = node.attributes.get(key)
        if items is not None:
            assert isinstance(items, tuple)
            node.attributes[key] = tuple(items[axis] for axis in perm)


def _convert_weights(rewriter: Rewriter, node: Node) -> list[Node]:
    """[O, I, KH, KW] -> [O, KH, KW, I], and likewise for ConvTranspose."""
    weights, perm = node.input(1), TO_NHWC[4]
    stored = stored_constant(rewriter, weights)
    if stored is None:
        moved = rewriter.new_value(f"{weights.name}_nhwc", nhwc_type(weights.type))
        node.inputs[1] = moved
        return [
            Node("Transpose", rewriter.unique_name(f"{node.name}_weights_nhwc"), [weights], [moved], {"perm": perm})
        ]
    moved_weights = with_array(
        rewriter, stored, f"{stored.value.name}_nhwc", stored.value.data.transpose(perm), perm.index
    )
    node.inputs[1] = moved_weights.operand
    clusters = stored.value.clusters
    if clusters is not None:
        indices = np.ascontiguousarray(clusters.indices.transpose(perm))
        moved_weights.constant.clusters = replace(clusters, indices=indices)
    return list(moved_weights.new_nodes)


def _convert_constants(rewriter: Rewriter, node: Node, perm: Sequence[int]) -> list[Node]:
    """Permute the constants that broadcast against the images of a node."""
    before: list[Node] = []
    for index, value in enumerate(node.inputs):
        stored = None if value is None else stored_constant(rewriter, value)
        if stored is None or (stored.value.type.elements == 1 and node.op != "Concat"):
            continue
        array = stored.value.data
        missing = len(perm) - array.ndim
        array = array.reshape((1,) * missing + array.shape).transpose(perm)
        moved = with_array(rewriter, stored, f"{stored.value.name}_nhwc", array, _shifted_axis(missing, perm))
        node.inputs[index] = moved.operand
        before.extend(moved.new_nodes)
    return before


def _shifted_axis(missing: int, perm: Sequence[int]) -> Callable[[int], int]:
    return lambda axis: perm.index(axis + missing)


def _images_of_reduction(node: Node) -> list[Value]:
    """A reduction follows where it keeps the dimensions, or leaves them in the order in which they stood."""
    source = node.input(0)
    if source.type.rank not in TO_NHWC:
        return []
    if node.int("keepdims"):
        return [source, node.output]
    left = [axis for axis in TO_NHWC[source.type.rank] if axis not in node.ints("axes")]
    return [source] if left == sorted(left) else []


def _is_unit_height(node: Node) -> bool:
    """Whether a Reshape is [N, C, 1, W] to [N, C, W] or back."""
    small, large = sorted((node.input(0).shape, node.output.shape), key=len)
    return len(small) == 3 and len(large) == 4 and large == (*small[:2], 1, small[2])


def _permuted(items: Sequence[_Item], perm: Sequence[int]) -> tuple[_Item, ...]:
    return tuple(items[axis] for axis in perm)
