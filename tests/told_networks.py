"""A small classifier with every kind of layer that passes tell apart, its samples, and what a graph holds as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.graph_builder import GraphBuilder, context_for, random_inputs
from tests.quantized_graphs import Q, quantize, real, weights
from tinyopt.ir import Graph, Node, Value
from tinyopt.ops import OPERATORS
from tinyopt.ops.facts import weight_bytes
from tinyopt.pass_manager import LabelledSamples, Pass, PassContext, Remark, TargetCosts, run_pass
from tinyopt.samples import Sample

CLASSES = 4
SAMPLES = 20
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?")


def classifier() -> Graph:
    """Convolutions (plain, depthwise, grouped, 1x1), a sum, a concatenation, pools, two dense layers; in NHWC."""
    build = GraphBuilder("classifier")
    x = build.input("x", (1, 8, 8, 3))
    stem = _conv(build, x, 8, name="stem", pads=(1, 1, 1, 1))
    depthwise = _conv(build, stem, 8, name="depthwise", group=8, pads=(1, 1, 1, 1))
    pointwise = _conv(build, depthwise, 8, 1, name="pointwise", low=-np.inf)
    block = build("Relu", build("Add", stem, pointwise, name="sum"))
    small = build("MaxPool", block, strides=(2, 2), layout="NHWC", name="pool")
    left = _conv(build, small, 6, name="left", pads=(1, 1, 1, 1))
    right = _conv(build, small, 6, 1, name="right", group=2)
    both = build("Concat", left, right, axis=3)
    mean = build("AveragePool", both, kernel=(4, 4), layout="NHWC", name="mean")
    flat = build("Reshape", mean, shape=(1, 12))
    hidden = build("Dense", flat, _weights(build, 8, 12), build.random((8,)), name="hidden", clamp_low=0.0)
    logits = build("Dense", hidden, _weights(build, CLASSES, 8), build.random((CLASSES,)), name="logits")
    return build.graph_of(build("Softmax", logits, axis=1))


def upsampler() -> Graph:
    """A small image made larger: transposed convolutions, one of them in groups, and functions that are not linear."""
    build = GraphBuilder("upsampler")
    x = build.input("x", (1, 4, 4, 3))
    stem = build("PRelu", _conv(build, x, 6, name="stem", low=-np.inf), build.constant(build.random((6,)).data / 4))
    wide = _transposed(build, stem, (6, 2, 2, 2), name="grouped", group=2)
    leaky = build("LeakyRelu", wide, alpha=0.2)
    scaled = build("Mul", leaky, build.constant([0.5, 1.5, 2.0, 1.0]))
    large = _transposed(build, scaled, (4, 3, 3, 5), name="plain")
    swish = build("HardSwish", large)
    ends = [_conv(build, swish, 2, 1, name=f"end{i}", low=-np.inf) for i in range(2)]
    return build.graph_of(build("Tanh", ends[0]), build("Sub", build("Sigmoid", ends[1]), build.constant(0.5)))


def _transposed(build: GraphBuilder, x: Value, shape: tuple[int, ...], *, name: str, group: int = 1) -> Value:
    weights, bias = _weights(build, *shape), build.constant(0.1 * build.random((shape[3] * group,)).data)
    return build("ConvTranspose", x, weights, bias, name=name, group=group, strides=(2, 2), layout="NHWC")


def tangled() -> Graph:
    """Channels first, with much that does nothing, or could be said in fewer nodes; some of it must stay."""
    build = GraphBuilder("tangled")
    x = build.input("x", (1, 3, 6, 6))
    moved = build("Transpose", build("Transpose", x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2))
    wide = build("Pad", moved, pads=(0, 0, 1, 1, 0, 0, 1, 1))
    stem = build("Conv", wide, build.random((4, 3, 3, 3)), build.random((4,)), name="stem")
    scaled = build("Add", build("Mul", stem, build.constant(1.0)), build.constant(0.0))
    normal = build(
        "BatchNormalization", scaled, *(build.constant(row) for row in np.arange(1, 17, dtype=np.float32).reshape(4, 4))
    )
    clipped = build("Clip", build("Relu", build("Clip", normal, low=-1.0, high=6.0)), low=0.5)
    gate = build("Clip", build("Add", clipped, build.constant(3.0)), low=0.0, high=6.0)
    swish = build("Div", build("Mul", clipped, gate), build.constant(6.0))
    same = _resized(build, build("MaxPool", swish, kernel=(1, 1)), coordinate_mode="half_pixel")
    shifted = _resized(build, same, coordinate_mode="tf_half_pixel_for_nn")
    whole = build("Slice", shifted, starts=(0, 0, 0, 0), steps=(1, 1, 1, 1), sizes=shifted.shape)
    sliced = build("Slice", whole, starts=(0, 0, 0, 1), steps=(1, 1, 1, 1), sizes=(*whole.shape[:3], 5))
    one = build("Concat", build("Identity", sliced), axis=1)
    mean = build("ReduceMean", one, axes=(2, 3))
    flat = build("Reshape", build("Reshape", mean, shape=(4,)), shape=(1, 4))
    turned = build("Transpose", build("ReduceSum", build("Reshape", flat, shape=(1, 1, 4)), axes=(1,)), perm=(1, 2, 0))
    folded = build("Add", turned, build("Exp", build.constant(np.zeros((1, 4, 1), np.float32))))
    return build.graph_of(build("Softmax", folded, axis=1), build("Relu", build("MatMul", flat, build.random((4, 2)))))


def _resized(build: GraphBuilder, x: Value, coordinate_mode: str) -> Value:
    nearest: dict[str, Any] = {"mode": "nearest", "nearest_mode": "floor", "coordinate_mode": coordinate_mode}
    return build("Resize", x, sizes=x.shape, scales=(1.0,) * 4, **nearest)


def half_quantized() -> Graph:
    """Integers come in and go out, and layers have integer weights; what lies between says no scales."""
    build = GraphBuilder("half_quantized")
    x = real(build, build.input("x", (1, 4, 4, 4), "int8", Q(0.02, 5)))
    other = real(build, build.input("z", (1, 4, 4, 2), "int8", Q(0.05, -30)))
    stem = build("Conv", x, weights(build, (4, 1, 1, 4)), layout="NHWC", clamp_low=0.0, clamp_high=6.0)
    pooled = build("MaxPool", build("Relu", stem), strides=(2, 2), layout="NHWC")
    scaled = build("Mul", x, build.constant([0.5, -1.5, 2.0, 1.0]))
    shifted = build("Add", build("LeakyRelu", build("Mul", x, build.constant(1.5)), alpha=0.1), build.constant(-0.25))
    swish = build("HardSwish", build("Sub", build.constant(0.5), shifted))
    joined = build("Concat", build("Pad", swish, pads=(0, 0, 0, 0, 0, 0, 0, 0), value=0.0), other, axis=3)
    bent = build("Tanh", build("Transpose", joined, perm=(0, 3, 1, 2)))
    last = build("Dense", build("Reshape", pooled, shape=(1, 16)), weights(build, (3, 16)))
    ends = (quantize(build, scaled, 0.04, 0), quantize(build, last, 0.03, 1))
    edges = [build("Pad", x, pads=(0, 1, 0, 0, 0, 0, 2, 0), value=value) for value in (0.0, 0.11)]  # a level, and none
    edges.append(build("Gather", x, build.constant([3, 1], "indices", "int64"), axis=3))
    rounded = build("Sigmoid", real(build, quantize(build, swish, 0.03, -100)))  # which others read as it is
    return build.graph_of(*(real(build, end) for end in ends), build("Sigmoid", bent), rounded, last, *edges)


def _conv(
    build: GraphBuilder, x: Value, channels: int, kernel: int = 3, *, name: str, low: float = 0.0, group: int = 1,
    pads: tuple[int, ...] = (0, 0, 0, 0),
) -> Value:  # fmt: skip
    """A convolution whose channels differ much in reach."""
    inputs = x.shape[3] // group
    weights = _weights(build, channels, kernel, kernel, inputs)
    weights.data[:] *= np.geomspace(0.3, 3, channels, dtype=np.float32)[:, None, None, None]
    return build(
        "Conv", x, weights, build.constant(0.1 * build.random((channels,)).data), name=name, group=group, pads=pads,
        layout="NHWC", clamp_low=low,
    )  # fmt: skip


def _weights(build: GraphBuilder, *shape: int) -> Value:
    return build.constant(build.random(shape).data / np.float32(np.sqrt(np.prod(shape[1:]))), "w")


def context(graph: Graph, samples: int) -> PassContext:
    """Samples about one example of each class, their labels, and costs that can be counted by hand."""
    labels = np.arange(samples) % CLASSES
    examples = [random_inputs(graph, seed) for seed in range(CLASSES)]
    inputs = [_near(examples[label], random_inputs(graph, 10 + i)) for i, label in enumerate(labels)]
    found = context_for(inputs, channel_multiple=1)
    found.facts = replace(found.facts, has_float16=True)
    found.labels = labels
    found.evaluation = LabelledSamples(inputs, labels)
    found.costs = TargetCosts("test", _instructions, weight_bytes, _arena_bytes, "weights alone")
    found.arena_bytes = _arena_bytes
    return found


def _near(example: Sample, noise: Sample) -> Sample:
    return {name: (array + 0.7 * noise[name]).astype(array.dtype) for name, array in example.items()}


def _instructions(node: Node) -> float:
    return 20.0 + OPERATORS[node.op].macs(node)


def _arena_bytes(graph: Graph) -> int:
    return 10 + max(sum(value.type.bytes for value in (*n.variable_inputs, *n.outputs)) for n in graph.nodes)


def story(steps: Sequence[Pass], graph: Graph, told: PassContext) -> str:
    """Run the passes; what each said, and what the graph holds in the end."""
    told.original = graph.copy()
    lines: list[str] = []
    counts: dict[str, str] = {}
    told.on_progress = lambda what, done, total: counts.update({_NUMBER.sub("", what): f"{done} of {total}"})
    for step in steps:
        counts.clear()
        kept = " (kept in the cache)" * step.is_costly + " (for the target)" * step.is_for_target
        lines += [f"{step.name}{kept}", *(_line(remark) for remark in run_pass(step, graph, told).remarks)]
        lines += [f"    progress: {what}, {done}" for what, done in counts.items()]
    lines += ["graph", *(_node(node) for node in graph.nodes)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _line(remark: Remark) -> str:
    nodes = f"  ({' '.join(remark.before)} => {' '.join(remark.after)})" if remark.before or remark.after else ""
    return f"    {remark.kind}: {remark.message}{nodes}"


def _node(node: Node) -> str:
    inputs = (_constant(value) if value.is_constant else value.name for value in node.present_inputs)
    outputs = (f"{value.name} {value.type.dtype}{list(value.shape)}{_scale(value)}" for value in node.outputs)
    attributes = (f"; {key} {value}" for key, value in sorted(node.attributes.items()))
    return f"    {', '.join(outputs)} = {node.op}({', '.join(inputs)}{''.join(attributes)}) of {' '.join(node.origins)}"


def _constant(value: Value) -> str:
    """Its shape, and two sums that tell it from another: of all elements alike, and of each in its place."""
    data = value.data.astype(np.float64).ravel()
    weights = np.cos(np.arange(data.size)) + 2  # all of one sign: sums of nothing but cancelled digits tell nothing
    groups = "" if value.clusters is None else f" of {len(value.clusters.codebook)} values"
    return f"[{list(value.shape)}{_scale(value)}{groups}: {np.abs(data).sum():.5g}, {np.abs(data) @ weights:.5g}]"


def _scale(value: Value) -> str:
    if value.quantization is None:
        return ""
    return f" * {np.sum(value.quantization.scale):.4g} + {np.sum(value.quantization.zero_point)}"


def differences(told: str, expected: str, share: float) -> list[str]:
    """The lines in which texts differ by more than numbers that moved by a small share, or in their last digit."""
    ours, theirs = told.splitlines(), expected.splitlines()
    lines = [f"{a}   instead of   {b}" for a, b in zip(ours, theirs, strict=False) if not _is_alike(a, b, share)]
    return lines + [f"{len(ours)} lines instead of {len(theirs)}"] * (len(ours) != len(theirs))


def _is_alike(told: str, expected: str, share: float) -> bool:
    if _NUMBER.sub("#", told) != _NUMBER.sub("#", expected):
        return False
    return all(_is_near(a, b, share) for a, b in zip(_NUMBER.findall(told), _NUMBER.findall(expected), strict=True))


def _is_near(told: str, expected: str, share: float) -> bool:
    """Numbers without a fraction are counts, and those with a percent sign are rounded."""
    a, b = (float(number.rstrip("%").replace(",", "")) for number in (told, expected))
    digits = expected.rstrip("%").partition("e")[0].partition(".")[2]
    is_rounded = bool(digits) or expected.endswith("%")
    return abs(a - b) <= share * abs(b) + is_rounded * 10.0 ** -len(digits)
