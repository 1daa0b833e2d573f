"""What layers that read int8 have in common whatever their loops: when they apply, parameters, ending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.ops.integer_rules import level_limits
from tinyopt.targets.kernel import Argument, ConstantArgument, Refusal
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, KernelBuilder
from tinyopt.targets.kernels.vector.integer_ending import ENDINGS, IntegerEnding, Method, ResidualTerm
from tinyopt.targets.kernels.vector.rows import RowPlan, Rows, declare_rows, row_arguments
from tinyopt.targets.kernels.vector.run_time import ANY_SIZE
from tinyopt.targets.kernels.vector.x86_ending import Avx2Ending, Avx512Ending

_ENDINGS: Mapping[Method, type[IntegerEnding]] = {**ENDINGS, "madd": Avx2Ending, "vnni": Avx512Ending}


@dataclass(frozen=True)
class IntegerLayer:
    """How the sums become levels, part of a spec. `padding` is the level of padding cells: the input's zero point."""

    method: Method
    to: Requantization
    padding: int
    residual: ResidualTerm | None

    @classmethod
    def of(cls, node: Node, method: Method) -> IntegerLayer:
        return cls(method, Requantization.of(node), zero_point_of(node, node.input(0)), _residual_term(node))

    @property
    def form(self) -> LayerForm:
        to = self.to
        is_clamped = (to.low, to.high) != level_limits(to.dtype)
        return LayerForm(self.method, to.shift, to.dtype, is_clamped, self.residual is not None)

    @property
    def numbers(self) -> LayerNumbers:
        residual = self.residual or ResidualTerm(0, 0)
        levels = self.padding, self.to.zero_point, self.to.low, self.to.high
        return LayerNumbers(*levels, residual.zero_point, residual.multiplier)

    def declare(self, kernel: KernelBuilder, plan: RowPlan, weights: int, channels: int, outputs: int) -> LayerCode:
        """Declare the parameters, in the order of `layer_arguments`, of as many elements each.

        channels: those of bias and multiplier, which may be padded.
        """
        x = kernel.buffer("x", "int8", plan.window.input_elements)
        weight = kernel.buffer("weights", "int8", weights)
        bias = kernel.buffer("bias", "int32", channels)
        multiplier = kernel.buffer("multiplier", "int32", channels)
        residual = kernel.buffer("residual", "int8", outputs) if self.residual is not None else None
        rows = declare_rows(kernel, plan, x, self.padding)
        y = kernel.buffer("y", self.to.dtype, outputs)
        return LayerCode(rows, weight, bias, self._ending(kernel, multiplier, residual, y))

    def declare_any_size(self, kernel: KernelBuilder, has_ring: bool) -> AnySizeCode:
        """Declare the parameters, in the order of `layer_arguments`, of arrays whose sizes are read at run time."""

        def array(name: str, dtype: str) -> Buffer:
            return kernel.buffer(name, dtype, ANY_SIZE)

        x, weight, bias = array("x", "int8"), array("weights", "int8"), array("bias", "int32")
        multiplier = array("multiplier", "int32")
        residual = array("residual", "int8") if self.residual is not None else None
        ring = array("ring", "int8") if has_ring else None
        y = array("y", self.to.dtype)
        return AnySizeCode(x, ring, weight, bias, self._ending(kernel, multiplier, residual, y))

    def _ending(self, kernel: KernelBuilder, multiplier: Buffer, residual: Buffer | None, y: Buffer) -> IntegerEnding:
        return _ENDINGS[self.method](kernel, self.to, self.residual, multiplier, residual, y)


@dataclass(frozen=True)
class LayerNumbers:
    """What of a layer a kernel may read at run time."""

    padding: int
    zero_point: int
    low: int
    high: int
    residual_zero_point: int
    residual_multiplier: int


@dataclass(frozen=True)
class LayerForm:
    """What of a layer its code depends on when `LayerNumbers` are read at run time."""

    method: Method
    shift: int
    dtype: str
    is_clamped: bool
    has_residual: bool

    def layer(self, numbers: LayerNumbers) -> IntegerLayer:
        """The layer whose numbers are expressions."""
        low, high = (numbers.low, numbers.high) if self.is_clamped else level_limits(self.dtype)
        to = Requantization(self.shift, numbers.zero_point, low, high, self.dtype)
        term = ResidualTerm(numbers.residual_zero_point, numbers.residual_multiplier) if self.has_residual else None
        return IntegerLayer(self.method, to, numbers.padding, term)


@dataclass(frozen=True)
class LayerCode:
    """What the loops of a layer work with."""

    rows: Rows
    weights: Buffer
    bias: Buffer
    ending: IntegerEnding


@dataclass(frozen=True)
class AnySizeCode:
    """The same where sizes are read at run time; rows are brought into place elsewhere."""

    image: Buffer
    ring: Buffer | None
    weights: Buffer
    bias: Buffer
    ending: IntegerEnding


def layer_arguments(node: Node, plan: RowPlan, weights: Array, bias: Array, multiplier: Array) -> tuple[Argument, ...]:
    """What `IntegerLayer.declare` declares; the constants as the kernel packs them."""
    constants = (
        ConstantArgument("weight", weights),
        ConstantArgument("bias", bias.astype(np.int32)),
        ConstantArgument("multiplier", multiplier.astype(np.int32)),
    )
    return row_arguments(plan, constants, None if node.optional_input(4) is None else 4)


def integer_refusal(node: Node) -> Refusal | None:
    """Why the int8 kernels cannot take these weights."""
    if not all(node.input(index).is_constant for index in (1, 2, 3)):
        return Refusal("weights that are not constant")
    if node.input(1).clusters is not None:
        return Refusal("clustered weights: the scalar kernel decodes them")
    return None


def _residual_term(node: Node) -> ResidualTerm | None:
    """What the fused addition of an integer node adds, None where it has none."""
    residual = node.optional_input(4)
    if residual is None:
        return None
    return ResidualTerm(zero_point_of(node, residual), node.int("residual_multiplier"))
