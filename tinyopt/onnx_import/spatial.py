"""What convolutions and pools share: 1-D as 2-D of height 1, and paddings worked out from auto_pad and ceil_mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image of (height, width), or of three dimensions; pads are begins, then ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    def extent(self, axis: int) -> int:
        """The cells that the dilated kernel spans."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def attributes(self) -> dict[str, Attribute]:
        return {"strides": self.strides, "pads": self.pads, "dilations": self.dilations, "layout": "NCHW"}


def spatial_rank(node: OnnxNode, image: Value) -> int:
    """The number of spatial dimensions, 1 to 3."""
    rank = image.type.rank - 2
    if rank not in (1, 2, 3):
        raise Refusal(f"it is {rank}-D; tinyopt takes 1-D to 3-D")
    return rank


def nd_window(node: OnnxNode, kernel: Sequence[int], plane: Sequence[int]) -> Window:
    """The window of an operator of any number of dimensions, without the one that 1-D ones are lifted by."""
    window = window_of(node, kernel)
    extra = len(window.kernel) - len(kernel)
    if extra:
        pads = window.pads
        window = Window(
            window.kernel[1:], window.strides[1:], window.dilations[1:], (*pads[1:2], *pads[3:])
        )  # fmt: skip
    return with_auto_pad(node, window, plane)


def nd_attributes(window: Window) -> dict[str, Attribute]:
    """Strides, pads and dilations of an operator of any number of dimensions."""
    if min(window.pads) < 0:
        raise Refusal(f"its pads {window.pads} are negative")
    return {"strides": window.strides, "pads": window.pads, "dilations": window.dilations}


def lifted(builder: Builder, image: Value) -> Value:
    """[N, C, L] as [N, C, 1, L]; [N, C, H, W] as it is."""
    batch, channels, *plane = image.shape
    return builder.reshape(image, (batch, channels, *(1,) * (2 - len(plane)), *plane))


def lowered(builder: Builder, image: Value, rank: int) -> Value:
    """The image with `rank` spatial dimensions again."""
    batch, channels, *plane = image.shape
    return builder.reshape(image, (batch, channels, *plane[2 - rank :]))


def lifted_weights(builder: Builder, weights: Value) -> Value:
    """[O, I, K] as [O, I, 1, K]."""
    if weights.type.rank == 4:
        return weights
    return builder.rearranged(weights, lambda array: array[:, :, None, :], (0, 1, 3))


def window_of(node: OnnxNode, kernel: Sequence[int]) -> Window:
    """The window of a node in two dimensions, with the pads that its attribute gives."""
    rank = len(kernel)
    ones, zeros = (1,) * rank, (0,) * rank
    strides, dilations = node.integers("strides", ones), node.integers("dilations", ones)
    pads = node.integers("pads", zeros + zeros)
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise node.invalid(
            f"strides {strides}, dilations {dilations} and pads {pads} do not fit kernel {tuple(kernel)}"
        )
    if min(*kernel, *strides, *dilations) < 1:
        raise node.invalid(f"kernel {tuple(kernel)}, strides {strides} and dilations {dilations} must be positive")
    missing = max(2 - rank, 0)
    unit, none = (1,) * missing, (0,) * missing
    both_pads = (*none, *pads[:rank], *none, *pads[rank:])
    return Window((*unit, *kernel), (*unit, *strides), (*unit, *dilations), both_pads)


def with_auto_pad(node: OnnxNode, window: Window, plane: Sequence[int]) -> Window:
    """The window with the pads that auto_pad asks for on an image whose spatial sizes are `plane`."""
    mode = node.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return window
    if mode == "VALID":
        return replace(window, pads=(0,) * len(window.pads))
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.invalid(f"auto_pad is '{mode}'")
    totals = [
        max((-(-plane[i] // window.strides[i]) - 1) * window.strides[i] + window.extent(i) - plane[i], 0)
        for i in range(len(plane))
    ]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = (*smaller, *larger) if mode == "SAME_UPPER" else (*larger, *smaller)
    return replace(window, pads=pads)


def with_ceil_mode(window: Window, plane: Sequence[int]) -> Window:
    """The window with pads so much larger at the end that rounding down gives the size that rounding up gave."""
    ends: list[int] = []
    rank = len(plane)
    for axis in range(rank):
        before, after, stride = window.pads[axis], window.pads[axis + rank], window.strides[axis]
        steps = -(-(plane[axis] + before + after - window.extent(axis)) // stride)
        if steps * stride >= plane[axis] + before:  # the last window would begin beyond the image
            steps -= 1
        ends.append(max(after, steps * stride + window.extent(axis) - plane[axis] - before))
    return replace(window, pads=(*window.pads[:rank], *ends))
