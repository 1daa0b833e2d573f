"""What one compilation gave: the report, the graph after each pass, and a way to run the model from Python."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Value
from tinyopt.loader import Model, load
from tinyopt.lowering.program import Program
from tinyopt.pipeline import PipelineStep, as_real, graph_inputs
from tinyopt.report.html.summary import summary_html, summary_line

PAGE = "report.html"


@dataclass(frozen=True, eq=False, repr=False)
class CompileResult:
    """What one compilation gave.

    folder: what was written, see "What you get" in the README. original: the model as it was imported. program: the
    kernels, in the order that they run in. steps: what each pass did. report: what report.json holds, see
    docs/report-schema.md. In a notebook the result draws itself: the figures, the passes, and the whole report.
    """

    folder: Path
    original: Graph
    program: Program
    steps: tuple[PipelineStep, ...]
    report: dict[str, Any]
    temporary: tempfile.TemporaryDirectory[str] | None = None  # holds `folder`, and goes with this

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graph as it was imported, "import", and as each pass left it, by the pass's name and in running order."""
        return {"import": self.original} | {step.record.pass_name: step.record.graph for step in self.steps}

    def run(self, *arrays: ArrayLike, **named: ArrayLike) -> Array | tuple[Array, ...]:
        """Run the compiled model on one sample: inputs in the model's order, or by name; the output, or all as a tuple.

        Each input has the shape that it had in the ONNX model, or that without a leading 1. Real numbers go in and come
        out: what the compiled model takes and gives as int8 is converted here (an array of its own type goes in as it
        is). A library for this machine is called; for other targets the numpy reference computes the same bits.
        Raises UsageError where an input is missing, unknown, or of another shape.
        """
        sample = self._sample(arrays, named)
        fed = graph_inputs(self.program.graph, sample)
        found = evaluate(self.program.graph, fed) if self._library is None else self._library.run(fed)
        outputs = tuple(as_real(found[value.name], value) for value in self.program.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _sample(self, arrays: tuple[ArrayLike, ...], named: Mapping[str, ArrayLike]) -> dict[str, Array]:
        inputs = self.original.inputs
        takes = "the model takes " + ", ".join(f"'{value.name}' {value.dtype}{list(value.shape)}" for value in inputs)
        placed = {value.name: array for value, array in zip(inputs, arrays, strict=False)}
        given: dict[str, ArrayLike] = {**placed, **named}
        is_once = len(arrays) <= len(inputs) and not placed.keys() & named.keys()
        if not is_once or given.keys() != {value.name for value in inputs}:
            raise UsageError(f"each input once, by place or by name: {takes}")
        return {value.name: _shaped(given[value.name], value, takes) for value in inputs}

    @cached_property
    def _library(self) -> Model | None:
        """The library for this machine; None for other machines."""
        target = self.program.target
        is_here = target.code == "object" and target.emulator.kind == "native"
        return load(self.folder) if is_here else None

    def __repr__(self) -> str:
        return f"<CompileResult {summary_line(self.report)}, in {self.folder}>"

    def _repr_html_(self) -> str:
        """For notebooks: the figures and the passes as tables, and the report below. Names from the model are text."""
        page = self.folder / PAGE
        return summary_html(self.report, page.read_text(encoding="utf-8") if page.is_file() else None)


def _shaped(given: ArrayLike, value: Value, takes: str) -> Array:
    array = np.asarray(given)
    is_short = value.shape[:1] == (1,) and array.shape == value.shape[1:]
    if array.shape != value.shape and not is_short:
        raise UsageError(f"input '{value.name}' was given as {array.dtype}{list(array.shape)}: {takes}")
    return array.reshape(value.shape)
