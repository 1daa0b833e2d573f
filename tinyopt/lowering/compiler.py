"""The one door to TVM's compiler: a TensorIR PrimFunc in, a plain C function or an object file out.

TVM's own ABI (packed functions and a runtime behind them) is left out: the functions take raw pointers and int32
scalars, call nothing of TVM, and allocate nothing. Only the worker process imports this module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.target import Target

from tinyopt.errors import TinyoptError
from tinyopt.targets.kernels.tir import with_float_literals

_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w*")
_VARIABLE = re.compile(r"^ *(?:float|double|u?int\d+_t|bool) (?P<name>\w+)(?: = [^;]*|\[\d+\]);\n", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:TVM_DLL )?(?P<result>\w+) (?P<name>\w+)\((?P<parameters>[^()]*)\) \{$", re.MULTILINE)


def lower_to_c(function: Any, symbol: str, written: Sequence[bool], may_alias: bool) -> str:
    """The C text of `function` as one `static` definition.

    written: for each pointer or scalar parameter whether the kernel writes through it; the others become `const`.
    may_alias: an output may lie in an input's place, so that `restrict` would be a lie.
    """
    target = {"kind": "c"}
    module = _bare_module(function, symbol, target)
    source = str(tvm.get_global_func("target.build.c")(module, Target(target)).inspect_source("c"))
    return with_float_literals(_static_definition(_without_unused_variables(source), symbol, written, may_alias))


def lower_to_object(function: Any, symbol: str, target: Mapping[str, Any], may_alias: bool, path: Path) -> None:
    """Write `function` as an object file with the global symbol `symbol`, for an LLVM target."""
    lower_to_one_object([(function, symbol, may_alias)], target, path)


def lower_to_one_object(functions: Sequence[tuple[Any, str, bool]], target: Mapping[str, Any], path: Path) -> None:
    """Write several functions, each with its symbol and whether arguments may overlap, as one object file."""
    lowered: dict[Any, Any] = {}
    for function, symbol, may_alias in functions:
        one = function.without_attr("tirx.noalias") if may_alias else function
        lowered.update(_bare_module(one, symbol, dict(target)).functions.items())
    module = tvm.IRModule(lowered)
    built = tvm.get_global_func("target.build.llvm")(module, Target(dict(target)))
    built.write_to_file(str(path), "o")


def _bare_module(function: Any, symbol: str, target: dict[str, Any]) -> Any:
    """Lower to loops and scalar arithmetic, then turn buffer parameters into raw pointers."""
    module = tvm.IRModule({symbol: function.with_attr("global_symbol", symbol)})
    tvm_target = Target(target)
    with tvm.transform.PassContext(opt_level=3):
        module = tirx.transform.BindTarget(tvm_target.with_host(tvm_target))(module)
        module = _lowering_passes()(module)
    return tvm.IRModule({name: _raw_pointers(body) for name, body in module.functions.items()})


def _lowering_passes() -> Any:
    """TVM's lowering of TensorIR without the packed-function ABI.

    CompactBufferAllocation is left out on purpose: it shrinks buffers that are reached through address_of alone.
    """
    loops, scalars = s_tir.transform, tirx.transform
    return tvm.ir.transform.Sequential(
        [
            loops.CanonicalizeLoop(),
            loops.LowerInitBlock(),
            loops.PlanAndUpdateBufferAllocationLocation(),
            loops.ConvertBlocksToOpaque(),
            loops.LowerMatchBuffer(),
            loops.StmtSimplify(),
            loops.AnnotateIrregularLoop(),
            loops.LowerOpaqueBlock(),
            scalars.FlattenBuffer(),
            scalars.NarrowDataType(32),
            loops.LoopPartition(),
            scalars.VectorizeLoop(True),
            scalars.StorageRewrite(),
            loops.HoistIfThenElse(),
            scalars.UnrollLoop(),
            loops.RenormalizeSplitPattern(),
            scalars.StmtSimplify(),
            scalars.RemoveNoOp(),
            loops.RewriteUnsafeSelect(),
            scalars.CommonSubexprElim(),
            scalars.VerifyMemory(),
            scalars.LowerIntrin(),
        ]
    )


def _raw_pointers(function: Any) -> Any:
    """Buffer parameters become typed pointers: neither code generator can print a parameter of buffer type."""
    parameters: list[Any] = []
    declarations: list[Any] = []
    for parameter in function.params:
        if not tirx.is_buffer_var(parameter):
            parameters.append(parameter)
            continue
        pointer_type = tvm.ir.PointerType(tvm.ir.PrimType(str(parameter.ty.dtype)))
        pointer = tvm.ir.Var(parameter.name, pointer_type)
        parameters.append(pointer)
        declarations.append(tirx.DeclBuffer(parameter, data=pointer))
    body = tirx.SeqStmt([*declarations, function.body]) if declarations else function.body
    return tirx.PrimFunc(parameters, body, function.ret_type, attrs=function.attrs)


def _without_unused_variables(text: str) -> str:
    """Drop the names whose values TVM's simplifier has put in their place: a C compiler would warn of them."""
    while True:
        uses = Counter(_IDENTIFIER.findall(text))
        unused = {m["name"] for m in _VARIABLE.finditer(text) if uses[m["name"]] == 1}
        if not unused:
            return text
        text = _VARIABLE.sub(partial(_unless_named, unused), text)


def _unless_named(names: Set[str], declaration: re.Match[str]) -> str:
    return "" if declaration["name"] in names else declaration[0]


def _static_definition(source: str, symbol: str, written: Sequence[bool], may_alias: bool) -> str:
    """Cut the function out of TVM's file: its includes, its export macros and its declarations stay behind."""
    for match in _DEFINITION.finditer(source):
        if match["name"] != symbol:
            continue
        parameters = [text.strip() for text in match["parameters"].split(",")]
        if len(parameters) != len(written):
            raise TinyoptError(f"kernel {symbol} takes {len(parameters)} parameters, its planner passes {len(written)}")
        declared = ", ".join(_parameter(text, out, may_alias) for text, out in zip(parameters, written, strict=True))
        body = source[match.end() :].rstrip()
        used = set(_IDENTIFIER.findall(body))
        names = (text.split()[-1] for text in parameters)
        ignored = "".join(f"\n  (void){name};" for name in names if name not in used)  # the simplifier did without it
        return f"static void {symbol}({declared}) {{{ignored}{body}\n"
    raise TinyoptError(f"TVM's C code generator gave no function {symbol}")


def _parameter(text: str, is_written: bool, may_alias: bool) -> str:
    """`int8_t* x` -> `const int8_t *restrict x`; scalars stay as they are."""
    kind, star, name = text.rpartition("* ")
    if not star:
        return text
    return f"{'' if is_written else 'const '}{kind} *{'' if may_alias else 'restrict '}{name}"
