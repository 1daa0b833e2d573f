"""Cast to and from float16, which LLVM targets have and C has not."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import check_outputs, run_kernel_object

from tinyopt.ir import Node, TensorType, Value
from tinyopt.targets.host import host_level
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.vector import VECTOR


@pytest.mark.parametrize(
    ("source", "to"), [("float32", "float16"), ("float16", "float32"), ("float16", "int8"), ("int32", "float16")]
)
def test_a_cast_of_float16_gives_the_numbers_of_the_reference(source: str, to: str) -> None:
    numbers = np.array([0, -0.0, 1, -2.5, 65504, 65519, 65520, 1e-7, 6e-8, 2049, 2051, np.inf, -np.inf], np.float32)
    with np.errstate(all="ignore"):
        x = np.nan_to_num(numbers).astype(source) if source == "int32" else numbers.astype(source)
    node = Node("Cast", "node", [Value("x", TensorType.of(x))], [Value("y", TensorType(to, x.shape))])
    kernel = next(plan for planner in VECTOR["Cast"] if isinstance(plan := planner(node), Kernel))
    check_outputs(node, [x], run_kernel_object(node, kernel, [x], host_level().tvm))
    assert isinstance(SCALAR["Cast"][0](node), Refusal)
