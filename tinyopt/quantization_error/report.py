"""The result of an error analysis."""

from __future__ import annotations

import math
from dataclasses import dataclass

_BOUNDED = frozenset({"Softmax", "Sigmoid", "HardSigmoid", "Tanh"})


@dataclass(frozen=True)
class ChannelError:
    """One output channel of a layer, and the ratio of its signal to its noise, the layer alone being quantized."""

    index: int
    snr_db: float


@dataclass(frozen=True)
class LayerError:
    """What the quantization of one layer, or of one graph input, costs.

    Ratios are 10 log10(sum of squares of the float values / sum of squared errors) over all samples, in decibels:
    infinite where nothing is lost.

    op: the operator, "Input" for a graph input.
    snr_alone_db: at its own output, its constants and its output being quantized and its inputs exact.
    snr_constants_db, snr_output_db: the same with its constants (weights, bias, operands) alone, its output alone.
    snr_channels_db: as snr_alone_db, but each channel counts alike: the mean over channels of noise over signal. A
        channel that the others drown is seen here.
    snr_accumulated_db: at its own output, everything being quantized.
    snr_model_db: at the model's outputs, this layer alone being quantized; None where that would have taken too long.
    saturated: the share of its output values that lie beyond the range of its integers.
    levels_used: the share of the integers (of 256 equal parts of int16) that occur at all.
    range_used: the share from the lowest to the highest that occurs.
    worst_channels: the output channels with the lowest ratio, the worst first.
    widest_channel: the channel with the largest absolute value, and that value over the median channel's.
    largest: the largest absolute output.
    is_output_guilty: whether rounding its output costs more than rounding its constants. Each channel counts alike,
        with its noise relative to its own signal: of two channels that differ in scale, the next layer may undo that.
    """

    name: str
    op: str
    snr_alone_db: float
    snr_constants_db: float
    snr_output_db: float
    snr_channels_db: float
    snr_accumulated_db: float
    snr_model_db: float | None
    saturated: float
    levels_used: float
    range_used: float
    worst_channels: tuple[ChannelError, ...]
    widest_channel: tuple[int, float]
    largest: float
    is_output_guilty: bool

    @property
    def own_db(self) -> float:
        """What to judge the layer by where its cost at the model's outputs is not known.

        Channel by channel, for of two channels that differ in scale the next layer may undo that. The channels of a
        bounded function are shares of one whole: there a small one is of no interest.
        """
        return self.snr_alone_db if self.op in _BOUNDED else self.snr_channels_db


@dataclass(frozen=True)
class ErrorReport:
    """The errors of all layers: graph inputs first, then in running order.

    samples: how many were run for the layers' figures. model_samples: how many for each `snr_model_db`.
    snr_db: at the model's outputs, everything being quantized.
    """

    layers: tuple[LayerError, ...]
    snr_db: float
    samples: int
    model_samples: int

    def suspects(self) -> list[LayerError]:
        """The layers in the order to look at: who costs the model most first; unmeasured ones last."""
        return sorted(
            self.layers,
            key=lambda layer: (
                math.inf if layer.snr_model_db is None else layer.snr_model_db,
                layer.snr_model_db is None,
                layer.own_db,
            ),
        )


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, minus infinity for noise without a signal."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
