"""Channels in vectors, for kernels that work on each channel alone (depthwise convolutions, pools)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tinyopt.targets.kernel import Refusal
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, minimum
from tinyopt.targets.kernels.vector.rows import WHOLE_IMAGE_BYTES, RowPlan, Rows


@dataclass(frozen=True)
class ChannelBlocks:
    """`whole` blocks of `width` channels from channel 0 on, then perhaps one that begins at `last_start`.

    The last one ends with the last channel and may overlap the one before it: what both give is the same.
    """

    width: int
    whole: int
    last_start: int
    last_width: int  # 0 where there is none

    @property
    def count(self) -> int:
        return self.whole + (1 if self.last_width else 0)

    def starts(self) -> Iterator[tuple[int, int]]:
        """(first channel, width) of each block."""
        yield from ((i * self.width, self.width) for i in range(self.whole))
        if self.last_width:
            yield self.last_start, self.last_width


def channel_blocks(channels: int, widest: int, narrowest: int) -> ChannelBlocks | Refusal:
    """Blocks of `widest` channels, refused for fewer than `narrowest`. The last one is the narrowest that suffices."""
    if channels < narrowest:
        return Refusal(f"{channels} channels do not fill a vector")
    width = widest
    while width > channels:
        width //= 2
    whole, rest = divmod(channels, width)
    if not rest:
        return ChannelBlocks(width, whole, 0, 0)
    last = width
    while last // 2 >= max(rest, narrowest):
        last //= 2
    return ChannelBlocks(width, whole, channels - last, last)


WriteBlock = Callable[[Expr, Expr, Expr, int], None]  # (output row, number of the block, first channel, width)


def write_blocks(kernel: KernelBuilder, rows: Rows, plan: RowPlan, blocks: ChannelBlocks, write: WriteBlock) -> None:
    """The loops over output rows and blocks of channels.

    Small images that lie there as a whole are walked block by block, so that a block's weights stay in registers.
    """
    window = plan.window
    rows.prepare()
    if goes_block_by_block(plan):

        def all_rows(number: Expr, channel: Expr, width: int) -> None:
            with kernel.loop(window.out_height) as out_row:
                write(out_row, number, channel, width)

        for_each_block(kernel, blocks, all_rows)
        return
    with kernel.loop(window.out_height) as out_row:
        rows.advance(out_row)
        for_each_block(kernel, blocks, lambda number, channel, width: write(out_row, number, channel, width))


def goes_block_by_block(plan: RowPlan) -> bool:
    """Whether the loop over blocks of channels is the outer one."""
    window = plan.window
    image_bytes = window.height * window.width * window.channels * plan.element_bytes
    return plan.slots == window.padded_height or (plan.is_in_place and image_bytes <= WHOLE_IMAGE_BYTES)


def for_each_block(kernel: KernelBuilder, blocks: ChannelBlocks, body: Callable[[Expr, Expr, int], None]) -> None:
    """`body(number, first channel, width)`: a loop over the whole blocks, then the last one.

    One that is as wide as the others shares their code.
    """
    if blocks.whole and blocks.last_width == blocks.width:
        with kernel.loop(blocks.count) as number:
            body(number, kernel.let(minimum(number * blocks.width, blocks.last_start)), blocks.width)
        return
    if blocks.whole:
        with kernel.loop(blocks.whole) as number:
            body(number, number * blocks.width, blocks.width)
    if blocks.last_width:
        body(blocks.whole, blocks.last_start, blocks.last_width)
