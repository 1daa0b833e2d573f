"""Whatever computes in the generated library was TensorIR: the templates around it only call, and move nothing."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tvm import tirx

from tests.digits import MODEL, options_for
from tinyopt.api import compile_model
from tinyopt.artifact.c_source import CSource, Names
from tinyopt.lowering.compiler import lower_to_c, lower_to_object
from tinyopt.lowering.program import KernelCall, Program
from tinyopt.lowering.request import request_for

TEMPLATES = Path(__file__).resolve().parents[1] / "tinyopt"
LOOP = re.compile(r"\b(for|while|do|goto)\b")
OPERATOR = re.compile(r"[-+*/%^|]=|\+\+|--|\w\[")


@cache
def compiled(target: str, is_quantized: bool) -> tuple[Program, str]:
    """The program, and the text of its C file."""
    with tempfile.TemporaryDirectory() as folder:
        result = compile_model(MODEL, Path(folder) / "out", options_for(target, is_quantized))
        return result.program, (result.folder / "digits.c").read_text()


def calls_by_key(program: Program) -> list[KernelCall]:
    return list({call.key: call for call in program.calls}.values())


def prim_func(call: KernelCall) -> Any:
    """The TensorIR function of a call, written by a template among the targets' kernels."""
    template = call.kernel.template
    assert template.__module__.startswith("tinyopt.targets.kernels.")
    function = template(call.kernel.spec)
    assert isinstance(function, tirx.PrimFunc)
    return function


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("target", ["c", "cortex-m4"])
def test_every_function_that_computes_is_the_c_text_of_its_template_s_primfunc(target: str, is_quantized: bool) -> None:
    program, text = compiled(target, is_quantized)
    assert program.calls
    rest = text
    names = CSource(program, Names("digits"))
    for call in calls_by_key(program):
        request = request_for(call.kernel, program.target.tvm)
        printed = lower_to_c(prim_func(call), call.symbol, request.written, request.may_alias)
        assert program.functions[call.key].decode() == printed
        named = printed.replace(call.symbol, names.function_name(call))
        assert named in text
        rest = rest.replace(named, "")
    for intrinsic in names.intrinsics():
        assert not LOOP.search(intrinsic.c_text)
        assert intrinsic.c_text.strip() in text
        rest = rest.replace(intrinsic.c_text.strip(), "")
    assert_only_calls(rest)


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
def test_every_kernel_of_a_library_is_the_object_of_its_template_s_primfunc(is_quantized: bool, tmp_path: Path) -> None:
    program, text = compiled("host", is_quantized)
    for call in calls_by_key(program):
        request = request_for(call.kernel, program.target.tvm)
        lower_to_object(prim_func(call), call.symbol, program.target.tvm, request.may_alias, tmp_path / "kernel.o")
        assert (tmp_path / "kernel.o").read_bytes() == program.functions[call.key]
    assert_only_calls(text)


def assert_only_calls(text: str) -> None:
    """No loop, no arithmetic on elements: three functions that hand out addresses and call the kernels."""
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    declarations = ("#", "extern ", "TINYOPT_ALIGNED extern ")
    code = "\n".join(line for line in code.splitlines() if not line.startswith(declarations))
    assert not LOOP.search(code)
    assert not OPERATOR.search(code)
    assert re.findall(r"^\w[\w *]*?(\w+)\([^;]*\{$", code, re.MULTILINE) == [
        "digits_input",
        "digits_output",
        "digits_run",
    ]


def test_no_template_has_a_loop_but_those_of_the_self_test_the_programs_around_a_model_and_threads() -> None:
    templates = sorted(TEMPLATES.glob("*/templates/*.j2"))
    assert len(templates) >= 7
    with_loops: set[str] = set()
    for template in templates:
        comments_and_tags = r"/\*.*?\*/|\{%.*?%\}|^#[^\n]*"
        if LOOP.search(re.sub(comments_and_tags, "", template.read_text(), flags=re.DOTALL | re.MULTILINE)):
            with_loops.add(template.name)
    assert with_loops <= {"test.c.j2", "runner.c.j2", "measure.c.j2", "threads.c.j2"}
