"""Remove what does nothing and write what is left in its simplest form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes import simplify_arithmetic, simplify_movers, simplify_pads
from tinyopt.passes.rewriting import rewrite


@dataclass(frozen=True)
class Simplify(Pass):
    """Remove what does nothing and write what is left in its simplest form, until nothing changes any more.

    What: removes Identity, Reshape to the same shape, Transpose of nothing, empty Pad, full Slice, Resize by 1, Concat
        or Split of one, x + 0, x * 1, and nodes that no output depends on. Chains of Reshape, of Transpose, and of Relu
        and Clip become one node; a Transpose or reduction of dimensions of size 1 becomes a Reshape; a Pad is merged
        into the convolution or pool after it; DequantizeLinear and QuantizeLinear of the same parameters cancel out;
        x * Clip(x + 3, 0, 6) / 6 becomes HardSwish; Reshape and Transpose go before a DequantizeLinear, and the Reshape
        that a 1-D convolution leaves goes below what is elementwise.
    Before -> After: Conv(Pad(x, 1)) -> Conv(x, pads 1); Transpose(Transpose(x)) -> x;
        Relu(Clip(x, -1, 6)) -> Clip(x, 0, 6)
    Exactness: the outputs keep every bit, but for HardSwish, where they move by float32 rounding.
    Refuses when: a Pad's value is not the zero (or, before a MaxPool, may lie above a pooled value), an Identity reads
        one quantization as another, or the node gives a graph output its name.
    Source: textbook algebra; the HardSwish form is that of Howard et al., arXiv:1905.02244, section 5.2.
    """

    name: ClassVar[str] = "simplify"

    def run(self, graph: Graph, context: PassContext) -> bool:
        rules = (*simplify_arithmetic.RULES, *simplify_movers.RULES, *simplify_pads.RULES)
        return rewrite(graph, context, rules)
