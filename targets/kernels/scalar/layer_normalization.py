"""LayerNormalization, RMSNormalization and LRN in float32."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tinyopt.ir import Node
from tinyopt.ops.layer_normalization import neighbours
from tinyopt.targets.kernel import Argument, InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.scalar.softmax import Line
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    constant,
    math_call,
    maximum,
    minimum,
)


@dataclass(frozen=True)
class RowSpec:
    """Rows of `size` elements that are normalized each by itself; statistics: whether they are outputs, too."""

    name: str
    rows: int
    size: int
    epsilon: float
    is_centred: bool
    has_scale: bool
    has_bias: bool
    has_statistics: bool


@dataclass(frozen=True)
class ResponseSpec:
    """LRN: `before` and `behind` are the neighbours that a channel looks at; factor: alpha / size."""

    line: Line
    before: int
    behind: int
    factor: float
    beta: float
    bias: float


def plan_layer_normalization(node: Node) -> Kernel | Refusal:
    """LayerNormalization and RMSNormalization."""
    shape, axis = node.input(0).shape, node.int("axis")
    is_centred = node.op == "LayerNormalization"
    spec = RowSpec(
        "layer_normalization_f32" if is_centred else "rms_normalization_f32",
        prod(shape[:axis]),
        prod(shape[axis:]),
        node.float("epsilon"),
        is_centred,
        node.optional_input(1) is not None,
        node.optional_input(2) is not None,
        len(node.outputs) > 1,
    )
    arguments: list[Argument] = [InputArgument(i) for i, value in enumerate(node.inputs) if value is not None]
    arguments += [OutputArgument(i) for i in range(len(node.outputs))]
    overlaps = () if spec.has_statistics else (Overlap.in_place(0),)
    return Kernel(normalize_rows, spec, spec.name, tuple(arguments), overlaps=overlaps)


def plan_lrn(node: Node) -> Kernel | Refusal:
    """LRN."""
    shape, size = node.input(0).shape, node.int("size")
    line = Line(shape[0], shape[1], prod(shape[2:]))
    spec = ResponseSpec(
        line, *neighbours(size), node.float("alpha") / size, node.float("beta"), node.float("bias")
    )  # fmt: skip
    return Kernel(normalize_responses, spec, "lrn_f32", (InputArgument(0), OutputArgument(0)))


def normalize_rows(spec: RowSpec) -> PrimFunc:
    """y = (x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + bias, row by row; RMS: with 0 as the mean."""
    elements = spec.rows * spec.size
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", "float32", elements)
        scale = kernel.buffer("scale", "float32", spec.size) if spec.has_scale else None
        bias = kernel.buffer("bias", "float32", spec.size) if spec.has_bias else None
        y = kernel.buffer("y", "float32", elements)
        means = kernel.buffer("means", "float32", spec.rows) if spec.has_statistics else None
        inverses = kernel.buffer("inverses", "float32", spec.rows) if spec.has_statistics else None
        total = kernel.local("float32", 1)
        with kernel.loop(spec.rows) as row:
            start = kernel.let(row * spec.size)
            mean = _mean(kernel, spec, x, start, total) if spec.is_centred else constant(0, "float32")
            total[0] = constant(0, "float32")
            with kernel.loop(spec.size) as i:
                distance = kernel.let(x[start + i] - mean)
                total[0] = total[0] + distance * distance
            spread = total[0] / constant(spec.size, "float32") + constant(spec.epsilon, "float32")
            inverse = kernel.let(constant(1, "float32") / math_call("sqrtf", spread))
            if means is not None and inverses is not None:
                means[row] = mean
                inverses[row] = inverse
            with kernel.loop(spec.size) as i:
                value = (x[start + i] - mean) * inverse
                value = value if scale is None else value * scale[i]
                y[start + i] = value if bias is None else value + bias[i]
    return kernel.finish()


def _mean(kernel: KernelBuilder, spec: RowSpec, x: Buffer, start: Expr, total: Buffer) -> Expr:
    total[0] = constant(0, "float32")
    with kernel.loop(spec.size) as i:
        total[0] = total[0] + x[start + i]
    return kernel.let(total[0] / constant(spec.size, "float32"))


def normalize_responses(spec: ResponseSpec) -> PrimFunc:
    """y = x / (bias + factor * sum of the neighbours' squares)^beta."""
    line = spec.line
    kernel = KernelBuilder("lrn_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", line.elements)
        y = kernel.buffer("y", "float32", line.elements)
        total = kernel.local("float32", 1)
        with kernel.loop(line.outer) as image, kernel.loop(line.size) as channel:
            first = kernel.keep(maximum(channel - spec.before, 0))
            end = kernel.keep(minimum(channel + (spec.behind + 1), line.size))
            with kernel.loop(line.inner) as i:
                start = kernel.let(image * (line.size * line.inner) + i)
                total[0] = constant(0, "float32")
                with kernel.loop(end - first, first) as k:
                    neighbour = kernel.let(x[start + k * line.inner])
                    total[0] = total[0] + neighbour * neighbour
                base = constant(spec.bias, "float32") + constant(spec.factor, "float32") * total[0]
                index = kernel.let(start + channel * line.inner)
                y[index] = x[index] / math_call("powf", base, constant(spec.beta, "float32"))
    return kernel.finish()
