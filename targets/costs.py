"""Roughly how many instructions a machine spends on a node: to rank passes and layers before anything is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Graph, Node
from tinyopt.ops import OPERATORS


@dataclass(frozen=True)
class InstructionCosts:
    """Instructions for one multiply-accumulate by kind of layer, and for each element of any other output.

    ideal_*: what remains of a multiply-accumulate when nothing but the widest multiply instruction is issued; the
    line that no kernel can cross. The others are means over the layers of the MLPerf Tiny models, counted under QEMU.
    family: whose kernels were counted one by one, see tinyopt.targets.kernel_costs; empty for none.
    """

    int8_mac: float
    int8_depthwise_mac: float
    float_mac: float
    element: float
    ideal_int8_mac: float
    ideal_float_mac: float
    family: str = ""

    def instructions(self, node: Node) -> int:
        """The estimate for one node; nothing for what is computed from constants alone."""
        if not node.variable_inputs:
            return 0
        macs = OPERATORS[node.op].macs(node)
        elements = sum(output.type.elements for output in node.outputs)
        return round(
            macs * self._per_mac(node) + (0 if node.op in ("Reshape", "Identity") else elements * self.element)
        )

    def ideal_per_mac(self, dtype: str) -> float:
        return self.ideal_int8_mac if dtype == "int8" else self.ideal_float_mac

    def _per_mac(self, node: Node) -> float:
        if node.outputs[0].dtype not in ("int8", "int16"):
            return self.float_mac
        is_depthwise = node.attributes.get("group", 1) != 1
        return self.int8_depthwise_mac if is_depthwise else self.int8_mac


def estimate_instructions(graph: Graph, costs: InstructionCosts) -> int:
    """Of one run of the graph, node by node as it stands."""
    return sum(costs.instructions(node) for node in graph.nodes)


DSP_COSTS = InstructionCosts(0.9, 1.8, 5.0, 3.0, 1 / 2, 1.0, "dsp")  # SMLAD: two products; VFMA: one
MVE_COSTS = InstructionCosts(0.16, 0.65, 5.0, 1.5, 1 / 16, 1 / 4, "mve")  # VMLADAVA: sixteen products; VFMA: four
THUMB1_COSTS = InstructionCosts(
    2.7, 9.5, 60.0, 8.0, 1 / 2, 30.0, "thumb1"
)  # MULS: two products of int8; float in software
THUMB2_COSTS = InstructionCosts(
    1.85, 6.7, 60.0, 6.0, 1 / 2, 30.0, "thumb2"
)  # MLA: two products of int8; float in software
# 64-bit Arm: what the kernels of the dot product share with the others was counted with them
SDOT_COSTS = InstructionCosts(0.095, 0.4, 0.33, 1.0, 1 / 16, 1 / 4, "sdot")  # SDOT: sixteen; FMLA: four
I8MM_COSTS = InstructionCosts(0.065, 0.4, 0.33, 1.0, 1 / 32, 1 / 4, "sdot")  # SMMLA: thirty-two
NEON_COSTS = InstructionCosts(0.24, 0.5, 0.33, 1.0, 1 / 8, 1 / 4, "sdot")  # SMLAL2: eight
NEON32_COSTS = InstructionCosts(1.4, 2.3, 0.6, 1.0, 1 / 4, 1 / 4)  # VMLAL: four
PORTABLE_COSTS = InstructionCosts(3.0, 4.0, 3.0, 4.0, 1.0, 1.0)
