"""Rows of an image as `rows` brings them into place, for kernels that read the image's size at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, both, broadcast, cast, constant
from tinyopt.targets.kernels.vector.rows import VECTOR_BYTES, RowPlan


@dataclass(frozen=True)
class RowForm:
    """What the code depends on.

    slots: rows in the ring; 0 where the image is read in place, or where `is_whole`: it is copied as a whole.
    stride, dilation, span: of the windows' rows, and how many image rows one output row reaches over.
    has_padding_rows: there are some above or below the image. vector: int8 copied at a time.
    """

    slots: int
    is_whole: bool
    stride: int
    dilation: int
    span: int
    has_padding_rows: bool
    vector: int

    @classmethod
    def of(cls, plan: RowPlan) -> RowForm:
        """That of int8 rows."""
        window = plan.window
        is_whole = plan.slots == window.padded_height
        return cls(
            slots=0 if is_whole else plan.slots,
            is_whole=is_whole,
            stride=window.strides[0],
            dilation=window.dilations[0],
            span=window.row_span,
            has_padding_rows=window.pads[0] > 0 or window.padded_height > window.height,
            vector=min(VECTOR_BYTES, 1 << (window.width * window.channels).bit_length() - 1),
        )

    @property
    def is_in_place(self) -> bool:
        return not (self.slots or self.is_whole)


@dataclass(frozen=True)
class RowSizes:
    """What is read at run time.

    row: elements from one row to the next, in the ring or in the image. image_row: elements of a row of the image.
    height: of the image. pad_top: padding rows above it. pad_left: elements. rows: that all windows reach.
    ring_vectors: that fill the ring. row_vectors: in which an image row is copied, but for the last one.
    """

    row: int
    image_row: int
    height: int
    pad_top: int
    pad_left: int
    rows: int
    ring_vectors: int
    row_vectors: int

    @classmethod
    def of(cls, plan: RowPlan) -> RowSizes:
        """Those of int8 rows."""
        window, vector = plan.window, RowForm.of(plan).vector
        image_row = window.width * window.channels
        return cls(
            row=plan.row_elements,
            image_row=image_row,
            height=window.height,
            pad_top=window.pads[0],
            pad_left=window.pads[1] * window.channels,
            rows=window.padded_height,
            ring_vectors=plan.ring_elements // vector,
            row_vectors=(image_row - 1) // vector,
        )


@dataclass(frozen=True)
class RunTimeRows:
    """Writes the code that brings rows into place. `base(y, k)` is where the row of window row k begins in `data`."""

    kernel: KernelBuilder
    form: RowForm
    sizes: RowSizes
    image: Buffer
    ring: Buffer | None
    padding: Expr
    brought: Buffer  # one int64: the ring's rows so far

    @classmethod
    def declare(
        cls, kernel: KernelBuilder, form: RowForm, sizes: RowSizes, image: Buffer, ring: Buffer | None, padding: Expr
    ) -> RunTimeRows:
        return cls(kernel, form, sizes, image, ring, padding, kernel.local("int64", 1))

    @property
    def data(self) -> Buffer:
        return self.image if self.ring is None else self.ring

    def prepare(self) -> None:
        """Before the first output row: padding everywhere, and a whole image."""
        if self.ring is None:
            return
        ring = self.ring
        with self.kernel.loop(self.sizes.ring_vectors) as i:
            self._pad(ring, i * self.form.vector)
        if self.form.is_whole:
            with self.kernel.loop(self.sizes.rows) as row:
                self._bring(ring, row)
        else:
            self.brought[0] = constant(0, "int64")

    def advance(self, out_row: Expr) -> None:
        """Before output row `out_row`: bring the rows that it is the first to read."""
        if self.ring is None or self.form.is_whole:
            return
        needed = self.kernel.let(out_row * self.form.stride + self.form.span)
        first = self.kernel.let(self.brought[0])
        with self.kernel.loop(needed - first) as i:
            self._bring(self.ring, first + i)
        self.brought[0] = needed

    def base(self, out_row: Expr, kernel_row: int) -> Expr:
        """The element at which the row for `kernel_row` of output row `out_row` begins."""
        row = out_row * self.form.stride + kernel_row * self.form.dilation
        return (row % self.form.slots if self.form.slots else row) * self.sizes.row

    def _bring(self, ring: Buffer, row: Expr) -> None:
        """Copy image row `row` (counted from the first padding row) into its slot, or fill it with padding."""
        sizes, form = self.sizes, self.form
        slot = row % form.slots if form.slots else row
        target = self.kernel.let(slot * sizes.row + sizes.pad_left)
        source = self.kernel.let((row - sizes.pad_top) * sizes.image_row)

        def copy(at: Expr) -> None:
            ring.store_vector(target + at, self.image.vector(source + at, form.vector), form.vector)

        if not form.has_padding_rows:
            self._row_vectors(copy)
            return
        is_inside = both(row >= sizes.pad_top, row < sizes.pad_top + sizes.height)
        if form.is_whole:  # the slots of padding rows are never written
            with self.kernel.when(is_inside):
                self._row_vectors(copy)
            return
        with self.kernel.when_else(is_inside) as (inside, outside):
            with inside:
                self._row_vectors(copy)
            with outside:
                self._row_vectors(lambda at: self._pad(ring, target + at))

    def _row_vectors(self, write: Callable[[Expr], None]) -> None:
        """`write` for every vector of a row; the last one may overlap the one before it."""
        sizes, vector = self.sizes, self.form.vector
        with self.kernel.loop(sizes.row_vectors) as i:
            write(i * vector)
        write(sizes.image_row - vector)

    def _pad(self, ring: Buffer, at: Expr) -> None:
        ring.store_vector(at, broadcast(cast(self.padding, "int8"), self.form.vector), self.form.vector)
