"""ArgMax, ArgMin, TopK, CumSum, CumProd and Hardmax: loops along one axis."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.ops.along_axis import ORDERED
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.narrow import wrapping_dtype
from tinyopt.targets.kernels.scalar.softmax import Line
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, cast, constant


@dataclass(frozen=True)
class ExtremeSpec:
    """Where the extreme of each line stands: the first of equal elements, or the last."""

    line: Line
    dtype: str
    is_largest: bool
    is_last: bool


@dataclass(frozen=True)
class TopSpec:
    """The k first elements of each line in falling (`is_largest`) or rising order."""

    line: Line
    dtype: str
    k: int
    is_largest: bool


@dataclass(frozen=True)
class CumulativeSpec:
    """Running sums or products (`is_product`); exclusive: without the element itself; reverse: from the end."""

    line: Line
    dtype: str
    is_product: bool
    is_exclusive: bool
    is_reverse: bool


def plan_arg(node: Node) -> Kernel | Refusal:
    """ArgMax and ArgMin."""
    dtype = node.input(0).dtype
    spec = ExtremeSpec(Line.of(node), dtype, node.op == "ArgMax", bool(node.int("select_last")))
    name = "arg_max" if spec.is_largest else "arg_min"
    return Kernel(find_extreme, spec, f"{name}_{dtype}", (InputArgument(0), OutputArgument(0)))


def plan_top_k(node: Node) -> Kernel | Refusal:
    """TopK."""
    dtype = node.input(0).dtype
    if dtype not in ORDERED:
        return Refusal(f"TopK of {dtype}")
    spec = TopSpec(Line.of(node), dtype, node.int("k"), bool(node.int("largest")))
    return Kernel(select_top, spec, f"top_k_{dtype}", (InputArgument(0), OutputArgument(0), OutputArgument(1)))


def plan_cumulative(node: Node) -> Kernel | Refusal:
    """CumSum and CumProd."""
    dtype, is_product = node.input(0).dtype, node.op == "CumProd"
    spec = CumulativeSpec(
        Line.of(node), dtype, is_product, bool(node.int("exclusive")), bool(node.int("reverse"))
    )  # fmt: skip
    name = f"cumulative_{'product' if is_product else 'sum'}_{dtype}"
    return Kernel(accumulate, spec, name, (InputArgument(0), OutputArgument(0)))


def plan_hardmax(node: Node) -> Kernel | Refusal:
    """Hardmax in float32."""
    return Kernel(hardmax, Line.of(node), "hardmax_f32", (InputArgument(0), OutputArgument(0)))


def _is_before(a: Expr, b: Expr, is_largest: bool) -> Expr:
    return a > b if is_largest else a < b


def _replaces(element: Expr, best: Expr, spec: ExtremeSpec) -> Expr:
    if not spec.is_last:
        return _is_before(element, best, spec.is_largest)
    return element >= best if spec.is_largest else element <= best


def find_extreme(spec: ExtremeSpec) -> PrimFunc:
    """y = the place of the extreme along the line."""
    line = spec.line
    kernel = KernelBuilder(f"arg_{'max' if spec.is_largest else 'min'}_{spec.dtype}")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, line.elements)
        y = kernel.buffer("y", "int64", line.outer * line.inner)
        best, place = kernel.local(spec.dtype, 1), kernel.local("int32", 1)
        with kernel.loop(line.outer) as i, kernel.loop(line.inner) as j:
            start = kernel.let(i * (line.size * line.inner) + j)
            best[0] = x[start]
            place[0] = constant(0, "int32")
            with kernel.loop(line.size - 1, 1) as k:
                element = kernel.let(x[start + k * line.inner])
                with kernel.when(_replaces(element, best[0], spec)):
                    best[0] = element
                    place[0] = k
            y[i * line.inner + j] = cast(place[0], "int64")
    return kernel.finish()


def select_top(spec: TopSpec) -> PrimFunc:
    """Insertion into the sorted list of the best so far, which is the output itself."""
    line, k = spec.line, spec.k
    kernel = KernelBuilder(f"top_k_{spec.dtype}")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, line.elements)
        values = kernel.buffer("values", spec.dtype, line.outer * k * line.inner)
        places = kernel.buffer("places", "int64", line.outer * k * line.inner)
        kept_value, kept_place = kernel.local(spec.dtype, 1), kernel.local("int64", 1)
        with kernel.loop(line.outer) as i, kernel.loop(line.inner) as j:
            start = kernel.let(i * (line.size * line.inner) + j)
            best = kernel.let(i * (k * line.inner) + j)

            def bubble(last: Expr) -> None:
                """Move the element that was put at `last` before those that it precedes."""
                with kernel.loop(last) as step:
                    lower = kernel.let(best + (last - step) * line.inner)
                    upper = kernel.let(lower - line.inner)
                    with kernel.when(_is_before(values[lower], values[upper], spec.is_largest)):
                        kept_value[0] = values[lower]
                        kept_place[0] = places[lower]
                        values[lower] = values[upper]
                        places[lower] = places[upper]
                        values[upper] = kept_value[0]
                        places[upper] = kept_place[0]

            with kernel.loop(k) as place:
                values[best + place * line.inner] = x[start + place * line.inner]
                places[best + place * line.inner] = cast(place, "int64")
                bubble(place)
            if line.size > k:
                with kernel.loop(line.size - k, k) as place:
                    worst = kernel.let(best + (k - 1) * line.inner)
                    element = kernel.let(x[start + place * line.inner])
                    with kernel.when(_is_before(element, values[worst], spec.is_largest)):
                        values[worst] = element
                        places[worst] = cast(place, "int64")
                        bubble(constant(k - 1, "int32"))
    return kernel.finish()


def accumulate(spec: CumulativeSpec) -> PrimFunc:
    """y[k] = x[0] + ... + x[k] along the line, or the product."""
    line = spec.line
    kernel = KernelBuilder("cumulative_product" if spec.is_product else "cumulative_sum")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, line.elements)
        y = kernel.buffer("y", spec.dtype, line.elements)
        wide = wrapping_dtype(spec.dtype)
        total = kernel.local(wide, 1)
        with kernel.loop(line.outer) as i, kernel.loop(line.inner) as j:
            total[0] = constant(1 if spec.is_product else 0, wide)
            with kernel.loop(line.size) as step:
                k = line.size - 1 - step if spec.is_reverse else step
                index = kernel.let(i * (line.size * line.inner) + k * line.inner + j)
                if spec.is_exclusive:
                    y[index] = cast(total[0], spec.dtype)
                element = cast(x[index], wide)
                total[0] = total[0] * element if spec.is_product else total[0] + element
                if not spec.is_exclusive:
                    y[index] = cast(total[0], spec.dtype)
    return kernel.finish()


def hardmax(spec: Line) -> PrimFunc:
    """1 where the first of the largest elements stands, 0 elsewhere."""
    kernel = KernelBuilder("hardmax_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.elements)
        y = kernel.buffer("y", "float32", spec.elements)
        best = kernel.local("int32", 1)
        with kernel.loop(spec.outer) as i, kernel.loop(spec.inner) as j:
            start = kernel.let(i * (spec.size * spec.inner) + j)
            best[0] = start
            y[start] = constant(0, "float32")
            with kernel.loop(spec.size - 1, 1) as k:
                index = kernel.let(start + k * spec.inner)
                y[index] = constant(0, "float32")
                with kernel.when(x[index] > x[best[0]]):
                    best[0] = index
            y[best[0]] = constant(1, "float32")
    return kernel.finish()
