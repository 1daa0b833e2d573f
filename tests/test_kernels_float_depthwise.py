"""Float depthwise convolutions: how they are cut into groups of pixels.

Their outputs are compared with the reference in test_kernels_vector.
"""

from __future__ import annotations

import vector_cases as cases
from vector_cases import SAME

from tinyopt.targets.kernel import Kernel
from tinyopt.targets.kernels.vector.depthwise_groups import column_groups, reaches_over, shared_cells
from tinyopt.targets.kernels.vector.float_depthwise import plan_float_depthwise
from tinyopt.targets.kernels.vector.window import Window


def test_neighbouring_pixels_share_the_cells_between_them() -> None:
    assert shared_cells(outputs=2, stride=1, dilation=1, taps=3) == (
        (0, ((0, 0),)),
        (1, ((0, 1), (1, 0))),
        (2, ((0, 2), (1, 1))),
        (3, ((1, 2),)),
    )


def test_cells_that_no_window_reads_are_left_out() -> None:
    assert [cell for cell, _ in shared_cells(outputs=2, stride=3, dilation=1, taps=1)] == [0, 3]


def test_groups_at_the_edges_leave_the_padding_out_and_those_between_share_a_loop() -> None:
    window = Window(8, 13, 4, 8, 13, (3, 3), (1, 1), (1, 1), (1, 1))
    groups = column_groups(window, 4, is_padded=False)
    assert [(group.first, group.count, group.padding) for group in groups] == [
        (0, 1, frozenset({0})),
        (1, 2, frozenset()),
        (3, 1, frozenset({5})),
    ]


def test_only_rows_at_the_edges_are_looked_at_as_the_kernel_runs() -> None:
    window = Window(8, 13, 4, 8, 13, (3, 3), (1, 1), (1, 1), (1, 1))
    assert [reaches_over(window, 2, row) for row in range(4)] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
    ]


def test_a_large_padded_image_is_read_in_place() -> None:
    node, _ = cases.float_convolution((56, 56, 32), 32, (3, 3), pads=SAME, group=32)
    kernel = plan_float_depthwise(node)
    assert isinstance(kernel, Kernel)
    assert kernel.spec.shape.rows.ring_bytes == 0
