"""Which test cases there are, which of them count, and in what category.

A case counts where all its operators are in `SCOPE`. Categories:
- sequence: recurrent networks and normalizations, whatever their types (by the name of the test);
- float32: everything that goes in and comes out is float32;
- integer: the rest of what is made of float32, integers and bools;
- other types: anything with float16, float64, bfloat16, float8, 4 bits, strings, sequences or optional values.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.numpy_helper import to_array

from tinyopt.ir import Array
from tinyopt.onnx_import.rules import RULES

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
CATEGORIES = ("float32", "integer", "sequence", "other types")

_REQUIRED = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvInteger
    ConvTranspose CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Equal Erf Exp Expand
    Flatten GRU Gather GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul MatMulInteger Max MaxPool Min Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RNN Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape
    Resize ScatterElements Shape Sigmoid Size Slice Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh Tile TopK
    Transpose Unsqueeze Upsample Where Xor
""".split()
SCOPE = frozenset(_REQUIRED) | {op for domain, op in RULES if domain == ""}
"""What must be supported, and what is."""

_SEQUENCE = re.compile(
    r"^test_(simple_)?(lstm|gru|rnn|batchnorm|instancenorm|(layer|group|rms)_normalization|BatchNorm|InstanceNorm|LayerNorm)"
)
_PLAIN_TYPES = {
    onnx.TensorProto.DataType.Value(name)
    for name in "FLOAT BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
}


@dataclass(frozen=True, eq=False)
class BackendCase:
    """One test: a model, and sets of (inputs, expected outputs). category: None where it does not count."""

    name: str
    category: str | None
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float

    @property
    def operators(self) -> list[str]:
        return sorted({node.op_type for node in self.model.graph.node})

    def inputs(self, number: int) -> dict[str, Any]:
        """The inputs of one set by name."""
        stored = {tensor.name for tensor in self.model.graph.initializer}
        names = [value.name for value in self.model.graph.input]
        given = self.data[number][0]
        if len(given) < len(names):
            names = [name for name in names if name not in stored]
        return {name: _as_array(item) for name, item in zip(names, given, strict=False)}

    def outputs(self, number: int) -> list[Any]:
        """The expected outputs of one set."""
        return [_as_array(item) for item in self.data[number][1]]


def load_cases() -> list[BackendCase]:
    """All cases of `KINDS` in the order of their names, each once."""
    found: dict[str, BackendCase] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                model, data = _content(case)
                backend_case = BackendCase(case.name, _category(case.name, model), model, data, case.rtol, case.atol)
                found.setdefault(case.name, backend_case)
    return [found[name] for name in sorted(found)]


def _content(case: Any) -> tuple[onnx.ModelProto, Sequence[tuple[Sequence[Any], Sequence[Any]]]]:
    """The model and its data, from files where the case holds none."""
    if case.model is not None:
        return case.model, case.data_sets
    folder = Path(case.model_dir)
    return onnx.load(folder / "model.onnx"), list(_stored_sets(folder))


def _as_array(item: Any) -> Any:
    """An array of a tensor in ONNX's own form; anything else as it is."""
    return to_array(item) if isinstance(item, onnx.TensorProto) else item


def _stored_sets(folder: Path) -> Iterator[tuple[list[Array], list[Array]]]:
    for place in sorted(folder.glob("test_data_set_*")):
        yield _tensors(place, "input"), _tensors(place, "output")


def _tensors(folder: Path, kind: str) -> list[Array]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [
        to_array(onnx.TensorProto.FromString((folder / f"{kind}_{index}.pb").read_bytes())) for index in range(count)
    ]


def _category(name: str, model: onnx.ModelProto) -> str | None:
    if any(node.op_type not in SCOPE or node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return None
    types = _element_types(model)
    if not types <= _PLAIN_TYPES:
        return "other types"
    if _SEQUENCE.match(name):
        return "sequence"
    return "float32" if types == {onnx.TensorProto.FLOAT} else "integer"


def _element_types(model: onnx.ModelProto) -> set[int]:
    """Of everything that goes in or comes out; 0 for what is no tensor."""
    return {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}


def bound(case: BackendCase, names: Mapping[str, Array]) -> onnx.ModelProto:
    """The case's model with some inputs as constants."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    stored = {tensor.name for tensor in model.graph.initializer}
    for name, array in names.items():
        if name not in stored:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for value in list(model.graph.input):
        if value.name in names:
            model.graph.input.remove(value)
    return model
