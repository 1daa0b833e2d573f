"""Rows of an image as kernels read them: in place, or copied into scratch memory with padding around them.

Where no window reaches a padding cell, kernels read the image itself. Otherwise each image row is copied once into a
ring of rows that holds as many as one output row needs, with the padding cells on either side; then the inner loops
know nothing of padding. Small images are padded as a whole, for then a row's place is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument, OutputArgument, ScratchArgument
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, both, broadcast, cast, constant
from tinyopt.targets.kernels.vector.window import Window

WHOLE_IMAGE_BYTES = 32 * 1024  # up to here the padded image is kept as a whole
VECTOR_BYTES = 16
ELEMENT_BYTES = {"int8": 1, "int16": 2, "float16": 2, "float32": 4}
SIGN_BIT = -128  # of an int8

Form = Literal["as they are", "offset"]  # how the ring holds elements; "offset" adds 128 to levels, as unsigned bytes


@dataclass(frozen=True)
class RowPlan:
    """Where the rows of `window` are read. slots: rows in the ring, 0 where the image is read in place.

    dtype: what is read; int16 for an int8 image means that the ring holds it widened.
    form: how the ring holds it. vector_bytes: what is copied into the ring at a time.
    """

    window: Window
    dtype: str
    slots: int
    form: Form = "as they are"
    vector_bytes: int = VECTOR_BYTES

    @property
    def is_in_place(self) -> bool:
        return self.slots == 0

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def vector_elements(self) -> int:
        return self.vector_bytes // self.element_bytes

    @property
    def row_elements(self) -> int:
        """From one row to the next, in the ring or in the image."""
        window = self.window
        return (window.width if self.is_in_place else self.ring_width) * window.channels

    @property
    def ring_width(self) -> int:
        return max(self.window.padded_width, self.window.pads[1] + self.window.width)

    @property
    def ring_elements(self) -> int:
        """With slack of one vector behind the last row, so that loads may reach over its end."""
        return 0 if self.is_in_place else self.slots * self.row_elements + self.vector_elements

    @property
    def ring_bytes(self) -> int:
        return self.ring_elements * self.element_bytes


def plan_rows(window: Window, dtype: str, read_over_end: bool) -> RowPlan:
    """How to read the rows. read_over_end: the kernel's loads may reach a few bytes over the end of a row."""
    if window.is_inside_image and not read_over_end:
        return RowPlan(window, dtype, 0)
    whole = RowPlan(window, dtype, window.padded_height)
    if whole.ring_bytes <= WHOLE_IMAGE_BYTES:
        return whole
    return RowPlan(window, dtype, window.row_span)


def plan_ring(window: Window, dtype: str, form: Form, vector_bytes: int) -> RowPlan:
    """Rows of an int8 image that are always copied, for the sake of what the copy makes of them."""
    whole = RowPlan(window, dtype, window.padded_height, form, vector_bytes)
    return whole if whole.ring_bytes <= WHOLE_IMAGE_BYTES else replace(whole, slots=window.row_span)


def row_arguments(
    plan: RowPlan, constants: tuple[ConstantArgument, ...], residual: int | None = None
) -> tuple[Argument, ...]:
    """Image, constants, input `residual` if there is one, scratch for the ring if there is one, output."""
    added = () if residual is None else (InputArgument(residual),)
    scratch = () if plan.is_in_place else (ScratchArgument(plan.ring_bytes, VECTOR_BYTES),)
    return (InputArgument(0), *constants, *added, *scratch, OutputArgument(0))


def declare_rows(kernel: KernelBuilder, plan: RowPlan, image: Buffer, padding: float) -> Rows:
    """Declare the parameter of the ring, if there is one. padding: what its padding cells hold."""
    ring = None if plan.is_in_place else kernel.buffer("ring", plan.dtype, plan.ring_elements)
    return Rows(kernel, plan, image, ring, padding)


class Rows:
    """Writes the code that brings rows into place. `base(y, k)` is where the row of window row k begins."""

    def __init__(
        self, kernel: KernelBuilder, plan: RowPlan, image: Buffer, ring: Buffer | None, padding: float
    ) -> None:
        self._kernel = kernel
        self._plan = plan
        self._image = image
        self._ring = ring
        self._padding = padding
        self.data = image if ring is None else ring

    def prepare(self) -> None:
        """Before the first output row: padding everywhere, and the rows that the later ones do not bring."""
        if self._ring is None:
            return
        plan = self._plan
        self._fill(constant(0, "int32"), plan.ring_elements)
        window = plan.window
        first = plan.slots if self._is_whole else window.row_span - window.strides[0]
        if first > 0:
            with self._kernel.loop(first) as row:
                self._bring(row)

    def advance(self, out_row: Expr) -> None:
        """Before output row `out_row`: bring the rows that it is the first to read."""
        window = self._plan.window
        if self._ring is None or self._is_whole:
            return
        with self._kernel.loop(window.strides[0]) as i:
            row = self._kernel.let(out_row * window.strides[0] + (window.row_span - window.strides[0]) + i)
            if window.row_span >= window.strides[0]:
                self._bring(row)
            else:
                with self._kernel.when(row >= 0):
                    self._bring(row)

    def base(self, out_row: Expr, kernel_row: Expr) -> Expr:
        """The element of `data` at which the row for `kernel_row` of output row `out_row` begins."""
        window = self._plan.window
        row = out_row * window.strides[0] + kernel_row * window.dilations[0]
        if not (self._plan.is_in_place or self._is_whole):
            row = row % self._plan.slots
        return row * self._plan.row_elements

    @property
    def _is_whole(self) -> bool:
        return self._plan.slots == self._plan.window.padded_height

    def _bring(self, row: Expr) -> None:
        """Copy image row `row` (counted from the first padding row) into its slot, or fill it with padding."""
        plan, window = self._plan, self._plan.window
        slot = row if self._is_whole else row % plan.slots
        target = self._kernel.let(slot * plan.row_elements + window.pads[1] * window.channels)
        source = (row - window.pads[0]) * (window.width * window.channels)
        elements = window.width * window.channels
        if window.pads[0] == 0 and window.padded_height <= window.height:
            self._copy(target, source, elements)
            return
        is_inside = both(row >= window.pads[0], row < window.pads[0] + window.height)
        if self._is_whole:  # the slots of padding rows are never written
            with self._kernel.when(is_inside):
                self._copy(target, source, elements)
            return
        with self._kernel.when_else(is_inside) as (inside, outside):
            with inside:
                self._copy(target, source, elements)
            with outside:
                self._fill(target, elements)

    def _copy(self, target: Expr, source: Expr, elements: int) -> None:
        ring = self.data
        self._in_vectors(
            elements, lambda at, width: ring.store_vector(target + at, self._element(source + at, width), width)
        )

    def _element(self, at: Expr, width: int) -> Expr:
        """`width` elements of the image, as the ring holds them."""
        value = self._image.vector(at, width)
        if self._plan.dtype != self._image.dtype:
            value = cast(value, self._plan.dtype if width == 1 else f"{self._plan.dtype}x{width}")
        return value ^ broadcast(constant(SIGN_BIT, "int8"), width) if self._plan.form == "offset" else value

    def _fill(self, target: Expr, elements: int) -> None:
        padding = int(self._padding) ^ SIGN_BIT if self._plan.form == "offset" else self._padding
        ring, value = self.data, constant(padding, self._plan.dtype)
        self._in_vectors(elements, lambda at, width: ring.store_vector(target + at, broadcast(value, width), width))

    def _in_vectors(self, elements: int, write: Callable[[Expr, int], None]) -> None:
        in_vectors(self._kernel, elements, self._plan.vector_elements, write)


def in_vectors(kernel: KernelBuilder, elements: int, width: int, write: Callable[[Expr, int], None]) -> None:
    """`write(start, lanes)` for all elements: a loop over vectors of `width` lanes, then ever narrower ones."""
    whole = elements // width
    if whole > 1:
        with kernel.loop(whole) as i:
            write(i * width, width)
    elif whole == 1:
        write(0, width)
    done = whole * width
    while done < elements:
        width //= 2
        if done + width <= elements:
            write(done, width)
            done += width
