"""What tinyopt must know of an operator: one record, with no default fields, so that nothing can be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from tinyopt.ir import Array, Node, TensorType


class ChannelRelation(Enum):
    """How the channels that an operator gives depend on those that it takes."""

    MIXING = "every output channel is a weighted sum over all input channels of its group (convolution, dense)"
    PER_CHANNEL = "output channel i depends on channel i of the inputs alone (pooling, activations, add)"
    CONCATENATING = "the output's channels are the inputs' channels side by side"
    MOVING = "elements keep their value and change their place (reshape, transpose, slice, split)"
    OPAQUE = "nothing is known: channels at this operator must stay as they are"


class QuantizationRule(Enum):
    """Where the scale of an operator's output comes from when the graph is quantized."""

    OBSERVED = "from the range seen in calibration"
    SAME_AS_INPUT = "the input's: the operator only selects or moves values"
    UNIT_INTERVAL = "1/256 with zero point -128: the output lies in [0, 1]"
    SIGNED_UNIT_INTERVAL = "1/128 with zero point 0: the output lies in [-1, 1]"
    FLOAT_ONLY = "none: the operator stays in float between DequantizeLinear and QuantizeLinear"
    INTEGER = "none: the operator already works on integers"


@dataclass(frozen=True)
class Operator:
    """The facts about one operator. Strategies (passes, kernels, importers) live elsewhere and read these.

    infer: the types of the outputs; raises InvalidModelError, naming the node, where inputs or attributes contradict.
    evaluate: the numpy reference, arrays of the present inputs (None for an absent one) to arrays of the outputs.
        For integer operators it *defines* every bit that a kernel must give.
    macs: multiply-accumulates of one run (one per element added for pooling and sums, 0 for what only moves data).
    """

    name: str
    infer: Callable[[Node], list[TensorType]]
    evaluate: Callable[[Node, Sequence[Array | None]], list[Array]]
    macs: Callable[[Node], int]
    channels: ChannelRelation
    quantization: QuantizationRule
    is_elementwise: bool  # output element i depends on element i of the (broadcast) inputs alone


def opaque_float_operator(
    name: str,
    infer: Callable[[Node], list[TensorType]],
    evaluate: Callable[[Node, Sequence[Array | None]], list[Array]],
    macs: Callable[[Node], int],
) -> Operator:
    """An operator whose channels nothing is known of, and which stays in float when the graph is quantized."""
    return Operator(
        name=name,
        infer=infer,
        evaluate=evaluate,
        macs=macs,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.FLOAT_ONLY,
        is_elementwise=False,
    )
