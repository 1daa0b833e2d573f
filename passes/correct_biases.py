"""Correct biases, so that each layer's mean output stays what it was before quantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.ir import Array, Graph, Node
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.calibration_samples import split
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.quantization.layers import QuantizedLinear, change_layers
from tinyopt.passes.quantization.moments import has_rows, operand_rows, sample_weight

METHODS = ("empirical", "analytic")
_MOST_LEFT = 0.7  # of what the means were off: less of a gain comes from the choice of samples
_TINY = 1e-30

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class CorrectBiases(Pass):
    """Correct biases, so that each layer's mean output stays what it was before quantization.

    What: rounding moves the mean of what a layer gives, and the layers behind it are moved along. empirical: the bias
        takes over the difference of the means in the float and in the quantized model as it stands so far. analytic: it
        takes over what the rounded weights do to the float model's mean input, whatever the layers before it do. A
        layer is corrected where that brings the means clearly closer on a fifth of the samples, which was held out.
    Before -> After:
        b    =>    b + mean(W x) - mean(V z)        (W x: sums of the float model, V z: of the quantized one)
    Exactness: approximate as before; nothing but biases changes. The remark of each layer says how far the means of its
        channels were off before and after, on the samples held out.
    Refuses when: fewer than 10 samples; nothing was quantized here; the layer has no bias or is a ConvTranspose; the
        means are as close as they get (round-weights corrects biases with the weights).
    Source: Nagel et al., Data-free quantization, arXiv:1906.04721, section 4.2 and appendix D.
    """

    name: ClassVar[str] = "correct-biases"
    is_costly: ClassVar[bool] = True

    method: str = "empirical"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if self.method not in METHODS:
            raise UsageError(f"correct-biases.method is '{self.method}', not one of {', '.join(METHODS)}")
        is_analytic = self.method == "analytic"
        return change_layers(
            self.name,
            graph,
            context,
            _refusal,
            lambda layer, x, z: _correct(layer, x, x if is_analytic else z, context),
        )


def _refusal(layer: QuantizedLinear) -> str | None:
    if layer.bias is None:
        return "it has no bias of integers"
    return None if has_rows(layer.node) else f"the means of a {layer.node.op} are not corrected"


def _correct(layer: QuantizedLinear, x: Sequence[Array], z: Sequence[Array], context: PassContext) -> bool:
    """Correct the bias for inputs x of the float model and z of the quantized one; returns whether that was better."""
    used, held_out = split(len(x))
    node, bias = layer.node, layer.bias
    assert bias is not None, node.name
    present, real = bias.data, layer.real_bias
    before = _offsets(layer, x, z, held_out)
    layer.store_bias(real + _offsets(layer, x, z, used))
    after = before - (layer.real_bias - real)
    if np.array_equal(bias.data, present) or _size(after) > _MOST_LEFT * _size(before):
        bias.constant = present
        context.declined(f"{label_of(node)}: its means are as close as they get, on samples held out", [node])
        return False
    gain = f"its channels' means were off by {_size(before):.3g}, now by {_size(after):.3g} (root mean square)"
    context.did(f"{label_of(node)}: {gain}", [node], [node])
    return True


def _offsets(layer: QuantizedLinear, x: Sequence[Array], z: Sequence[Array], chosen: Sequence[int]) -> Vector:
    """How much the mean of each output channel lacks over the `chosen` samples."""
    weights = [sample_weight(x[index]) for index in chosen]
    wanted = np.einsum("gok,gk->go", layer.exact_rows, _mean_rows(layer.node, x, chosen, weights)).reshape(-1)
    given = np.einsum("gok,gk->go", layer.integer_rows * layer.row_scales, _mean_rows(layer.node, z, chosen, weights))
    lack = wanted + layer.twin.input(2).data - given.reshape(-1) - layer.real_bias
    return np.asarray(lack, np.float64)


def _mean_rows(node: Node, arrays: Sequence[Array], chosen: Sequence[int], weights: Sequence[float]) -> Vector:
    """The mean operands, [groups, K], over samples of these weights."""
    means = [operand_rows(node, arrays[index]).mean(axis=1, dtype=np.float64) for index in chosen]
    total = max(sum(weights), _TINY)
    return np.asarray(sum(weight / total * mean for weight, mean in zip(weights, means, strict=True)), np.float64)


def _size(offsets: Vector) -> float:
    return float(np.sqrt(np.mean(offsets**2)))
