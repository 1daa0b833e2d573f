"""Plain scalar kernels, one for every operator: right on every target."""

from __future__ import annotations

from collections.abc import Mapping

from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.scalar import convolution

SCALAR: Mapping[str, tuple[KernelPlanner, ...]] = {
    "Conv": (convolution.plan_conv,),
    "QConv": (convolution.plan_qconv,),
}
