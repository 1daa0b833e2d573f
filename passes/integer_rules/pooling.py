"""AveragePool, ReduceMean, ReduceSum and Softmax on int8 and int16."""

from __future__ import annotations

import math

import numpy as np

from tinyopt.ir import Attribute, Node
from tinyopt.ops.integer_rules import largest_magnitude
from tinyopt.ops.integer_softmax import EXPONENTIAL_BITS, exponential_table, exponential_tables
from tinyopt.ops.pool import average_divisors
from tinyopt.passes.integer_rules.site import (
    ACCUMULATOR_LIMIT,
    Refusal,
    Site,
    activations,
    multipliers,
    scale_of,
)

_LARGEST_EXPONENTIAL = 1 << EXPONENTIAL_BITS
_RATIO_TOLERANCE = 2.0**-10  # moves the largest output, 256 levels above the zero point, by a quarter of a level
_WIDE_LIMIT = 2**62  # of sums that are formed in 64 bits


def lower_average_pool(site: Site) -> Node | Refusal:
    """The divisor is part of the multiplier: one, or one for each position where windows reach over the edge."""
    if site.node.str("layout") != "NHWC":
        return Refusal("its layout is NCHW, the integer kernels want NHWC")
    if refusal := activations(site, 0):
        return refusal
    x = site.operand(0)
    if math.prod(site.node.ints("kernel")) * largest_magnitude(x) > ACCUMULATOR_LIMIT:
        return Refusal(f"a sum of {math.prod(site.node.ints('kernel'))} elements of {x.dtype} does not fit 32 bits")
    divisors = average_divisors(site.node).astype(np.float64).ravel()
    if np.all(divisors == divisors[0]):
        divisors = divisors[:1]
    found = multipliers(scale_of(x) / scale_of(site.output) / divisors)
    if isinstance(found, Refusal):
        return found
    multiplier, shift = found
    attributes: dict[str, Attribute] = {**site.kept("kernel", "strides", "pads", "dilations"), "shift": shift}
    inputs = [x, site.constant("multiplier", multiplier)]
    return site.replaced_by("QAveragePool", inputs, {**attributes, **site.levels()})


def lower_reduction(site: Site) -> Node | Refusal:
    """ReduceMean and ReduceSum."""
    if refusal := activations(site, 0):
        return refusal
    x = site.operand(0)
    count = math.prod(x.shape[axis] for axis in site.node.ints("axes"))
    if count * largest_magnitude(x) > ACCUMULATOR_LIMIT:
        return Refusal(f"a sum of {count} elements of {x.dtype} does not fit 32 bits")
    divisor = count if site.node.op == "ReduceMean" else 1
    found = multipliers([scale_of(x) / scale_of(site.output) / divisor])
    if isinstance(found, Refusal):
        return found
    attributes: dict[str, Attribute] = {"multiplier": int(found[0][0]), "shift": found[1], **site.levels()}
    return site.replaced_by("QReduceSum", [x], {**site.kept("axes", "keepdims"), **attributes})


def lower_softmax(site: Site) -> Node | Refusal:
    """Exponentials from a table, in units of 2^-20 below the largest. For an int16 output the division has 64 bits."""
    if refusal := activations(site, 0):
        return refusal
    x, axis = site.operand(0), site.node.int("axis")
    scale = scale_of(site.output)
    ratio = round(1 / scale)
    tolerance = _RATIO_TOLERANCE if site.output.dtype == "int8" else _RATIO_TOLERANCE / 256
    if ratio < 1 or abs(ratio * scale - 1) > tolerance:
        return Refusal(f"its output's scale {scale:g} is not one over an integer")
    largest_sum = x.shape[axis] * _LARGEST_EXPONENTIAL
    limit = ACCUMULATOR_LIMIT if site.output.dtype == "int8" else _WIDE_LIMIT
    if max(ratio * _LARGEST_EXPONENTIAL + largest_sum // 2, largest_sum) > limit:
        return Refusal(f"{x.shape[axis]} exponentials in units of the scale {scale:g} do not fit 32 bits")
    exponentials = exponential_table if x.dtype == "int8" else exponential_tables
    table = site.constant("table", exponentials(scale_of(x)))
    return site.replaced_by("QSoftmax", [x, table], {"axis": axis, "ratio": ratio})
