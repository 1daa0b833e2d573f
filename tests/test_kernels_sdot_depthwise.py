"""int8 depthwise convolutions on the dot product against the reference: a grid of windows in one program."""

from __future__ import annotations

from itertools import product

import pytest
import vector_cases as cases
from vector_harness import AARCH64, Case, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.vector.sdot_depthwise import plan_sdot_depthwise

Sample = tuple[Node, tuple[Array | None, ...]]

KERNELS = ((3, 3), (5, 5), (1, 3), (4, 1), (7, 2))
STRIDES = ((1, 1), (2, 2), (3, 1))
CHANNELS = (8, 9, 15, 16, 24, 29)
WIDTHS = (1, 2, 3, 4, 7, 8)  # pixels of a row: fewer and more than are written out at a time, and remainders


def samples() -> list[Sample]:
    """For each window and number of channels two images, padded or not, so that rows have every width."""
    result: list[Sample] = []
    for number, (kernel, strides, channels) in enumerate(product(KERNELS, STRIDES, CHANNELS)):
        for width in (WIDTHS[number % 6], WIDTHS[(number + 1 + number // 6) % 6]):
            result.append(sample(len(result), kernel, strides, channels, width))
    for number, channels in enumerate((8, 12, 40, 17) * 6):
        kernel = KERNELS[number % 3]
        result.append(sample(number, kernel, (1, 1), channels, WIDTHS[number % 6], dilations=(1 + number % 2, 2)))
    return result


def sample(
    number: int, kernel: cases.Pair, strides: cases.Pair, channels: int, width: int, dilations: cases.Pair = (1, 1)
) -> Sample:
    """An image whose windows give rows of `width` pixels; clamps, scales, residuals and pads vary with `number`."""
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    extents = [(out - 1) * stride + span for out, stride, span in zip((3, width), strides, spans, strict=True)]
    pads = (spans[0] // 2, spans[1] // 2, (spans[0] - 1) // 2, (spans[1] - 1) // 2) if number % 3 else cases.NO_PADS
    height = max(extents[0] - pads[0] - pads[2], 1)
    image = (height, max(extents[1] - pads[1] - pads[3], 1), channels)
    low, high = ((-128, 127), (-9, 127), (-40, 33))[number % 3]
    scale = 200.0 if number % 5 == 0 else 1.0  # scales above one half: a shift below 32
    return cases.integer_convolution(
        image, channels, kernel, strides, pads, dilations, channels, number % 4 == 0, low, high, scale
    )


@pytest.mark.qemu
@pytest.mark.slow
def test_every_window_gives_every_bit_and_nothing_is_written_beside_the_output() -> None:
    plans = [(node, plan_sdot_depthwise(node), arrays) for node, arrays in samples()]
    grid = [Case(node, plan, arrays) for node, plan, arrays in plans if isinstance(plan, Kernel)]
    assert len(grid) == len(plans) >= 200
    assert {case.node.int("shift") == 32 for case in grid} == {True, False}
    run_cases(grid, AARCH64)


def test_fewer_channels_than_a_block_are_refused_with_a_reason() -> None:
    node, _ = cases.integer_convolution((6, 6, 7), 7, (3, 3), group=7)
    answer = plan_sdot_depthwise(node)
    assert isinstance(answer, Refusal)
    assert "7 channels" in answer.reason
