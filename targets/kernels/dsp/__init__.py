"""int8 kernels for cores with the DSP extension. `DSP`: for each operator the planners to try before the scalar ones."""

from __future__ import annotations

from collections.abc import Mapping

from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.dsp.convolution import plan_convolution
from tinyopt.targets.kernels.dsp.pointwise import plan_pointwise

DSP: Mapping[str, tuple[KernelPlanner, ...]] = {
    "QConv": (plan_pointwise, plan_convolution),
}
