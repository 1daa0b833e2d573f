"""The planes of a depthwise convolution: rows of the image as pairs of int16, four channels at a time."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, OPAQUE, PACK_HIGH, PACK_LOW, SXTB16, SXTB16_ROR8
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, Residual
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import Requantization
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, both, call, cast, minimum, read

GROUP = 4  # channels of one word

PLANE_INTRINSICS: tuple[Intrinsic, ...] = (LOAD_WORD, OPAQUE, SXTB16, SXTB16_ROR8, PACK_LOW, PACK_HIGH)


@dataclass(frozen=True)
class DepthwiseSpec:
    """rows, columns: of the window. strip: output rows computed from one filling of the planes."""

    channels: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    width: int
    output_width: int
    left: int
    strip: int
    to: Requantization
    has_residual: bool

    @property
    def row_words(self) -> int:
        """Words of one row of a plane: as many as the last output pixel reaches."""
        return ((self.output_width - 1) * self.column_stride + self.columns + 1) // 2

    @property
    def plane_words(self) -> int:
        return ((self.strip - 1) * self.row_stride + self.rows) * self.row_words

    @property
    def kept_rows(self) -> int:
        """Rows that a strip shares with the next one."""
        return max(self.rows - self.row_stride, 0)

    @property
    def even_words(self) -> int:
        return max(self.columns // 2, 1)

    @property
    def tap_words(self) -> int:
        """Even and odd words of one row of the window."""
        return self.even_words + (self.columns - 1) // 2

    @property
    def groups(self) -> int:
        return -(-self.channels // GROUP)

    @property
    def last_first_channel(self) -> int:
        """Where the last group begins: it overlaps the one before it where channels are not a multiple of four."""
        return max(self.channels - GROUP, 0)


@dataclass(frozen=True)
class Parameters:
    """The kernel's parameters, in the order of its arguments."""

    spec: DepthwiseSpec
    x: Buffer
    weights: Buffer
    bias: Buffer
    multiplier: Buffer
    scratch: Buffer  # planes [4][rows][words], then taps [4][rows][words]
    y: Buffer
    height: Expr
    output_height: Expr
    top: Expr
    filler: Expr
    residual: Residual | None

    @property
    def taps(self) -> int:
        """Where the widened weights begin in the scratch memory."""
        return GROUP * self.spec.plane_words


def declare(kernel: KernelBuilder, spec: DepthwiseSpec) -> Parameters:
    """Declare them."""
    x = kernel.buffer("x", "int8", ANY_SIZE)
    weights = kernel.buffer("weights", "int8", GROUP * spec.groups * spec.rows * spec.columns)
    bias, multiplier = (kernel.buffer(name, "int32", spec.channels) for name in ("bias", "multiplier"))
    scratch = kernel.buffer("scratch", "int32", GROUP * (spec.plane_words + spec.rows * spec.tap_words))
    y = kernel.buffer("y", "int8", ANY_SIZE)
    height, output_height, top = (kernel.scalar(name) for name in ("height", "output_height", "top"))
    zero_point = kernel.scalar("zero_point")
    residual = None
    if spec.has_residual:
        values = kernel.buffer("residual", "int8", ANY_SIZE)
        residual = Residual(values, kernel.scalar("residual_zero_point"), kernel.scalar("residual_multiplier"))
    filler = kernel.let((zero_point & 0xFFFF) | (zero_point << 16))
    return Parameters(spec, x, weights, bias, multiplier, scratch, y, height, output_height, top, filler, residual)


def _load(kernel: KernelBuilder, source: Buffer, place: Expr, channels: int) -> tuple[Expr, Expr]:
    """Four channels of one pixel as int16: (c0, c2) and (c1, c3)."""
    if channels >= GROUP:
        word = kernel.let(read(LOAD_WORD, source.address(place)))
    else:
        word = 0
        for channel in range(channels):
            word = word | ((cast(source[place + channel], "int32") & 0xFF) << 8 * channel)
        word = kernel.let(word)
    return kernel.let(call(SXTB16, word)), kernel.let(call(SXTB16_ROR8, word))


def _scatter(scratch: Buffer, place: Expr, plane_words: int, left: tuple[Expr, Expr], right: tuple[Expr, Expr]) -> None:
    """Two pixels' four channels, side by side, to the same place of the four planes."""
    for odd in range(2):
        scratch[place + odd * plane_words] = call(PACK_LOW, left[odd], right[odd])
        scratch[place + (odd + 2) * plane_words] = call(PACK_HIGH, left[odd], right[odd])


def widen_taps(kernel: KernelBuilder, parameters: Parameters, group: Expr) -> None:
    """Bring a group's weights into the scratch as pairs of int16, a plane for each channel."""
    spec = parameters.spec
    plane_words = spec.rows * spec.tap_words
    with kernel.loop(spec.rows) as row:
        start = kernel.let((group * spec.rows + row) * (spec.columns * GROUP))
        place = kernel.let(parameters.taps + row * spec.tap_words)
        taps = [_load(kernel, parameters.weights, start + GROUP * tap, GROUP) for tap in range(spec.columns)]
        nothing = (0, 0)
        for word in range(spec.even_words):
            right = taps[2 * word + 1] if spec.columns > 1 else nothing
            _scatter(parameters.scratch, place + word, plane_words, taps[2 * word], right)
        for word in range(spec.tap_words - spec.even_words):
            odd_place = place + spec.even_words + word
            _scatter(parameters.scratch, odd_place, plane_words, taps[2 * word + 1], taps[2 * word + 2])


def fill_planes(kernel: KernelBuilder, parameters: Parameters, first_channel: Expr, strip: Expr, count: Expr) -> None:
    """Bring the rows that `count` output rows need into the planes."""
    spec, scratch = parameters.spec, parameters.scratch
    kept = kernel.let(minimum(strip, 1) * spec.kept_rows)
    with kernel.loop(kept * spec.row_words) as word:
        place = kernel.let(read(OPAQUE, word))  # else the compiler calls memmove for each plane
        for plane in range(GROUP):
            target = place + plane * spec.plane_words
            scratch[target] = scratch[target + spec.strip * spec.row_stride * spec.row_words]
    rows = kernel.let((count - 1) * spec.row_stride + spec.rows)
    with kernel.loop(rows - kept, start=kept) as row:
        y = kernel.let(strip * (spec.strip * spec.row_stride) + row - parameters.top)
        place = kernel.let(row * spec.row_words)
        with kernel.when_else(both(y >= 0, y < parameters.height)) as (then, other):
            with then:
                start = kernel.let(y * (spec.width * spec.channels) + first_channel)
                _widen_row(kernel, parameters, start, place)
            with other, kernel.loop(spec.row_words) as word:
                for plane in range(GROUP):
                    scratch[place + plane * spec.plane_words + word] = parameters.filler


def _widen_row(kernel: KernelBuilder, parameters: Parameters, start: Expr, place: Expr) -> None:
    """One row of the image. Words that lie wholly in the border hold the filler since the beginning."""
    spec = parameters.spec

    def pixel(column: Expr) -> tuple[Expr, Expr]:
        return _load(kernel, parameters.x, start + column * spec.channels, spec.channels)

    def is_inside(column: int) -> bool:
        return 0 <= column < spec.width

    first_whole = -(-spec.left // 2)
    whole = max(min((spec.left + spec.width) // 2, spec.row_words) - first_whole, 0)
    unrolled = 2 if whole % 2 == 0 else 1
    with kernel.loop(whole // unrolled) as outer:
        for inner in range(unrolled):
            word = outer * unrolled + inner + first_whole
            column = word * 2 - spec.left
            _scatter(parameters.scratch, place + word, spec.plane_words, pixel(column), pixel(column + 1))
    for word in range(spec.row_words):
        column = 2 * word - spec.left
        if is_inside(column) == is_inside(column + 1):
            continue
        border = (parameters.filler, parameters.filler)
        left, right = (pixel(c) if is_inside(c) else border for c in (column, column + 1))
        _scatter(parameters.scratch, place + word, spec.plane_words, left, right)
