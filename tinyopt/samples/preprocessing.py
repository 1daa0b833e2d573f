"""What becomes of a raw sample before the model sees it: mean and scale, the input's type, its quantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.ir import DTYPES, Array, Value

Numbers: TypeAlias = float | Sequence[float]

_PICTURE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Preprocessing:
    """real = (raw - mean) * scale, in float32; one number for all, or one for each channel."""

    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, mean: Numbers, scale: Numbers) -> Preprocessing:
        """Raises UsageError for numbers that are not finite, and for a scale of zero."""
        made = cls(_as_tuple(mean), _as_tuple(scale))
        if not (made.mean and made.scale and np.all(np.isfinite([*made.mean, *made.scale])) and all(made.scale)):
            raise UsageError(f"mean {_listed(made.mean)} and scale {_listed(made.scale)} must be finite, no scale zero")
        return made

    @property
    def is_identity(self) -> bool:
        return not any(self.mean) and all(scale == 1 for scale in self.scale)

    def apply(self, raw: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """`raw` is one sample of `shape`, or several along a leading dimension."""
        mean, scale = _along_channels(self.mean, shape), _along_channels(self.scale, shape)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite, and is found as such
            return np.asarray((raw.astype(np.float32) - mean) * scale, np.float32)


@dataclass(frozen=True)
class PictureLayout:
    """Where the rows, columns and channels of a picture are in a model's input."""

    height: int
    width: int
    channels: int
    channel_axis: int | None  # None: a grey picture without a channel dimension

    @property
    def is_channels_first(self) -> bool:
        return self.channel_axis is not None and self.channel_axis < 2


def picture_layout(shape: tuple[int, ...]) -> PictureLayout | None:
    """The layout of [1, C, H, W], [1, H, W, C], either without the batch, or [H, W]; C is 1 or 3. None for others."""
    batch = 1 if len(shape) == 4 and shape[0] == 1 else 0
    sizes = shape[batch:]
    if len(sizes) == 2 and sizes[0] > 1:  # [1, N] is a row of features
        return PictureLayout(*sizes, 1, None)
    if len(sizes) != 3:
        return None
    if sizes[0] in _PICTURE_CHANNELS:
        return PictureLayout(sizes[1], sizes[2], sizes[0], batch)
    if sizes[2] in _PICTURE_CHANNELS:
        return PictureLayout(sizes[0], sizes[1], sizes[2], batch + 2)
    return None


def to_input(real: Array, graph_input: Value) -> Array:
    """One sample as `graph_input` takes it: through its quantization unless it is of the input's type already."""
    return np.asarray(to_inputs(np.asarray(real)[None], graph_input, Preprocessing())[0])


def to_inputs(raw: Array, graph_input: Value, preprocessing: Preprocessing) -> Array:
    """Samples [n, ...] as `graph_input` takes them, [n, *shape].

    Floats go through `preprocessing`. A quantized input takes integers of its own type as they are, and anything else
    through `preprocessing` and its quantization; integers without a quantization are only cast.
    """
    shape = graph_input.shape
    shaped = raw.reshape(len(raw), *shape)
    if graph_input.dtype.startswith("float"):
        with np.errstate(over="ignore"):
            return preprocessing.apply(shaped, shape).astype(DTYPES[graph_input.dtype])
    if shaped.dtype.name == graph_input.dtype or graph_input.quantization is None:
        return shaped.astype(DTYPES[graph_input.dtype])
    quantization = graph_input.quantization
    reals = preprocessing.apply(shaped, shape)
    return np.stack([quantization.quantize(real, graph_input.dtype) for real in reals])


def check_channels(preprocessing: Preprocessing, graph_input: Value) -> None:
    """Raise UsageError where numbers were given for each channel and the input, which they are for, has not as many."""
    if not graph_input.dtype.startswith("float") and graph_input.quantization is None:
        return
    for numbers in (preprocessing.mean, preprocessing.scale):
        if len(numbers) > 1 and _channel_axis(graph_input.shape, len(numbers)) is None:
            raise UsageError(
                f"mean and scale {_listed(numbers)} are for {len(numbers)} channels, and input "
                f"'{graph_input.name}' of shape {list(graph_input.shape)} has not that many"
            )


def _along_channels(numbers: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[np.float32] | np.float32:
    if len(numbers) == 1:
        return np.float32(numbers[0])
    axis = _channel_axis(shape, len(numbers))
    assert axis is not None, "check_channels was called before"
    return np.array(numbers, np.float32).reshape([-1 if dim == axis else 1 for dim in range(len(shape))])


def _channel_axis(shape: tuple[int, ...], channels: int) -> int | None:
    """The dimension that counts channels: a picture's own, else the last or the second where it has that size."""
    layout = picture_layout(shape)
    axes = [None if layout is None else layout.channel_axis, len(shape) - 1, 1]
    return next((axis for axis in axes if axis is not None and axis < len(shape) and shape[axis] == channels), None)


def _as_tuple(numbers: Numbers) -> tuple[float, ...]:
    return (float(numbers),) if isinstance(numbers, int | float) else tuple(float(number) for number in numbers)


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
