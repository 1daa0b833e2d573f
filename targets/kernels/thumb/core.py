"""What the kernels of this package need to know of a core: its micro-kernels and how they want their constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernel import Refusal
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.thumb import (
    dense_micro_kernels,
    finishing,
    thumb1_columns,
    thumb1_taps,
    thumb2_columns,
    thumb2_taps,
)
from tinyopt.targets.kernels.thumb.rescaling import Rescaling, halves, whole

CHANNELS_SIDE_BY_SIDE = 8


@dataclass(frozen=True)
class Core:
    """An instruction set.

    step_bytes, unrolled: of the loop over places in `columns`, which is entered where the rest begins.
    tap_step_bytes, taps_unrolled, dot_step_bytes, dot_unrolled: the same of `taps` and `dot`.
    rounding: what each pair of taps adds to the lower sum.
    pack_weights: int8 [channels, places] as `columns` reads them.
    residual_numbers: the last three numbers of `columns`, or why the kernels cannot take a rescaling.
    """

    columns: Intrinsic
    columns_with_residual: Intrinsic
    pack_pair: Intrinsic
    step_bytes: int
    unrolled: int
    interleave_rows: Intrinsic
    taps: Intrinsic
    tap_step_bytes: int
    taps_unrolled: int
    rounding: int
    dot: Intrinsic
    dot_step_bytes: int
    dot_unrolled: int
    finish: Intrinsic
    pack_weights: Callable[[Array], Array]
    residual_numbers: Callable[[Rescaling], tuple[int, int, int] | Refusal]

    def entry(self, places: int) -> int:
        """Bytes of code of `columns` that its first round leaves out."""
        return -(places // 2) % self.unrolled * self.step_bytes

    def tap_entry(self, taps: int) -> int:
        """Bytes of code of `taps` that its first round leaves out."""
        return -(taps // 2) % self.taps_unrolled * self.tap_step_bytes


def channel_groups(weights: Array) -> Array:
    """int8 [channels, places] -> [groups, places, 8 channels]; the last group is filled with zeros."""
    channels, places = weights.shape
    padded = np.pad(weights, ((0, -channels % CHANNELS_SIDE_BY_SIDE), (0, 0)))
    return np.ascontiguousarray(padded.reshape(-1, CHANNELS_SIDE_BY_SIDE, places).transpose(0, 2, 1))


CORES: Mapping[str, Core] = {
    "thumb1": Core(
        thumb1_columns.COLUMNS,
        thumb1_columns.COLUMNS_WITH_RESIDUAL,
        thumb1_columns.PACK_PAIR,
        thumb1_columns.STEP_BYTES,
        thumb1_columns.UNROLLED,
        thumb1_taps.INTERLEAVE_ROWS,
        thumb1_taps.TAPS,
        thumb1_taps.STEP_BYTES,
        thumb1_taps.UNROLLED,
        0,
        dense_micro_kernels.THUMB1_DOT,
        dense_micro_kernels.THUMB1_STEP_BYTES,
        dense_micro_kernels.UNROLLED,
        finishing.THUMB1_FINISH,
        channel_groups,
        halves,
    ),
    "thumb2": Core(
        thumb2_columns.COLUMNS,
        thumb2_columns.COLUMNS_WITH_RESIDUAL,
        thumb2_columns.PACK_PAIR,
        thumb2_columns.STEP_BYTES,
        thumb2_columns.UNROLLED,
        thumb2_taps.INTERLEAVE_ROWS,
        thumb2_taps.TAPS,
        thumb2_taps.STEP_BYTES,
        thumb2_taps.UNROLLED,
        1 << 15,
        dense_micro_kernels.THUMB2_DOT,
        dense_micro_kernels.THUMB2_STEP_BYTES,
        dense_micro_kernels.UNROLLED,
        finishing.THUMB2_FINISH,
        np.ascontiguousarray,
        whole,
    ),
}
