"""Functions of single elements with numpy's broadcasting, for all element types: one template for a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyopt.ir import DTYPES, Node
from tinyopt.targets.kernel import Argument, InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.scalar.loops import Walk, broadcast_strides, row_major, walk_loops
from tinyopt.targets.kernels.scalar.pointwise_expressions import EXPRESSIONS, Operation, cast_element
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc

_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Elu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "Celu": ("alpha",),
    "Shrink": ("bias", "threshold"),
    "ThresholdedRelu": ("alpha",),
    "IsInf": ("positive", "negative"),
    "Mod": ("fmod",),
    "BitShift": ("direction",),
}
"""The attributes that a function's expression depends on, in its own order."""


@dataclass(frozen=True)
class PointwiseSpec:
    """function: a key of `EXPRESSIONS`, or Cast. dtypes, elements: of each operand, then of the output."""

    function: str
    parameters: tuple[float | str, ...]
    dtypes: tuple[str, ...]
    elements: tuple[int, ...]
    walk: Walk

    @property
    def operation(self) -> Operation:
        return Operation(storage(self.dtypes[-2]), self.parameters)


def storage(dtype: str) -> str:
    """The type that a kernel reads and writes: a bool is a byte that holds 0 or 1."""
    return "uint8" if dtype == "bool" else dtype


def plan_pointwise(node: Node) -> Kernel | Refusal:
    """Any function of `EXPRESSIONS`, and Cast."""
    values = [*node.present_inputs, node.output]
    if any(value.dtype == "float16" for value in values):
        return Refusal("it has no scalar kernel for float16")
    return _plan(node)


def plan_half_cast(node: Node) -> Kernel | Refusal:
    """Cast to and from float16, for LLVM targets: C has no such type."""
    return _plan(node) if "float16" in (node.input(0).dtype, node.output.dtype) else Refusal("it casts no float16")


def _plan(node: Node) -> Kernel:
    values = [*node.present_inputs, node.output]
    shape = node.output.shape
    strides = [broadcast_strides(value.shape, shape) for value in node.present_inputs]
    spec = PointwiseSpec(
        node.op,
        tuple(_parameter(node, key) for key in _PARAMETERS.get(node.op, ())),
        tuple(value.dtype for value in values),
        tuple(value.type.elements for value in values),
        Walk.collapsed(shape, *strides, row_major(shape)),
    )
    arguments: tuple[Argument, ...] = (*map(InputArgument, range(len(node.inputs))), OutputArgument(0))
    return Kernel(apply_pointwise, spec, _name(node), arguments, overlaps=_overlaps(node))


def _parameter(node: Node, key: str) -> float | str:
    value = node.attributes[key]
    assert isinstance(value, int | float | str)
    return value


def _name(node: Node) -> str:
    """Such as `sqrt_f32`, `cast_u8_f32`."""
    types = [_short(node.present_inputs[-1].dtype)] + ([_short(node.output.dtype)] if node.op == "Cast" else [])
    return "_".join([node.op.lower(), *types])


def _short(dtype: str) -> str:
    """float32 as f32, uint8 as u8, int8 as s8, bool as b8."""
    return f"{'s' if dtype.startswith('int') else dtype[0]}{DTYPES[dtype].itemsize * 8}"


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    """The first input of the output's type: each of its elements is read once, before it is written."""
    for index, value in enumerate(node.present_inputs):
        if not value.is_constant and value.type == node.output.type:
            return (Overlap.in_place(index),)
    return ()


def apply_pointwise(spec: PointwiseSpec) -> PrimFunc:
    """y = function(operands), element by element."""
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        buffers = [
            kernel.buffer("y" if index == len(spec.dtypes) - 1 else f"x{index}", storage(dtype), elements)
            for index, (dtype, elements) in enumerate(zip(spec.dtypes, spec.elements, strict=True))
        ]
        *inputs, y = buffers
        with walk_loops(kernel, spec.walk) as offsets:
            operands = [kernel.let(x[offset]) for x, offset in zip(inputs, offsets, strict=False)]
            if spec.function == "Cast":
                y[offsets[-1]] = cast_element(operands[0], *spec.dtypes)
            else:
                y[offsets[-1]] = EXPRESSIONS[spec.function](spec.operation, *operands)
    return kernel.finish()
