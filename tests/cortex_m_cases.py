"""Nodes with random weights and scales that use the whole int8 range, for the tests of the integer kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cortex_m_harness import Case

from tinyopt.ir import Array, Attribute, Clusters, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import Kernel, KernelPlanner


class CaseMaker:
    """Makes integer nodes and the kernels that a planner plans for them."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def levels(self, shape: Sequence[int]) -> Array:
        return self._random.integers(-128, 128, tuple(shape)).astype(np.int8)

    def activation(self, name: str, shape: Sequence[int], zero_point: int) -> Value:
        return Value(name, TensorType("int8", tuple(shape)), quantization=Quantization.per_tensor(0.1, zero_point))

    def conv(
        self,
        planner: KernelPlanner,
        image: tuple[int, int, int],
        channels: int,
        window: tuple[int, int] = (1, 1),
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        depthwise: bool = False,
        dilations: tuple[int, int] = (1, 1),
        **options: int,
    ) -> Case:
        """QConv on an image (height, width, channels)."""
        group = image[2] if depthwise else 1
        weights = self._random.integers(-127, 128, (channels, *window, image[2] // group)).astype(np.int8)
        attributes: dict[str, Attribute] = {"strides": strides, "pads": pads, "dilations": dilations}
        attributes["group"] = group
        return self._weighted("QConv", planner, (1, *image), weights, attributes, **options)

    def dense(self, planner: KernelPlanner, shape: tuple[int, ...], channels: int, **options: int) -> Case:
        weights = self._random.integers(-127, 128, (channels, shape[-1])).astype(np.int8)
        return self._weighted("QDense", planner, shape, weights, {}, **options)

    def _weighted(
        self,
        op: str,
        planner: KernelPlanner,
        shape: tuple[int, ...],
        weights: Array,
        attributes: dict[str, Attribute],
        residual: int = 0,
        shift: int = 32,
        low: int = -128,
        high: int = 127,
        clusters: int = 0,
        input_zero: int = 3,
        output_zero: int = -5,
        output_bits: int = 8,
    ) -> Case:
        """bias and multipliers are such that outputs fill their range, with some beyond it."""
        channels = len(weights)
        weight = Value.of("w", weights, Quantization.per_channel([0.1] * channels, [0] * channels, 0))
        if clusters:
            self._cluster(weight, clusters)
        depth = weights[0].size
        bias = self._random.integers(-3000, 3000, channels) - input_zero * weight.data.reshape(channels, -1).sum(1)
        deviation = 127 / (74.0 * 73.0 * np.sqrt(depth))
        scales = self._random.uniform(0.3, 1.0, channels) * deviation
        multiplier = np.minimum(np.rint(scales * 2.0 ** (shift + output_bits - 8)), 2**31 - 1)
        x = self.activation("x", shape, input_zero)
        inputs: list[Value | None] = [
            x,
            weight,
            Value.of("bias", bias.astype(np.int32)),
            Value.of("multiplier", multiplier.astype(np.int32)),
            None,
        ]
        rounding = {"shift": shift, "low": low, "high": high, "residual_multiplier": round(0.4 * 2.0**shift)}
        y = self.activation("y", x.shape, output_zero if output_bits == 8 else 0)
        y.type = TensorType(f"int{output_bits}", y.shape)
        node = Node(op, "node", inputs, [y], {**attributes, **rounding})
        (y.type,) = OPERATORS[op].infer(node)
        shape_out = y.shape
        if residual:
            node.inputs[4] = self.activation("residual", shape_out, 7)
        return self.case(node, planner)

    def _cluster(self, weight: Value, clusters: int) -> None:
        codebook = np.sort(self._random.choice(np.arange(-127, 128), clusters, replace=False)).astype(np.int8)
        indices = self._random.integers(0, clusters, weight.shape).astype(np.uint8)
        scale = np.full(weight.shape[0], 0.1, np.float32)
        weight.clusters = Clusters(indices, codebook, scale)
        weight.constant = weight.clusters.integers()

    def unary(
        self, op: str, planner: KernelPlanner, shape: tuple[int, ...], attributes: dict[str, Attribute], *others: Value
    ) -> Case:
        """A node of one activation and further constants."""
        x = self.activation("x", shape, 3)
        node = Node(op, "node", [x, *others], [x], attributes)
        node.outputs = [self.activation("y", OPERATORS[op].infer(node)[0].shape, -5 if others else 3)]
        return self.case(node, planner)

    def add(self, planner: KernelPlanner, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Attribute]) -> Case:
        return self.binary("QAdd", planner, shapes, attributes)

    def binary(
        self, op: str, planner: KernelPlanner, shapes: Sequence[tuple[int, ...]], attributes: dict[str, Attribute]
    ) -> Case:
        """A node of two activations."""
        inputs = [self.activation(f"x{i}", shape, 20 * i - 9) for i, shape in enumerate(shapes)]
        node = Node(op, "node", list(inputs), [inputs[0]], attributes)
        node.outputs = [self.activation("y", OPERATORS[op].infer(node)[0].shape, 11)]
        return self.case(node, planner)

    def case(self, node: Node, planner: KernelPlanner) -> Case:
        kernel = planner(node)
        assert isinstance(kernel, Kernel), kernel.reason
        arrays = tuple(
            None if v is None else v.constant if v.is_constant else self.levels(v.shape) for v in node.inputs
        )
        return Case(node, kernel, arrays)
