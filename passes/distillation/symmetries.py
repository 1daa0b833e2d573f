"""Ways to change an input that the model before pruning answers alike: samples that cost nothing.

A picture is often what its mirror image is, and a spectrogram what the one a moment later is; but no one may take that
for granted of a model that nobody explained. So each change is tried on the samples: where the answers stay, the model
was trained to see no difference, and the changed samples lie where its inputs lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()

_AXES = 2  # the longest ones: rows and columns, or time and frequency
_LARGEST_SHIFT = 8  # the part of an axis, 1 in so many, that a shift may move
_SHORTEST_AXIS = 8
_ALIKE = 0.9  # of the samples that keep their class


@dataclass(frozen=True)
class Symmetry:
    """A change along one axis of the inputs [samples, ...]: mirrored, or shifted by up to `largest_shift` places."""

    axis: int
    largest_shift: int | None = None

    def applied(self, x: Tensor, shift: int) -> Tensor:
        """x changed; what moves in at the border is a copy of the border."""
        if self.largest_shift is None:
            return x.flip(self.axis)
        size = x.shape[self.axis]
        return x.index_select(self.axis, (torch.arange(size) - shift).clamp(0, size - 1))

    @property
    def name(self) -> str:
        """For a remark."""
        what = "mirrored" if self.largest_shift is None else f"shifted by up to {self.largest_shift}"
        return f"{what} along axis {self.axis - 1}"


def find_symmetries(
    inputs: Mapping[str, Tensor], classes: Callable[[Mapping[str, Tensor]], Tensor]
) -> tuple[Symmetry, ...]:
    """The changes of the only input that leave nine of ten samples in their class.

    inputs: [samples, ...] by name. classes: the class of each sample, by the model before pruning.
    """
    if len(inputs) != 1:
        return ()  # what belongs together would have to be changed alike
    ((name, x),) = inputs.items()
    before = classes(inputs)
    axes = sorted(range(1, x.dim()), key=lambda axis: -x.shape[axis])[:_AXES]
    long_axes = [axis for axis in axes if x.shape[axis] >= _SHORTEST_AXIS]
    candidates = [Symmetry(axis) for axis in long_axes]
    candidates += [Symmetry(axis, x.shape[axis] // _LARGEST_SHIFT) for axis in long_axes]
    return tuple(
        each
        for each in candidates
        if all(
            float((classes({name: each.applied(x, shift)}) == before).float().mean()) >= _ALIKE
            for shift in ((each.largest_shift, -each.largest_shift) if each.largest_shift else (0,))
        )
    )


def varied(
    inputs: Mapping[str, Tensor], symmetries: Sequence[Symmetry], generator: np.random.Generator
) -> dict[str, Tensor]:
    """The batch with about half of it mirrored, and shifted by random amounts, as far as the symmetries allow."""
    changed = dict(inputs)
    for each in symmetries:
        ((name, x),) = changed.items()
        if each.largest_shift is None:
            is_changed = torch.from_numpy(generator.random(len(x)) < 1 / 2).reshape(-1, *[1] * (x.dim() - 1))
            changed = {name: torch.where(is_changed, each.applied(x, 0), x)}
        else:
            shifts = generator.integers(-each.largest_shift, each.largest_shift + 1, len(x))
            rows = [each.applied(x[i : i + 1], int(shift)) for i, shift in enumerate(shifts)]
            changed = {name: torch.cat(rows)}
    return changed
