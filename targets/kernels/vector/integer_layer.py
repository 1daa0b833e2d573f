"""What layers that read int8 have in common whatever their loops: when they apply, parameters, ending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Argument, ConstantArgument, Refusal
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, KernelBuilder
from tinyopt.targets.kernels.vector.integer_ending import ENDINGS, IntegerEnding, Method, ResidualTerm
from tinyopt.targets.kernels.vector.rows import RowPlan, Rows, declare_rows, row_arguments
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
        ending = _ENDINGS[self.method](kernel, self.to, self.residual, multiplier, residual, y)
        return LayerCode(rows, weight, bias, ending)


@dataclass(frozen=True)
class LayerCode:
    """What the loops of a layer work with."""

    rows: Rows
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
