"""The types that integers are read in, the narrowest that holds constants, and those that they are summed up in."""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument

_WIDE = ("int32", "uint32", "int64", "uint64")
_NARROW = ("int8", "uint8", "int16", "uint16")


def wrapping_dtype(dtype: str) -> str:
    """In what sums and products of `dtype` may wrap around: without sign, so that no rule of C or LLVM is broken."""
    return {"int32": "uint32", "int64": "uint64"}.get(dtype, dtype)


def narrow_operand(node: Node, index: int) -> tuple[str, Argument]:
    """The element type in which a kernel reads input `index`, and what it is passed."""
    value = node.input(index)
    if value.constant is not None and value.dtype in _WIDE:
        low, high = int(value.constant.min()), int(value.constant.max())
        for dtype in _NARROW:
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return dtype, ConstantArgument("weight", value.constant.astype(dtype))
    return value.dtype, InputArgument(index)
