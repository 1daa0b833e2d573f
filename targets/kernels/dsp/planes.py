"""The loops of a depthwise convolution: groups of four channels, strips of rows, and the planes that they fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.dsp.decoding import decode_taps
from tinyopt.targets.kernels.dsp.depthwise_micro_kernels import WINDOW_FIELDS, Window
from tinyopt.targets.kernels.dsp.plane_micro_kernels import FILL_FIELDS, FILL_PLANES, FILL_WORDS, GROUP, MOVE_WORDS
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, RESIDUAL_INTRINSICS, Residual, finish
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR_INTRINSICS, Requantization
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, maximum, minimum, select

PlaneFields: TypeAlias = dict[str, int]

_LOOP_FIELDS = tuple(
    "all_words border groups strips last_group group_channels strip output_height strip_rows top kept_rows row_stride "
    "height moved_words row_words row_bytes first_word output_row blocks rows_are_inner plane_words output_width "
    "left".split()
)
_TAIL_FIELDS = tuple(
    "channels plane_bytes zero_point tail_back tail_step tail_advance tail_outer_source tail_outer_output tail_start "
    "tail_words".split()
)


@dataclass(frozen=True)
class DepthwiseSpec:
    """tail: of each row's last block, where it is not one of `window`. is_narrow: fewer than four channels.

    to: of the accumulators, where the micro-kernel does not do that itself. index_bits: of clustered weights, which are
    decoded group by group.
    """

    window: Window
    tail: Window | None
    is_narrow: bool
    to: Requantization | None
    has_residual: bool
    index_bits: int = 0

    @property
    def taps(self) -> int:
        return self.window.rows * self.window.columns

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        windows = [window for window in (self.window, self.tail) if window is not None]
        rescaling = () if self.to is None else SMMLAR_INTRINSICS
        residual = RESIDUAL_INTRINSICS if self.has_residual else ()
        return (
            NAKED,
            FILL_PLANES,
            FILL_WORDS,
            MOVE_WORDS,
            *(window.intrinsic for window in windows),
            *rescaling,
            *residual,
        )


def _field_names(spec: DepthwiseSpec) -> tuple[str, ...]:
    """What lies in the array of parameters, in its order; some fields are there for each micro-kernel."""
    return (*WINDOW_FIELDS, *FILL_FIELDS, *_LOOP_FIELDS, *(() if spec.tail is None else _TAIL_FIELDS))


def parameter_words(spec: DepthwiseSpec, fields: Mapping[str, int]) -> NDArray[np.int32]:
    """The array of parameters."""
    words = np.array([fields[name] & 0xFFFFFFFF for name in _field_names(spec)], np.uint32)
    return words.view(np.int32)


_FILL_AT = len(WINDOW_FIELDS)
_TAIL_AT = len(WINDOW_FIELDS) + len(FILL_FIELDS) + len(_LOOP_FIELDS)


@dataclass(frozen=True)
class _Parameters:
    x: Buffer
    weights: Buffer  # of all channels; of a group where they are decoded
    packed: Buffer | None
    codebook: Buffer | None
    rescaling: Buffer  # for each channel bias and multiplier
    words: Buffer
    planes: Buffer
    y: Buffer
    sums: Buffer | None
    residual: Residual | None
    fields: Mapping[str, Expr]


@dataclass(frozen=True)
class _Strip:
    """first, done: channels of the group, and how many of them the group before has computed. row: of the outputs."""

    first: Expr
    done: Expr
    row: Expr
    count: Expr


def depthwise(spec: DepthwiseSpec) -> PrimFunc:
    """In groups of four channels: widen a strip of rows into planes, then the window over each of them."""
    kernel = KernelBuilder("depthwise")
    with kernel.function():
        parameters = _declare(kernel, spec)
        fields = parameters.fields
        _fill_border(kernel, spec, parameters, 0, fields["all_words"])
        with kernel.loop(fields["groups"]) as group:
            first = kernel.let(minimum(group * GROUP, fields["last_group"]))
            done = kernel.let(group * GROUP - first)
            _decode_group(kernel, spec, parameters, first)
            with kernel.loop(fields["strips"]) as strip:
                row = kernel.let(strip * fields["strip"])
                part = _Strip(first, done, row, kernel.let(minimum(fields["strip"], fields["output_height"] - row)))
                _fill_planes(kernel, spec, parameters, part, strip)
                if spec.to is None:
                    _levels(kernel, spec, parameters, part)
                else:
                    _sums(kernel, spec, spec.to, parameters, part)
    return kernel.finish()


def _decode_group(kernel: KernelBuilder, spec: DepthwiseSpec, parameters: _Parameters, first: Expr) -> None:
    """The taps of the group whose first channel is `first`, where they are clustered."""
    if parameters.packed is None or parameters.codebook is None:
        return
    count = kernel.let(parameters.fields["group_channels"] * spec.taps)
    packed, codebook, taps = parameters.packed, parameters.codebook, parameters.weights
    decode_taps(kernel, spec.index_bits, packed, codebook, taps, kernel.let(first * spec.taps), count)


def _declare(kernel: KernelBuilder, spec: DepthwiseSpec) -> _Parameters:
    x = kernel.buffer("x", "int8", ANY_SIZE)
    packed = kernel.buffer("packed", "uint8", ANY_SIZE) if spec.index_bits else None
    codebook = kernel.buffer("codebook", "int8", 1 << spec.index_bits) if spec.index_bits else None
    weights = kernel.buffer("weights", "int8", ANY_SIZE)
    rescaling, words = (kernel.buffer(name, "int32", ANY_SIZE) for name in ("rescaling", "parameters"))
    planes = kernel.buffer("planes", "int16" if spec.is_narrow else "int32", ANY_SIZE)
    y = kernel.buffer("y", "int8", ANY_SIZE)
    sums = None if spec.to is None else kernel.buffer("sums", "int32", ANY_SIZE)
    residual = None
    if spec.has_residual:
        values = kernel.buffer("residual", "int8", ANY_SIZE)
        residual = Residual(values, kernel.scalar("residual_zero_point"), kernel.scalar("residual_multiplier"))
    fields = {name: words[place] for place, name in enumerate(_field_names(spec))}
    return _Parameters(x, weights, packed, codebook, rescaling, words, planes, y, sums, residual, fields)


def _elements(spec: DepthwiseSpec, words: Expr) -> Expr:
    """Words of the planes as elements of their buffer."""
    return words * 2 if spec.is_narrow else words


def _fill_border(kernel: KernelBuilder, spec: DepthwiseSpec, parameters: _Parameters, first: Expr, words: Expr) -> None:
    """Words of nothing but the input's zero point, from word `first` of the planes on."""
    place = parameters.planes.address(_elements(spec, first))
    kernel.run(FILL_WORDS, place, parameters.fields["border"], words)


def _fill_planes(
    kernel: KernelBuilder, spec: DepthwiseSpec, parameters: _Parameters, part: _Strip, strip: Expr
) -> None:
    """Bring the rows that a strip needs into the planes; those of the border stay there where one strip is all."""
    fields, planes = parameters.fields, parameters.planes
    row_words = fields["row_words"]
    top = kernel.keep(strip * fields["strip_rows"] - fields["top"])
    kept = kernel.keep(select(strip > 0, fields["kept_rows"], 0))
    rows = kernel.keep((part.count - 1) * fields["row_stride"] + spec.window.rows)
    inside = kernel.keep(minimum(maximum(0 - top, kept), rows))
    outside = kernel.keep(minimum(maximum(fields["height"] - top, inside), rows))
    with kernel.when(fields["strips"] > 1):
        moved_from = planes.address(_elements(spec, fields["moved_words"]))
        kernel.run(MOVE_WORDS, planes.address(), moved_from, kept * row_words)
        _fill_border(kernel, spec, parameters, kept * row_words, (inside - kept) * row_words)
        _fill_border(kernel, spec, parameters, outside * row_words, (rows - outside) * row_words)
    start = (top + inside) * fields["row_bytes"] + part.first
    place = inside * row_words
    if spec.is_narrow:
        _widen_narrow(kernel, parameters, start, place * 2 + fields["left"], outside - inside)
    else:
        source, target = parameters.x.address(start), planes.address(place + fields["first_word"])
        kernel.run(FILL_PLANES, source, target, parameters.words.address(_FILL_AT), outside - inside)


def _widen_narrow(kernel: KernelBuilder, parameters: _Parameters, start: Expr, place: Expr, rows: Expr) -> None:
    """Rows of an image of two or three channels, cell by cell. place: of the first one in its plane."""
    fields = parameters.fields
    plane = kernel.let(fields["plane_words"] * 2)
    columns = kernel.let(minimum(fields["row_bytes"] // fields["channels"], plane - fields["left"]))
    with kernel.loop(rows) as row, kernel.loop(fields["channels"]) as channel, kernel.loop(columns) as column:
        source = start + row * fields["row_bytes"] + column * fields["channels"] + channel
        target = place + row * (fields["row_words"] * 2) + channel * plane + column
        parameters.planes[target] = cast(parameters.x[source], "int16")


def _levels(kernel: KernelBuilder, spec: DepthwiseSpec, parameters: _Parameters, part: _Strip) -> None:
    """The outputs of a strip, of all its channels."""
    fields = parameters.fields
    channel = kernel.let(part.first + part.done)
    place = kernel.let(part.row * fields["output_row"] + channel)
    source = part.done * fields["plane_words"]
    planes = kernel.let(fields["group_channels"] - part.done)

    def output(pixel: Expr) -> Expr:
        return parameters.y.address(place + pixel * fields["channels"])

    _run(kernel, spec, parameters, _Run(channel, part.first, source, output, part.count, planes))


def _sums(
    kernel: KernelBuilder, spec: DepthwiseSpec, to: Requantization, parameters: _Parameters, part: _Strip
) -> None:
    """The outputs of a strip, whose accumulators are rescaled here, a row of one channel at a time."""
    fields, sums = parameters.fields, parameters.sums
    assert sums is not None
    planes = kernel.let(fields["group_channels"] - part.done)
    with kernel.loop(planes, start=part.done) as plane, kernel.loop(part.count) as row:
        channel = kernel.let(part.first + plane)
        source = plane * fields["plane_words"] + row * (fields["row_stride"] * fields["row_words"])
        _run(kernel, spec, parameters, _Run(channel, part.first, source, sums.address, 1, 1))
        place = kernel.let((part.row + row) * fields["output_row"] + channel)
        multiplier = kernel.let(parameters.rescaling[2 * channel + 1])
        with kernel.loop(fields["output_width"]) as pixel:
            at = kernel.let(place + pixel * fields["channels"])
            parameters.y[at] = cast(finish(sums[pixel], multiplier, to, parameters.residual, at), "int8")


@dataclass(frozen=True)
class _Run:
    """first: channel of the group. source: word of the planes. output: the address of an output of the first row."""

    channel: Expr
    first: Expr
    source: Expr
    output: Callable[[Expr], Expr]
    rows: Expr
    planes: Expr


def _run(kernel: KernelBuilder, spec: DepthwiseSpec, parameters: _Parameters, run: _Run) -> None:
    """All blocks of some rows of some channels."""
    fields = parameters.fields
    taps = parameters.weights.address((run.channel - run.first if spec.index_bits else run.channel) * spec.taps)
    rescaling = parameters.rescaling.address(2 * run.channel)
    inner = kernel.let(select(fields["rows_are_inner"] != 0, run.rows, fields["blocks"]))
    kernel.run(
        spec.window.intrinsic,
        parameters.planes.address(_elements(spec, run.source)),
        run.output(0),
        taps,
        rescaling,
        parameters.words.address(0),
        inner,
        run.rows + fields["blocks"] - inner,
        run.planes,
    )
    if spec.tail is None:
        return
    kernel.run(
        spec.tail.intrinsic,
        parameters.planes.address(_elements(spec, run.source + fields["tail_words"])),
        run.output(fields["tail_start"]),
        taps,
        rescaling,
        parameters.words.address(_TAIL_AT),
        run.rows,
        1,
        run.planes,
    )
