"""The geometry of a sliding window over one NHWC image, as plain numbers that a kernel is specialized for."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import Refusal


@dataclass(frozen=True)
class Window:
    """A window of `kernel` cells that slides over an image of height x width x channels; (vertical, horizontal) pairs.

    `pads` are the cells above and to the left of the image; those below and to the right follow from the output's size.
    """

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]

    @property
    def input_elements(self) -> int:
        return self.height * self.width * self.channels

    @property
    def row_span(self) -> int:
        """Image rows from the first to the last that one output row reads."""
        return (self.kernel[0] - 1) * self.dilations[0] + 1

    @property
    def padded_height(self) -> int:
        """Rows that the windows reach, counted from the first padding row."""
        return (self.out_height - 1) * self.strides[0] + self.row_span

    @property
    def padded_width(self) -> int:
        """Cells that the windows reach in a row, counted from the first padding cell."""
        return (self.out_width - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1] + 1

    @property
    def is_inside_image(self) -> bool:
        """No window reaches a padding cell."""
        reached = self.padded_height <= self.height and self.padded_width <= self.width
        return reached and self.pads == (0, 0)

    @property
    def is_pointwise(self) -> bool:
        """Every output cell reads just the input cell at its own place."""
        same_plane = (self.height, self.width) == (self.out_height, self.out_width)
        return self.kernel == (1, 1) and self.pads == (0, 0) and same_plane

    def flattened(self) -> Window:
        """A pointwise window over the same cells in a single row."""
        assert self.is_pointwise
        return pointwise_window(self.height * self.width, self.channels)


def pointwise_window(cells: int, channels: int) -> Window:
    """One row of `cells`, each read on its own."""
    return Window(1, cells, channels, 1, cells, (1, 1), (1, 1), (1, 1), (0, 0))


def ungrouped_window(node: Node) -> Window | Refusal:
    """The window of a convolution whose outputs read all channels, or why its tiles do not take it."""
    if node.int("group") != 1:
        return Refusal("groups: the vector tiles take one group")
    weights = node.input(1)
    return window_of(node, (weights.shape[1], weights.shape[2]))


def dense_window(node: Node) -> Window:
    """A dense layer as a pointwise convolution whose pixels are the rows of the input."""
    return pointwise_window(node.output.type.elements // node.output.shape[-1], node.input(0).shape[-1])


def window_of(node: Node, kernel: tuple[int, int]) -> Window | Refusal:
    """The window of a convolution or pool, or why the vector kernels do not take it."""
    x, y = node.input(0).shape, node.output.shape
    if x[0] != 1:
        return Refusal(f"a batch of {x[0]}: the vector kernels take one image")
    if node.attributes.get("layout", "NHWC") != "NHWC":
        return Refusal("the layout is not NHWC")
    pads = node.ints("pads")
    if min(pads) < 0:
        return Refusal("negative pads")
    strides, dilations = node.ints("strides"), node.ints("dilations")
    return Window(
        height=x[1],
        width=x[2],
        channels=x[3],
        out_height=y[1],
        out_width=y[2],
        kernel=kernel,
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        pads=(pads[0], pads[1]),
    )
