"""Channels of zeros beside those of convolutions, so that the rows of their images begin at aligned bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import DTYPES, Array, Graph, Node, Quantization, TensorType, Value
from tinyopt.passes.row_bands import ALIGNMENT

_MOST_ADDED = 0.03  # of the channels
_RESIDUAL = {"QConv": 4, "Conv": 3}  # convolutions, and which input is the residual
_CHANNELS = 3  # the axis of an image's channels, and of the weights' input channels


@dataclass(frozen=True, eq=False)
class _Family:
    """Images of the same channels, and who makes, maps and mixes them: convolutions, depthwise ones, convolutions."""

    images: tuple[Value, ...]
    makers: tuple[Node, ...]
    mixers: tuple[Node, ...]


def align_channels(graph: Graph, nodes: Collection[Node]) -> Iterator[tuple[Node, int]]:
    """Add channels to the results of `nodes` where few are missing; yields the nodes with the number of new channels.

    A new channel has weights of zero, and so have those who read it: what they compute stays the same, bit for bit, as
    long as all numbers are finite.
    """
    readers = graph.consumers()
    for node in nodes:
        added = _missing_channels(node)
        family = _family(node, readers, graph) if added else None
        if family is not None:
            _pad(family, added)
            yield node, added


def _missing_channels(node: Node) -> int:
    if node.op not in _RESIDUAL or node.int("group") != 1 or node.attributes.get("layout", "NHWC") != "NHWC":
        return 0
    channels = node.output.shape[_CHANNELS]
    added = -channels % (ALIGNMENT // DTYPES[node.output.dtype].itemsize)
    return added if added <= _MOST_ADDED * channels else 0


def _family(node: Node, readers: Mapping[Value, list[Node]], graph: Graph) -> _Family | None:
    """The node, depthwise convolutions behind it, and the convolutions that read these; None where others do."""
    images, makers, mixers = [node.output], [node], list[Node]()
    for image in images:
        if image in graph.outputs:
            return None
        for reader in readers[image]:
            if reader.op not in _RESIDUAL or reader.input(0) is not image or image in reader.inputs[1:]:
                return None
            if reader.int("group") == 1:
                mixers.append(reader)
            elif reader.input(1).shape[0] == reader.int("group") == image.shape[_CHANNELS]:
                images.append(reader.output)
                makers.append(reader)
            else:
                return None
    is_plain = all(each.inputs[_RESIDUAL[each.op]] is None for each in makers)
    weights = (each.input(1) for each in (*makers, *mixers))
    return _Family(tuple(images), tuple(makers), tuple(mixers)) if is_plain and _are_plain(weights) else None


def _are_plain(weights: Iterator[Value]) -> bool:
    return all(value.is_constant and value.clusters is None for value in weights)


def _pad(family: _Family, added: int) -> None:
    for image in family.images:
        image.type = TensorType(image.dtype, (*image.shape[:_CHANNELS], image.shape[_CHANNELS] + added))
    for maker in family.makers:
        if maker.int("group") > 1:
            maker.attributes["group"] = maker.int("group") + added
        end = _RESIDUAL[maker.op]
        maker.inputs[1:end] = [None if value is None else _padded(value, 0, added) for value in maker.inputs[1:end]]
    for mixer in family.mixers:
        # in float32 a sum that is -0 stays so if -0 is added, not if +0 is
        mixer.inputs[1] = _padded(mixer.input(1), _CHANNELS, added, -0.0)


def _padded(value: Value, axis: int, added: int, zero: float = 0.0) -> Value:
    """The constant with so many zeros more along an axis."""
    widths = [(0, added if each == axis else 0) for each in range(value.type.rank)]
    data: Array = np.pad(value.data, widths, constant_values=value.data.dtype.type(zero))
    quantization = value.quantization
    if quantization is not None and quantization.axis == axis:
        scale, zero_point = quantization.scale, quantization.zero_point
        quantization = Quantization((*scale, *scale[-1:] * added), (*zero_point, *zero_point[-1:] * added), axis)
    return Value(value.name, TensorType.of(data), data, quantization)
