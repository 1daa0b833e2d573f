"""How operators that move, select or reduce elements are written in ONNX, where parameters are inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tinyopt.ir import DTYPES, Node
from tinyopt.onnx_export.emitter import Emitter, ExportRule

_BEFORE_THE_FIRST = -(2**63) + 1  # the end of a backward slice that takes element 0: -1 would mean the last element


def _reshape(node: Node, emit: Emitter) -> None:
    shape = emit.ints(node.ints("shape"), f"{node.name}/shape")
    emit.bind(emit("Reshape", emit.value(node.input(0)), shape, name=node.name), node.output)


def _expand(node: Node, emit: Emitter) -> None:
    shape = emit.ints(node.ints("shape"), f"{node.name}/shape")
    emit.bind(emit("Expand", emit.value(node.input(0)), shape, name=node.name), node.output)


def _split(node: Node, emit: Emitter) -> None:
    sizes = emit.ints(node.ints("sizes"), f"{node.name}/sizes")
    count = len(node.outputs)
    parts = emit.many("Split", emit.value(node.input(0)), sizes, name=node.name, outputs=count, axis=node.int("axis"))
    for part, output in zip(parts, node.outputs, strict=True):
        emit.bind(part, output)


def _slice(node: Node, emit: Emitter) -> None:
    starts, steps, sizes = node.ints("starts"), node.ints("steps"), node.ints("sizes")
    ends = [start + size * step for start, step, size in zip(starts, steps, sizes, strict=True)]
    parameters = (
        emit.ints(starts, f"{node.name}/starts"),
        emit.ints([end if end >= 0 else _BEFORE_THE_FIRST for end in ends], f"{node.name}/ends"),
        emit.ints(range(len(starts)), f"{node.name}/axes"),
        emit.ints(steps, f"{node.name}/steps"),
    )
    emit.bind(emit("Slice", emit.value(node.input(0)), *parameters, name=node.name), node.output)


def _pad(node: Node, emit: Emitter) -> None:
    x, mode = node.input(0), node.str("mode")
    tensor, dtype = emit.as_runnable(emit.value(x), x.dtype)
    inputs = [tensor, emit.ints(node.ints("pads"), f"{node.name}/pads")]
    if mode == "constant":
        inputs.append(emit.array(np.array(node.float("value"), DTYPES[dtype]), f"{node.name}/value"))
    emit.bind(emit.as_stored(emit("Pad", *inputs, name=node.name, mode=mode), x.dtype), node.output)


def _resize(node: Node, emit: Emitter) -> None:
    """ONNX takes scales or sizes: scales where they give just these sizes, however the product is rounded."""
    x, sizes, scales = node.input(0), node.ints("sizes"), node.attributes["scales"]
    assert isinstance(scales, tuple)
    singles = np.array(scales, np.float32)
    inputs: tuple[str, ...]
    exact = [math.floor(size * float(scale)) for size, scale in zip(x.shape, singles, strict=True)]
    rounded = [math.floor(np.float32(size) * scale) for size, scale in zip(x.shape, singles, strict=True)]
    if exact == rounded == list(sizes):
        inputs = ("", emit.array(singles, f"{node.name}/scales"))
    else:
        inputs = ("", "", emit.ints(sizes, f"{node.name}/sizes"))
    result = emit(
        "Resize",
        emit.as_runnable(emit.value(x), x.dtype)[0],
        *inputs,
        name=node.name,
        mode=node.str("mode"),
        coordinate_transformation_mode=node.str("coordinate_mode"),
        nearest_mode=node.str("nearest_mode"),
    )
    emit.bind(emit.as_stored(result, x.dtype), node.output)


def _reduce(node: Node, emit: Emitter) -> None:
    axes, x = emit.ints(node.ints("axes"), f"{node.name}/axes"), node.input(0)
    tensor, _ = emit.as_runnable(emit.value(x), x.dtype)
    result = emit(node.op, tensor, axes, name=node.name, **reduction(node))
    emit.bind(emit.as_stored(result, x.dtype), node.output)


def reduction(node: Node) -> dict[str, int]:
    """The attributes of a reduction: no axes means that nothing is reduced."""
    return {"keepdims": node.int("keepdims"), "noop_with_empty_axes": 1}


def _arg(node: Node, emit: Emitter) -> None:
    attributes = {"axis": node.int("axis"), "keepdims": node.int("keepdims")}
    result = emit(
        node.op,
        emit.as_runnable(emit.value(node.input(0)), node.input(0).dtype)[0],
        name=node.name,
        select_last_index=node.int("select_last"),
        **attributes,
    )
    emit.bind(result, node.output)


def _top_k(node: Node, emit: Emitter) -> None:
    values, places = emit.many(
        "TopK",
        emit.value(node.input(0)),
        emit.ints([node.int("k")], f"{node.name}/k"),
        name=node.name,
        outputs=2,
        axis=node.int("axis"),
        largest=node.int("largest"),
    )
    emit.bind(values, node.outputs[0])
    emit.bind(places, node.outputs[1])


def _cumulative(node: Node, emit: Emitter) -> None:
    axis = emit.array(np.array(node.int("axis"), np.int64), f"{node.name}/axis")
    attributes = {"exclusive": node.int("exclusive"), "reverse": node.int("reverse")}
    emit.bind(emit(node.op, emit.value(node.input(0)), axis, name=node.name, **attributes), node.output)


MOVEMENT_RULES: Mapping[str, ExportRule] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSumSquare": _reduce,
    "ReduceL1": _reduce,
    "ReduceL2": _reduce,
    "ReduceLogSum": _reduce,
    "ReduceLogSumExp": _reduce,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "TopK": _top_k,
    "CumSum": _cumulative,
    "CumProd": _cumulative,
}
