"""Functions that read numbers at run time, made for the layers that one model has.

Layers that differ in nothing but some numbers share one function, which reads them from an array. In what all of them
agree on (everything, where there is one layer) the code need not be general: that becomes part of it, and what is
compiled is smaller and quicker. It is the constant propagation between procedures of other compilers, done before
anything is compiled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyopt.targets.kernel import ConstantArgument, Kernel


def specialized(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The same kernels; those that `has_numbers` know what all those of equal template and spec agree on."""
    sharing: dict[tuple[object, object], list[tuple[int, ...]]] = defaultdict(list)
    for kernel in kernels:
        if kernel.has_numbers:
            sharing[kernel.template, kernel.spec].append(_numbers(kernel))
    known = {function: _agreed(numbers) for function, numbers in sharing.items()}
    return [_with_known(k, known[k.template, k.spec]) if k.has_numbers else k for k in kernels]


def _numbers(kernel: Kernel) -> tuple[int, ...]:
    argument = kernel.arguments[0]
    assert isinstance(argument, ConstantArgument)
    return tuple(argument.array.tolist())


def _agreed(layers: Sequence[tuple[int, ...]]) -> tuple[int | None, ...]:
    return tuple(same[0] if len(set(same)) == 1 else None for same in zip(*layers, strict=True))


def _with_known(kernel: Kernel, known: tuple[int | None, ...]) -> Kernel:
    left = [number for number, constant in zip(_numbers(kernel), known, strict=True) if constant is None]
    first = (ConstantArgument("parameters", np.array(left, np.int32)),) if left else ()
    return replace(kernel, spec=replace(kernel.spec, known=known), arguments=(*first, *kernel.arguments[1:]))
