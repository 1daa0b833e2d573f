"""Functions with run-time numbers know what the layers of a model agree on."""

from dataclasses import dataclass

import numpy as np

from tinyopt.lowering.specialization import specialized
from tinyopt.targets.kernel import ConstantArgument, Kernel, OutputArgument


@dataclass(frozen=True)
class _Spec:
    taps: int
    known: tuple[int | None, ...] = ()


def _template(_spec: _Spec) -> None:
    """Never called."""


def _kernel(taps: int, *numbers: int) -> Kernel:
    arguments = ConstantArgument("parameters", np.array(numbers, np.int32)), OutputArgument(0)
    return Kernel(_template, _Spec(taps), "kernel", arguments, has_numbers=True)


def _left(kernel: Kernel) -> list[list[int]]:
    return [argument.array.tolist() for argument in kernel.arguments if isinstance(argument, ConstantArgument)]


def test_layers_read_only_the_numbers_in_which_they_differ() -> None:
    kernels = specialized([_kernel(3, 8, -128, 5), _kernel(3, 8, 7, 5), _kernel(3, 8, 9, 6)])
    assert {kernel.spec for kernel in kernels} == {_Spec(3, (8, None, None))}
    assert [_left(kernel) for kernel in kernels] == [[[-128, 5]], [[7, 5]], [[9, 6]]]


def test_a_layer_that_shares_its_function_with_none_reads_none() -> None:
    alone, *_ = specialized([_kernel(3, 8, -128), _kernel(5, 8, 7), _kernel(5, 9, 7)])
    assert alone.spec == _Spec(3, (8, -128))
    assert alone.arguments == (OutputArgument(0),)


def test_other_kernels_stay_as_they_are() -> None:
    plain = Kernel(_template, _Spec(3), "kernel", (ConstantArgument("weight", np.arange(3)),))
    assert specialized([plain]) == [plain]
