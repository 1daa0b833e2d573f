"""Scales, zero points, biases and requantization against exact rational arithmetic on random numbers and extremes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.graph_builder import GraphBuilder, context_for
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Node, Quantization, Value
from tinyopt.ops.integer_rules import level_limits
from tinyopt.ops.requantize import multiplier_and_shift, requantize
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.quantization.parameters import from_range

SMALLEST, LARGEST = -20, 4  # of scales, as powers of two
ACCUMULATORS = (0, 1, -1, 127, -128, 2**15, 2**31 - 1, -(2**31))
DTYPES = ("int8", "int16")
PAIRS = (("int8", "int8"), ("int8", "int16"), ("int16", "int8"), ("int16", "int16"))


def random_scales(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Of all sizes, with both ends and powers of two among them."""
    scales = 2.0 ** generator.uniform(SMALLEST, LARGEST, count)
    scales[:4] = 2.0**SMALLEST, 2.0**LARGEST, 0.5, np.nextafter(0.5, 0)
    return scales


def zero_points(generator: np.random.Generator, dtype: str) -> list[int]:
    """Both ends, and some between; int16 has 0 alone."""
    return [0] if dtype == "int16" else [-128, 127, 0, *generator.integers(-128, 128, 3).tolist()]


def rounded_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def clamped(level: int, low: int, high: int) -> int:
    return min(max(level, low), high)


def off_by(multiplier: int, shift: int, scale: float) -> Fraction:
    return abs(Fraction(multiplier, 1 << shift) - Fraction(scale))


def assert_rounds(got: int, exact: Fraction, doubt: Fraction, low: int, high: int) -> None:
    """`got` is `exact` rounded and clamped, where `exact` is known up to `doubt`."""
    lowest, highest = (clamped(rounded_half_up(exact + d), low, high) for d in (-doubt, doubt))
    assert lowest <= got <= highest, (got, float(exact), float(doubt))


def test_a_multiplier_is_half_a_unit_of_its_last_place_off_at_most() -> None:
    generator = np.random.default_rng(1)
    for scale in random_scales(generator, 300):
        multiplier, shift = multiplier_and_shift(np.array([scale, scale / 3]))
        assert 0 <= multiplier[0] < 2**31
        assert shift == 32 or multiplier[0] >= 2**30 - 1, "a larger shift would have been more exact"
        for one, wanted in zip(multiplier.tolist(), (scale, scale / 3), strict=True):
            assert off_by(one, shift, wanted) <= Fraction(1, 1 << (shift + 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_requantization_is_the_exact_product_rounded_half_up_and_clamped(dtype: str) -> None:
    generator = np.random.default_rng(2)
    lowest, highest = level_limits(dtype)
    for scale in random_scales(generator, 60):
        (multiplier,), shift = multiplier_and_shift(np.array([scale]))
        in_range = (generator.uniform(2 * lowest, 2 * highest, 40) / scale).clip(-(2**31), 2**31 - 1)
        acc = np.append(np.array(ACCUMULATORS), in_range.astype(np.int64)).astype(np.int32)
        for zero_point in zero_points(generator, dtype):
            low, high = sorted(generator.integers(lowest, highest, 2, endpoint=True).tolist())
            for bounds in ((lowest, highest), (low, high)):
                levels = requantize(acc, int(multiplier), shift, zero_point, *bounds, dtype)
                assert levels.dtype == dtype
                for a, level in zip(acc.tolist(), levels.tolist(), strict=True):
                    by_multiplier = rounded_half_up(Fraction(a * int(multiplier), 1 << shift)) + zero_point
                    assert level == clamped(by_multiplier, *bounds)
                    doubt = abs(a) * Fraction(1, 1 << (shift + 1))  # the multiplier's rounding
                    assert_rounds(level, a * Fraction(float(scale)) + zero_point, doubt, *bounds)


def quantization(generator: np.random.Generator, dtype: str, scale: float) -> Quantization:
    return Quantization.per_tensor(scale, int(generator.choice(zero_points(generator, dtype))))


def lowered(graph: Graph) -> Node:
    """The integer node that lower-integer makes of a graph's only operator."""
    LowerInteger("int8").run(graph, context_for())
    (node,) = graph.nodes
    return node


def real_value(level: int, value: Value) -> Fraction:
    assert value.quantization is not None
    return (level - value.quantization.zero_point[0]) * Fraction(value.quantization.scale[0])


def exact_level(real: Fraction, value: Value) -> Fraction:
    assert value.quantization is not None
    return real / Fraction(value.quantization.scale[0]) + value.quantization.zero_point[0]


def levels(generator: np.random.Generator, dtype: str, count: int, kind: str) -> Array:
    """Random levels, or all at one end, so that sums saturate."""
    low, high = level_limits(dtype)
    if kind == "random":
        return generator.integers(low, high, (1, count), endpoint=True).astype(dtype)
    return np.full((1, count), low if kind == "lowest" else high, dtype)


def dense_layers(source: str, target: str) -> Iterator[tuple[np.random.Generator, Graph, Array, float]]:
    """Random Dense layers between QuantizeLinear and DequantizeLinear, with their float bias and the weights' scale."""
    generator = np.random.default_rng(3)
    for _ in range(25):
        channels, depth = int(generator.integers(1, 6)), int(generator.integers(1, 60))
        x_scale, w_scale = 2.0 ** generator.uniform(-12, 0, 2)
        span = x_scale * w_scale * depth * (2**15 if source == "int16" else 2**8) * 40
        y_scale = span / (2**16 if target == "int16" else 2**8)
        build = GraphBuilder(seed=int(generator.integers(1 << 30)))
        x = build.input("x", (1, depth), source, quantization(generator, source, x_scale))
        weights = build.random_int8(
            (channels, depth), Quantization.per_channel([w_scale] * channels, [0] * channels, 0)
        )
        bias = (generator.normal(size=channels) * span / 4).astype(np.float32)
        y = build(
            "Dense",
            build("DequantizeLinear", x),
            build("DequantizeLinear", weights),
            build.constant(bias),
            clamp_low=0.0,
        )
        out = build("QuantizeLinear", y, quantization=quantization(generator, target, y_scale), dtype=target)
        yield generator, build.graph_of(out), bias, float(np.float32(w_scale))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_layer_gives_the_rounded_exact_result_of_what_its_integers_stand_for(source: str, target: str) -> None:
    for generator, graph, bias, w_scale in dense_layers(source, target):
        node = lowered(graph)
        assert node.op == "QDense"
        x, y, weights = node.input(0), node.output, node.input(1).data.astype(int)
        unit = real_value(1, x) - real_value(0, x)
        unit *= Fraction(w_scale)  # of the accumulator
        factor = exact_level(unit, y) - exact_level(Fraction(0), y)
        for kind in ("random", "lowest", "highest"):
            array = levels(generator, source, weights.shape[1], kind)
            (got,) = evaluate(graph, {"x": array}).values()
            for channel, level in enumerate(got[0].tolist()):
                reals = (real_value(int(item), x) for item in array[0])
                products = sum(r * int(w) for r, w in zip(reals, weights[channel], strict=True)) * Fraction(w_scale)
                exact = max(products + Fraction(float(bias[channel])), Fraction(0))  # Relu
                acc = abs(exact / unit) + 1
                doubt = factor / 2 + acc * Fraction(1, 1 << (node.int("shift") + 1))  # of the bias, of the multiplier
                assert_rounds(level, exact_level(exact, y), doubt, *level_limits(target))


def test_the_zero_point_is_folded_into_the_bias_to_the_last_bit() -> None:
    for source, target in PAIRS:
        for _, graph, bias, w_scale in dense_layers(source, target):
            node = lowered(graph)
            x, weights = node.input(0), node.input(1).data.astype(int)
            assert x.quantization is not None
            unit = Fraction(x.quantization.scale[0]) * Fraction(w_scale)
            for channel, folded in enumerate(node.input(2).data.tolist()):
                own = folded + x.quantization.zero_point[0] * int(weights[channel].sum())
                assert abs(own - Fraction(float(bias[channel])) / unit) <= Fraction(1, 2) + Fraction(abs(own), 1 << 50)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_sum_is_rounded_once(source: str, target: str) -> None:
    generator = np.random.default_rng(4)
    for _ in range(30):
        scales = 2.0 ** generator.uniform(-8, 0, 2)
        build = GraphBuilder()
        a = build.input("a", (1, 50), source, quantization(generator, source, scales[0]))
        b = build.input("b", (1, 50), "int8", quantization(generator, "int8", scales[1]))
        y = build("Sub", build("DequantizeLinear", a), build("DequantizeLinear", b))
        y_scale = max(scales) * (1.5 if target == "int8" else 2**-7)
        out = build("QuantizeLinear", y, quantization=quantization(generator, target, y_scale), dtype=target)
        graph = build.graph_of(out)
        node = lowered(graph)
        arrays = levels(generator, source, 50, "random"), levels(generator, "int8", 50, "random")
        (got,) = evaluate(graph, dict(zip("ab", arrays, strict=True))).values()
        for one, other, level in zip(*(array[0].tolist() for array in (*arrays, got)), strict=True):
            exact = exact_level(real_value(one, node.input(0)) - real_value(other, node.input(1)), node.output)
            reach = sum((255 if v.dtype == "int8" else 2**15) for v in node.present_inputs)
            assert_rounds(level, exact, Fraction(reach, 1 << (node.int("shift") + 1)), *level_limits(target))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_change_of_scale_is_exact(source: str, target: str) -> None:
    generator = np.random.default_rng(5)
    for ratio in 2.0 ** generator.uniform(-10, 4, 20):
        build = GraphBuilder()
        x = build.input("x", (1, 60), source, quantization(generator, source, 0.01))
        other = quantization(generator, target, 0.01 * ratio)
        graph = build.graph_of(build("QuantizeLinear", build("DequantizeLinear", x), quantization=other, dtype=target))
        node = lowered(graph)
        assert node.op == ("QLookup" if source == target == "int8" else "QRequantize")
        array = levels(generator, source, 60, "random")
        (got,) = evaluate(graph, {"x": array}).values()
        for item, level in zip(array[0].tolist(), got[0].tolist(), strict=True):
            exact = exact_level(real_value(item, node.input(0)), node.output)
            assert_rounds(level, exact, abs(exact) * Fraction(1, 1 << 20), *level_limits(target))


def test_a_range_is_covered_to_half_a_step_and_zero_is_a_level() -> None:
    generator = np.random.default_rng(6)
    sizes = 2.0 ** generator.uniform(-30, 30, 200)
    shares = np.concatenate([[0.0, 1.0, 0.5, 1e-9, 1 - 1e-9], generator.uniform(0, 1, 195)])
    ranges = [(-size * share, size * (1 - share)) for size, share in zip(sizes, shares, strict=True)]
    for low, high in [*ranges, (3.0, 9.0), (-9.0, -3.0), (0.0, 0.0)]:
        found = from_range(low, high)
        (scale,), (zero_point,) = found.scale, found.zero_point
        assert -128 <= zero_point <= 127
        assert scale > 0
        for real in np.linspace(min(low, 0.0), max(high, 0.0), 17).astype(np.float32):
            level = clamped(rounded_half_up(Fraction(float(real)) / Fraction(scale)) + zero_point, -128, 127)
            error = abs((level - zero_point) * Fraction(scale) - Fraction(float(real)))
            assert error <= Fraction(scale) * (Fraction(1, 2) + Fraction(1, 1 << 14)), (low, high, real)
