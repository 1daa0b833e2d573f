"""Dense layers, float32 and integers: convolutions of an image of single cells, one for each vector."""

from __future__ import annotations

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, Refusal
from tinyopt.targets.kernels.requantize import type_suffix
from tinyopt.targets.kernels.scalar.convolution import ConvolutionShape, ConvolutionSpec, convolve
from tinyopt.targets.kernels.scalar.epilogue import (
    FLOAT,
    Arithmetic,
    FloatEpilogue,
    IntegerEpilogue,
    float_arguments,
    integer_arguments,
)
from tinyopt.targets.kernels.scalar.loops import Axis


def plan_dense(node: Node) -> Kernel | Refusal:
    """Dense in float32."""
    spec = ConvolutionSpec("dense_f32", dense_shape(node), FLOAT, FloatEpilogue.of(node))
    return Kernel(convolve, spec, spec.name, (InputArgument(0), InputArgument(1), *float_arguments(node)))


def plan_qdense(node: Node) -> Kernel | Refusal:
    """QDense with its weights as they are."""
    spec = integer_dense(node)
    arguments = (InputArgument(0), InputArgument(1), *integer_arguments(node, node.input(2).data))
    return Kernel(convolve, spec, spec.name, arguments)


def integer_dense(node: Node) -> ConvolutionSpec:
    """The spec of a QDense; its bias accounts for the input's zero point."""
    arithmetic = Arithmetic(node.input(0).dtype, "int8", "int32")
    return ConvolutionSpec(f"dense_{type_suffix(node)}", dense_shape(node), arithmetic, IntegerEpilogue.of(node))


def dense_shape(node: Node) -> ConvolutionShape:
    """The vectors above one another, with as many channels as they have elements."""
    outputs, depth = node.input(1).shape
    vectors = node.input(0).type.elements // depth
    vertical, horizontal = Axis(vectors, vectors, 1, 1, 0, 1), Axis(1, 1, 1, 1, 0, 1)
    return ConvolutionShape(1, vertical, horizontal, 1, depth, outputs)
