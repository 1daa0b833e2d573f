"""Inputs that nobody recorded: blends of calibration samples, which the model before pruning can label all the same.

A few hundred samples are soon learned by heart. Blends never repeat, lie where the samples lie, and need no knowledge
of what the numbers stand for. (mixup: Zhang et al., arXiv:1710.09412; with a teacher: Beyer et al., arXiv:2106.05237.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()


def mixed(inputs: Mapping[str, Tensor], plain: int, generator: np.random.Generator) -> dict[str, Tensor]:
    """A batch whose first `plain` samples are as they were, and whose others are blended with another of the batch.

    inputs: float tensors [samples, ...] by name; all inputs of a sample are blended alike.
    """
    count = len(next(iter(inputs.values())))
    partners = torch.from_numpy(generator.permutation(count))
    shares = generator.uniform(0, 1, count).astype(np.float32)
    shares[:plain] = 1
    return {name: _blend(x, x[partners], torch.from_numpy(shares)) for name, x in inputs.items()}


def _blend(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    share = share.reshape(-1, *[1] * (x.dim() - 1))
    return share * x + (1 - share) * y
