"""Inputs that nobody recorded, made of two calibration samples each: the model before pruning labels them all the same.

A few hundred samples are soon learned by heart. Blends never repeat, lie where the samples lie, and need no knowledge
of what the numbers stand for. (Sums: mixup, Zhang et al., arXiv:1710.09412. Patches: CutMix, Yun et al.,
arXiv:1905.04899. Both with a teacher: Beyer et al., arXiv:2106.05237.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()

_PATCH_AXES = 2  # the longest ones: rows and columns, or time and frequency


def mixed(inputs: Mapping[str, Tensor], plain: int, generator: np.random.Generator) -> dict[str, Tensor]:
    """A batch whose first `plain` samples are as they were, and whose others are made with another one of the batch.

    inputs: float tensors [samples, ...] by name. Half of the others are sums of two samples with weights that add up to
    1; half have a patch of another sample. All inputs of a sample are mixed with the same other one.
    """
    count = len(next(iter(inputs.values())))
    partners = generator.permutation(count)
    shares = generator.uniform(0, 1, count)
    patched = plain + (count - plain) // 2
    return {
        name: torch.cat(
            [
                x[:plain],
                _sums(x[plain:patched], x[partners[plain:patched]], shares[plain:patched]),
                _patched(x[patched:], x[partners[patched:]], shares[patched:], generator),
            ]
        )
        for name, x in inputs.items()
    }


def _sums(x: Tensor, y: Tensor, shares: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
    weights = torch.from_numpy(shares.astype(np.float32)).reshape(-1, *[1] * (x.dim() - 1))
    return weights * x + (1 - weights) * y


def _patched(
    x: Tensor, y: Tensor, shares: np.ndarray[tuple[int], np.dtype[np.float64]], generator: np.random.Generator
) -> Tensor:
    """x with a patch of y, which takes about that share of the elements, at a random place."""
    result = x.clone()
    axes = sorted(range(1, x.dim()), key=lambda axis: -x.shape[axis])[:_PATCH_AXES]
    for sample, share in enumerate(shares):
        place: list[slice] = [slice(None)] * (x.dim() - 1)
        for axis in axes:
            size = x.shape[axis]
            extent = max(1, round(size * math.pow(share, 1 / len(axes))))
            start = int(generator.integers(0, size - extent + 1))
            place[axis - 1] = slice(start, start + extent)
        result[sample, *place] = y[sample, *place]
    return result
