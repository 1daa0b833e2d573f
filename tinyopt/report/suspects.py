"""What to do about a layer that quantization hurts: one line for each, the strongest sign first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyopt.quantization_error import LayerError

_FINE_DB = 50.0  # at the model's outputs, or channel by channel: nothing is to be won here
_MUCH_SATURATED = 0.005
_FIXED_RANGE = ("Softmax", "Sigmoid", "HardSigmoid", "Tanh")  # 1.0 is just beyond theirs, and one step off at most
_WIDE_CHANNEL = 8.0  # three of eight bits of the median channel are lost to the widest one
_UNUSED_RANGE = 0.5
_INHERITED_DB = 6.0


@dataclass(frozen=True)
class _Sign:
    """Something to see in the figures of a layer, and what helps."""

    is_there: Callable[[LayerError], bool]
    advice: Callable[[LayerError], str]


def _is_fine(layer: LayerError) -> bool:
    return (layer.own_db if layer.snr_model_db is None else layer.snr_model_db) >= _FINE_DB


_SIGNS = (
    _Sign(
        lambda layer: layer.is_output_guilty and layer.widest_channel[1] >= _WIDE_CHANNEL,
        lambda layer: (
            f"channel {layer.widest_channel[0]} spans {layer.widest_channel[1]:.0f}x the median channel: "
            "equalize-layers, or int16 for its output"
        ),
    ),
    _Sign(
        lambda layer: layer.saturated >= _MUCH_SATURATED and layer.op not in _FIXED_RANGE,
        lambda layer: (
            f"{100 * layer.saturated:.1f} % of its values lie beyond its range: calibrate on samples like these"
        ),
    ),
    _Sign(
        _is_fine,
        lambda _layer: "nothing to win here",
    ),
    _Sign(
        lambda layer: 0 < layer.range_used < _UNUSED_RANGE,
        lambda layer: (
            f"{100 * (1 - layer.range_used):.0f} % of its integers lie unused: calibrate without outliers, or int16"
        ),
    ),
    _Sign(
        lambda layer: not layer.is_output_guilty,
        lambda layer: f"its weights lose more than its output{_worst(layer)}: round-weights, or keep it in float",
    ),
    _Sign(
        lambda layer: layer.snr_accumulated_db < layer.snr_alone_db - _INHERITED_DB,
        lambda _layer: (
            "most of its noise comes from the layers before it: look at those first, then int16 for its output"
        ),
    ),
    _Sign(
        lambda _layer: True,
        lambda layer: f"rounding its output loses more than its weights{_worst(layer)}: int16 for its output",
    ),
)


def advice(layer: LayerError) -> str:
    """One line: what the figures of the layer show, and what to try."""
    return next(sign.advice(layer) for sign in _SIGNS if sign.is_there(layer))


def _worst(layer: LayerError) -> str:
    if len(layer.worst_channels) < 2:
        return ""
    return f", most in channel {layer.worst_channels[0].index}"
