"""Whether a kernel decodes clustered weights as it runs: the flash it saves against the instructions it costs.

What both cost is a matter of the core. A kernel that models its own instructions is compared with what int8 weights
cost on the core at hand; where neither models any, a mean for each kind of layer stands for both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyopt.ir import Node
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import ConstantArgument, Decoding, Kernel, KernelPlanner, Refusal


@dataclass(frozen=True)
class InstructionsPerMac:
    """Of the kernels of a core, roughly: means over large layers counted under QEMU; small ones cost more."""

    convolution: float
    depthwise: float
    dense: float

    def of(self, node: Node) -> int:
        """The instructions of a QConv or QDense."""
        return round(self._per_mac(node) * OPERATORS[node.op].macs(node))

    def _per_mac(self, node: Node) -> float:
        if node.op == "QDense":
            return self.dense
        return self.convolution if node.int("group") == 1 else self.depthwise


def plan_modelled(plain: InstructionsPerMac, planner: KernelPlanner, node: Node) -> Kernel | Refusal:
    """A decoding kernel that models its own instructions, on a core where int8 weights cost `plain`."""
    kernel = planner(node)
    if isinstance(kernel, Refusal):
        return kernel
    assert kernel.decoding is not None
    return worthwhile(node, replace(kernel, decoding=replace(kernel.decoding, int8_instructions=plain.of(node))))


def plan_estimated(
    plain: InstructionsPerMac, decoded: InstructionsPerMac, planner: KernelPlanner, node: Node
) -> Kernel | Refusal:
    """A decoding kernel that costs `decoded` on a core where int8 weights cost `plain`."""
    kernel = planner(node)
    if isinstance(kernel, Refusal):
        return kernel
    constants = [argument for argument in kernel.arguments if isinstance(argument, ConstantArgument)]
    decoding = Decoding(
        bytes=sum(constant.array.nbytes for constant in constants if constant.role in ("weight", "codebook")),
        int8_bytes=node.input(1).type.elements,
        instructions=decoded.of(node),
        int8_instructions=plain.of(node),
    )
    return worthwhile(node, replace(kernel, decoding=decoding))


def worthwhile(node: Node, kernel: Kernel | Refusal) -> Kernel | Refusal:
    """`kernel`, or why int8 weights are better: it saves no flash. What it may cost is decided for the whole model."""
    if isinstance(kernel, Refusal) or kernel.decoding is None or node.input(1).clusters is None:
        return kernel
    decoding = kernel.decoding
    if decoding.bytes >= decoding.int8_bytes:
        return Refusal(f"packed indices and codebook take {decoding.bytes} bytes, {decoding.int8_bytes} as int8")
    return kernel
