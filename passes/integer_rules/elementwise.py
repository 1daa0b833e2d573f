"""Operators that work element by element: sums, products, PRelu, and functions of one variable as tables of int8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Attribute, Node, Quantization, Value
from tinyopt.ops import OPERATORS
from tinyopt.passes.integer_rules.site import (
    Refusal,
    Site,
    activations,
    multipliers,
    quantization_of,
    real_data,
    scale_of,
)

SUM_MULTIPLIER_BITS = 20  # 2 * 255 * 2^20 and the rounding term, 2^29 at most, fit 32 bits together
SUM_LARGEST_SHIFT = 30

_LEVELS = np.arange(-128, 128, dtype=np.int8)


def lower_sum(site: Site) -> Node | Refusal:
    """Add and Sub."""
    if is_table(site):
        return lower_unary(site)
    if refusal := activations(site, 0, 1):
        return refusal
    a, b = site.operand(0), site.operand(1)
    sign = -1.0 if site.node.op == "Sub" else 1.0
    scales = np.array([scale_of(a), sign * scale_of(b)]) / scale_of(site.output)
    is_narrow = all(value.dtype == "int8" for value in (a, b, site.output))
    found = multipliers(scales, SUM_MULTIPLIER_BITS, SUM_LARGEST_SHIFT) if is_narrow else multipliers(scales)
    if isinstance(found, Refusal):
        return found
    (of_a, of_b), shift = found
    attributes: dict[str, Attribute] = {"multiplier_a": int(of_a), "multiplier_b": int(of_b), "shift": shift}
    return site.replaced_by("QAdd", [a, b], {**attributes, **site.levels()})


def lower_mul(site: Site) -> Node | Refusal:
    """Mul: one multiplier, sa * sb / sy."""
    if is_table(site):
        return lower_unary(site)
    if refusal := activations(site, 0, 1):
        return refusal
    a, b = site.operand(0), site.operand(1)
    found = multipliers([scale_of(a) * scale_of(b) / scale_of(site.output)])
    if isinstance(found, Refusal):
        return found
    attributes: dict[str, Attribute] = {"multiplier": int(found[0][0]), "shift": found[1]}
    return site.replaced_by("QMul", [a, b], {**attributes, **site.levels()})


def lower_prelu(site: Site) -> Node | Refusal:
    """The slope becomes part of a multiplier of its own: slope * sx / sy."""
    if is_table(site):
        return lower_unary(site)
    x, slope = site.operand(0), site.operand(1)
    if not slope.is_constant:
        return Refusal(f"its slope '{slope.name}' is not a constant")
    if refusal := activations(site, 0):
        return refusal
    factors = np.append(1.0, real_data(slope).astype(np.float64)) * (scale_of(x) / scale_of(site.output))
    found = multipliers(factors)
    if isinstance(found, Refusal):
        return found
    (positive, *negative), shift = found
    slope_multiplier = site.constant("slope_multiplier", np.array(negative, np.int32).reshape(slope.shape))
    attributes: dict[str, Attribute] = {"multiplier": int(positive), "shift": shift}
    return site.replaced_by("QPRelu", [x, slope_multiplier], {**attributes, **site.levels()})


def lower_unary(site: Site) -> Node | Refusal:
    """A function of one int8 input, by what the operator's reference gives for each of the 256 levels."""
    if not is_unary(site):
        return Refusal("it takes more than one variable input")
    x = next(value for value in site.operands if value is not None and not value.is_constant)
    if refusal := activations(site, site.operands.index(x)):
        return refusal
    if x.dtype != "int8":
        return _clamped(site, x) or Refusal(f"its input '{x.name}' is {x.dtype}: a table has the 256 levels of int8")
    reals = quantization_of(x).dequantize(_LEVELS)
    arrays = [None if value is None else _argument(value, reals) for value in site.operands]
    (result,) = OPERATORS[site.node.op].evaluate(site.node, arrays)
    if not np.all(np.isfinite(result)):
        return Refusal("it gives NaN or infinity within the range of its input")
    table = quantization_of(site.output).quantize(np.asarray(result).reshape(256), site.output.dtype)
    return site.replaced_by("QLookup", [x, site.constant("table", table)], {})


def _clamped(site: Site, x: Value) -> Node | Refusal | None:
    """Relu and Clip of int16, which only rescale and clamp; None for any other function."""
    if site.node.op not in ("Relu", "Clip"):
        return None
    bounds = (0.0, np.inf) if site.node.op == "Relu" else (site.node.float("low"), site.node.float("high"))
    low, high = quantization_of(site.output).quantize(np.array(bounds), site.output.dtype)
    return rescaled(site.node, x, site.output, int(low), int(high))


def rescaled(node: Node, x: Value, output: Value, low: int, high: int) -> Node | Refusal:
    """The QRequantize from `x` to `output` in the place of `node`."""
    found = multipliers([scale_of(x) / scale_of(output)])
    if isinstance(found, Refusal):
        return found
    attributes: dict[str, Attribute] = {"multiplier": int(found[0][0]), "shift": found[1], "low": low, "high": high}
    return Node("QRequantize", node.name, [x], [output], attributes, node.origins)


def is_table(site: Site) -> bool:
    """Whether a table of the levels of one int8 value says it all."""
    return is_unary(site) and all(value.dtype == "int8" for value in site.operands if value and not value.is_constant)


def is_unary(site: Site) -> bool:
    """Whether the result depends on one value, element by element; constants of one element do not matter."""
    variables = {id(value) for value in site.operands if value is not None and not value.is_constant}
    constants = [value for value in site.operands if value is not None and value.is_constant]
    first = next((value for value in site.operands if value is not None and not value.is_constant), None)
    return (
        len(variables) == 1
        and all(value.type.elements == 1 for value in constants)
        and first is not None
        and first.shape == site.output.shape
    )


def rescaling_table(source: Quantization, target: Quantization) -> NDArray[np.int8]:
    """For each int8 level of `source` the level of `target` that QuantizeLinear(DequantizeLinear(level)) gives."""
    return target.quantize(source.dequantize(_LEVELS), "int8")


def _argument(value: Value, reals: Array) -> Array:
    return real_data(value).reshape(()) if value.is_constant else reals
