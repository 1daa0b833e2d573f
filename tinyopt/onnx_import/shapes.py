"""Fix the shapes of a model's inputs: what the file says, what the user gave, and batch 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from tinyopt.errors import InvalidModelError, UsageError

Dimension = int | str | None  # a size, a name, or nothing


def fix_input_shapes(
    inputs: Sequence[onnx.ValueInfoProto], given: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The static shape of each input by name, and a note for each batch dimension that was fixed to 1.

    A named dimension that `given` fixes for one input is fixed for all.
    Raises UsageError where `given` contradicts the model, InvalidModelError where a dimension stays unknown.
    """
    names = [value.name for value in inputs]
    if strangers := [name for name in given if name not in names]:
        raise UsageError(
            f"--shape names '{strangers[0]}', which is no input of the model; its inputs: {', '.join(names)}"
        )
    declared = {value.name: _declared(value) for value in inputs}
    known: dict[str, int] = {}
    for name, shape in given.items():
        _check_given(name, shape, declared[name])
        named = zip(declared[name] or (), shape, strict=False)
        known.update({dimension: size for dimension, size in named if isinstance(dimension, str)})
    notes: list[str] = []
    fixed = {
        name: given[name] if name in given else _fix(name, dimensions, known, notes)
        for name, dimensions in declared.items()
    }
    return fixed, notes


def _declared(value: onnx.ValueInfoProto) -> list[Dimension] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [_dimension(dimension) for dimension in value.type.tensor_type.shape.dim]


def _dimension(dimension: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dimension.HasField("dim_value") and dimension.dim_value >= 0:
        return int(dimension.dim_value)
    return dimension.dim_param or None


def _check_given(name: str, shape: tuple[int, ...], declared: list[Dimension] | None) -> None:
    if any(size < 1 for size in shape):
        raise UsageError(f"--shape gives input '{name}' the shape {shape}; sizes are positive")
    if declared is None:
        return
    fits = len(shape) == len(declared) and all(
        not isinstance(dimension, int) or dimension == size for dimension, size in zip(declared, shape, strict=True)
    )
    if not fits:
        raise UsageError(f"--shape gives input '{name}' the shape {shape}; the model declares {_text(declared)}")


def _fix(name: str, dimensions: list[Dimension] | None, known: dict[str, int], notes: list[str]) -> tuple[int, ...]:
    if dimensions is None:
        raise InvalidModelError(f"input '{name}' has no shape in the model: give it with --shape {name}=...")
    shape: list[int] = []
    for index, dimension in enumerate(dimensions):
        if isinstance(dimension, int):
            shape.append(dimension)
        elif dimension is not None and dimension in known:
            shape.append(known[dimension])
        elif index == 0:
            shape.append(1)
            notes.append(f"batch dimension '{dimension or '?'}' of input '{name}' fixed to 1")
            known.update({dimension: 1} if dimension else {})
        else:
            raise InvalidModelError(
                f"dimension {index} ('{dimension or '?'}') of input '{name}' {_text(dimensions)} is unknown:"
                f" give the whole shape with --shape {name}=..."
            )
    return tuple(shape)


def _text(dimensions: list[Dimension]) -> str:
    return "[" + ", ".join("?" if dimension is None else str(dimension) for dimension in dimensions) + "]"
