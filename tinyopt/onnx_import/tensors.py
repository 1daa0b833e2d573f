"""Check the tensors that a model holds: type, shape, and whether its data is as long as both say, before it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import.limits import LARGEST_RANK, LARGEST_TENSOR_ELEMENTS

_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
}
_REAL: Mapping[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2"}
_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
"""Where typed data lies; in `int32_data` for all other types."""

_TYPED_RANGES: Mapping[int, tuple[int, int]] = {
    TensorProto.INT8: (-(2**7), 2**7 - 1),
    TensorProto.UINT8: (0, 2**8 - 1),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.BOOL: (0, 1),
    TensorProto.UINT32: (0, 2**32 - 1),
    TensorProto.FLOAT16: (0, 2**16 - 1),
    TensorProto.BFLOAT16: (0, 2**16 - 1),
}
"""What each number of the typed field may be where the field is wider than the type: beyond, others would wrap it."""


def expected_bytes(tensor: TensorProto, where: str) -> int:
    """The bytes that type and shape ask for.

    Raises InvalidModelError that begins with `where` for types that are none or no numbers, and for impossible shapes.
    """
    if tensor.data_type == TensorProto.STRING:
        raise InvalidModelError(f"{where} holds strings; tinyopt takes numbers")
    if tensor.data_type not in _BITS:
        raise InvalidModelError(f"{where} has the unknown element type {tensor.data_type}")
    check_shape(tuple(tensor.dims), where)
    elements = math.prod(int(size) for size in tensor.dims)
    return -(-elements * _BITS[tensor.data_type] // 8)


def check_shape(shape: tuple[int, ...], where: str) -> None:
    """Raises InvalidModelError for shapes that no tensor can have, or that are beyond the limits."""
    if len(shape) > LARGEST_RANK:
        raise InvalidModelError(f"{where} has {len(shape)} dimensions; tinyopt takes up to {LARGEST_RANK}")
    if min(shape, default=0) < 0:
        raise InvalidModelError(f"{where} has the shape {list(shape)}: sizes are not negative")
    if math.prod(shape) > LARGEST_TENSOR_ELEMENTS:
        raise InvalidModelError(
            f"{where} has {math.prod(shape):,} elements (shape {list(shape)}); tinyopt takes up to "
            f"{LARGEST_TENSOR_ELEMENTS:,}"
        )


def check_tensor(tensor: TensorProto, where: str) -> int:
    """The bytes of a tensor whose data lies in the model.

    Raises InvalidModelError that begins with `where` for what `expected_bytes` refuses, for data that is longer or
    shorter, for numbers that their type cannot hold, and for floats that are NaN.
    """
    size = expected_bytes(tensor, where)
    field = _FIELDS.get(tensor.data_type, "int32_data")
    typed = getattr(tensor, field)
    if tensor.HasField("segment"):
        raise InvalidModelError(f"{where} is cut into segments; export it again")
    if tensor.HasField("raw_data"):
        if len(typed) or len(tensor.raw_data) != size:
            raise _wrong_length(tensor, where, len(tensor.raw_data) + len(typed), size, "bytes")
    elif len(typed) != _typed_numbers(tensor):
        raise _wrong_length(tensor, where, len(typed), _typed_numbers(tensor), f"numbers in {field}")
    _check_range(tensor, typed, where)
    if tensor.data_type in _REAL and _holds_nan(tensor, field):
        raise InvalidModelError(f"{where} holds NaN; export the model again, or retrain it")
    return size


def _check_range(tensor: TensorProto, typed: Sequence[int], where: str) -> None:
    if tensor.data_type == TensorProto.BOOL and max(tensor.raw_data, default=0) > 1:
        raise InvalidModelError(f"{where} holds the byte {max(tensor.raw_data)}, which is neither true nor false")
    if tensor.data_type not in _TYPED_RANGES or not typed:
        return
    low, high = _TYPED_RANGES[tensor.data_type]
    outside = next((number for number in (min(typed), max(typed)) if not low <= number <= high), None)
    if outside is not None:
        raise InvalidModelError(f"{where} holds {outside}; its type takes {low} to {high}")


def _typed_numbers(tensor: TensorProto) -> int:
    """How many numbers the typed field of this tensor has: two for a complex one, one for two of four bits."""
    elements = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * elements
    return -(-elements // 2) if _BITS[tensor.data_type] == 4 else elements


def _holds_nan(tensor: TensorProto, field: str) -> bool:
    if tensor.HasField("raw_data"):
        numbers = np.frombuffer(tensor.raw_data, _REAL[tensor.data_type])
    elif tensor.data_type == TensorProto.FLOAT16:  # each in the low half of an int32
        numbers = np.asarray(tensor.int32_data, np.int64).astype(np.uint16).view(np.float16)
    else:
        numbers = np.asarray(getattr(tensor, field), np.float64)
    return bool(np.isnan(numbers).any())


def _wrong_length(tensor: onnx.TensorProto, where: str, found: int, wanted: int, unit: str) -> InvalidModelError:
    shape = list(tensor.dims)
    return InvalidModelError(f"{where} has {found:,} {unit}; its type and shape {shape} ask for {wanted:,}")
