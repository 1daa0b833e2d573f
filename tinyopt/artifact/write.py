"""Write a program as C sources, or as libraries, with a self-test and a CMake file."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyopt.artifact.c_source import (
    C_TYPES,
    Boundary,
    CSource,
    Names,
    environment,
    fnv1a,
)
from tinyopt.artifact.literals import MOST_DECIMAL_FLOATS, array_literal, float_literal, literal_parts
from tinyopt.artifact.names import c_comment
from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.ir import Array, Value
from tinyopt.lowering.program import ARENA_ALIGNMENT, FlashConstant, KernelCall, Program
from tinyopt.toolchain import Compiler

FLOAT_OF_RANGE = 1e-4  # how far the self-test lets an element move, as a share of the tensor's largest one
FLOAT16_OF_RANGE = 2e-2  # the same where the model computes in float16
OBJECT_FLAGS = ("-std=c99", "-O2", "-fPIC", "-fvisibility=default", "-ffp-contract=off")


def write_sources(
    program: Program,
    names: Names,
    folder: Path,
    version: str,
    sample: Mapping[str, Array],
    expected: Mapping[Value, Array],
) -> None:
    """Write the C files (or, for object targets, the glue, the weights and the kernels) of `program` into `folder`.

    sample: the self-test's input arrays by name. expected: the reference's array for every value of the final graph.
    """
    write_code(program, names, folder, version)
    source = CSource(program, names)
    common = _common_values(source, version)
    test = _render("test.c.j2", common | _test_values(source, sample, expected))
    (folder / f"{names.prefix}_test.c").write_text(test, encoding="ascii")
    (folder / "CMakeLists.txt").write_text(_render("CMakeLists.txt.j2", common), encoding="ascii")


def write_code(program: Program, names: Names, folder: Path, version: str) -> None:
    """Write what the library is compiled from: the header, the C file and, but for object targets, the weights."""
    source = CSource(program, names)
    common = _common_values(source, version)
    for name, text in _code_files(source, common).items():
        (folder / name).write_text(text, encoding="ascii")
    if program.target.code == "c":  # piece by piece: the text takes several times the room of the weights
        pieces = environment().get_template("weights.c.j2").stream(common | _weight_values(source))
        pieces.dump(str(folder / f"{names.prefix}_weights.c"), encoding="ascii")


def _code_files(source: CSource, common: Mapping[str, Any]) -> dict[str, str]:
    """The header and the C file that the library's code consists of."""
    prefix = source.names.prefix
    return {
        f"{prefix}.h": _render("model.h.j2", {**common, **_header_values(source)}),
        f"{prefix}.c": _render("model.c.j2", {**common, **_code_values(source)}),
    }


def write_libraries(program: Program, names: Names, folder: Path, version: str, compiler: Compiler) -> None:
    """Compile what `write_code` wrote for an object target into `lib<name>.a` and `lib<name>.so`."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-link-") as text_folder:
        work = Path(text_folder)
        glue, weights = work / f"{names.prefix}.o", work / f"{names.prefix}_weights.o"
        compiler.run(*OBJECT_FLAGS, "-c", f"{names.prefix}.c", "-o", glue, folder=folder)
        _assemble_weights(CSource(program, names), version, work, compiler, weights)
        objects = [glue, weights, *_link_kernels(program, compiler, work)]
        compiler.archive(folder / f"lib{names.prefix}.a", objects)
        exports = work / "exports.map"
        functions = ("input", "output", "run", *(("variant",) if len(program.variants) > 1 else ()))
        exported = " ".join(f"{names.prefix}_{function};" for function in functions)
        exports.write_text(f"{{ global: {exported} local: *; }};\n")
        compiler.link(
            "-shared",
            "-Wl,--build-id=none",
            "-Wl,-S",
            "-Wl,--gc-sections",
            f"-Wl,-soname,lib{names.prefix}.so",
            f"-Wl,--version-script={exports}",
            *objects,
            "-lm",
            *(("-lpthread",) if program.threads > 1 else ()),
            "-o",
            folder / f"lib{names.prefix}.so",
        )


def write_weights_and_kernels(program: Program, names: Names, folder: Path, version: str, compiler: Compiler) -> None:
    """Write `lib<name>.a` without the code of `<name>.c`, for programs that include that file."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-link-") as text_folder:
        work = Path(text_folder)
        objects = [work / f"{names.prefix}_weights.o"]
        _assemble_weights(CSource(program, names), version, work, compiler, objects[0])
        compiler.archive(folder / f"lib{names.prefix}.a", [*objects, *_kernel_objects(program, work)])


def _kernel_objects(program: Program, work: Path) -> list[Path]:
    objects: list[Path] = []
    for key, code in sorted(program.functions.items()):
        objects.append(work / f"{key}.o")
        objects[-1].write_bytes(code)
    return objects


def _link_kernels(program: Program, compiler: Compiler, work: Path) -> list[Path]:
    """One object, without TVM's debug names and the float16 conversions that it puts next to each kernel; or none."""
    if not program.functions:
        return []
    parts = _kernel_objects(program, work)
    used = sorted({f"-Wl,-u,{call.symbol}" for call in program.all_calls})
    compiler.link("-r", "-nostdlib", "-Wl,-S", "-Wl,--gc-sections", *used, *parts, "-o", work / "kernels.o")
    return [work / "kernels.o"]


def _assemble_weights(source: CSource, version: str, work: Path, compiler: Compiler, output: Path) -> None:
    """All constants as one object; through .incbin, because megabytes of C initializers take a compiler minutes."""
    prefix = source.names.prefix
    entries: list[dict[str, Any]] = []
    with (work / f"{prefix}_weights.bin").open("wb") as file:
        for constant in source.program.constants:
            entry = {"name": source.constant_name(constant), "offset": file.tell()}
            size = file.write(np.ascontiguousarray(_never_empty(constant.array)).reshape(-1).view(np.uint8).data)
            entries.append(entry | {"bytes": size})
    values = _common_values(source, version) | {"constants": entries}
    (work / f"{prefix}_weights.S").write_text(_render("weights.S.j2", values), encoding="ascii")
    compiler.run("-c", f"{prefix}_weights.S", "-o", output, folder=work)


def _render(template: str, values: Mapping[str, Any]) -> str:
    return environment().get_template(template).render(values)


def _common_values(source: CSource, version: str) -> dict[str, Any]:
    program = source.program
    return {
        "p": source.names.prefix,
        "U": source.names.upper,
        "comment": c_comment(f"Model {program.graph.name}."),
        "version": version,
        "target": program.target.name,
        "code": program.target.code,
        "weights_suffix": ".c" if program.target.code == "c" else " (in the library)",
        "arena_bytes": max(program.arena_bytes, 1),
        "arena_align": ARENA_ALIGNMENT,
        "regions": source.regions(),
        "variants": source.variants(),
        "threads": program.threads,
        "features": sorted(variant.feature for variant in program.variants),
        # kernels in C text load words at most; those in object files vectors
        "constant_align": 4 if program.target.code == "c" else ARENA_ALIGNMENT,
    }


def _header_values(source: CSource) -> dict[str, Any]:
    return {"inputs": source.inputs(), "outputs": source.outputs()}


def _code_values(source: CSource) -> dict[str, Any]:
    return {
        "inputs": source.inputs(),
        "outputs": source.outputs(),
        "required_macro": source.program.target.required_macro,
        "target_flags": " ".join(source.program.target.toolchain.flags),
        "gcc_options": ", ".join(f'"{option}"' for option in source.program.target.gcc_options),
        "headers": source.headers(),
        "constants": [_constant(source, constant) for constant in source.program.constants],
        "intrinsics": source.intrinsics(),
        "functions": source.functions(),
    }


def _weight_values(source: CSource) -> dict[str, Any]:
    constants = source.program.constants
    floats = [constant.array for constant in constants if constant.array.dtype.name in ("float32", "float64")]
    is_hexadecimal = sum(array.size for array in floats) > MOST_DECIMAL_FLOATS
    return {
        "constants": [
            _constant(source, constant) | {"parts": literal_parts(_never_empty(constant.array), is_hexadecimal)}
            for constant in constants
        ],
        "uses_math_macros": not all(np.isfinite(array).all() for array in floats),
    }


def _constant(source: CSource, constant: FlashConstant) -> dict[str, Any]:
    c_type = C_TYPES[constant.array.dtype.name]
    return {"name": source.constant_name(constant), "type": c_type, "size": max(constant.array.size, 1)}


def _never_empty(array: Array) -> Array:
    return array if array.size else np.zeros(1, array.dtype)  # C has no arrays of length 0


def _test_values(source: CSource, sample: Mapping[str, Array], expected: Mapping[Value, Array]) -> dict[str, Any]:
    graph = source.program.graph
    is_half = any(value.dtype == "float16" for node in graph.nodes for value in node.outputs)
    share = FLOAT16_OF_RANGE if is_half else FLOAT_OF_RANGE
    outputs = [_golden(b, expected[value], share) for b, value in zip(source.outputs(), graph.outputs, strict=True)]
    return {
        "inputs": [
            _golden(b, sample[value.name], share) for b, value in zip(source.inputs(), graph.inputs, strict=True)
        ],
        "outputs": outputs,
        "layers": [_layer_hash(call, expected) for call in source.program.calls],
        "has_float_outputs": any(output["c_type"] == "float" for output in outputs),
    }


def _golden(boundary: Boundary, array: Array, share: float) -> dict[str, Any]:
    return {
        "index": boundary.index,
        "c_type": boundary.c_type,
        "elements": max(boundary.elements, 1),
        "literal": array_literal(_never_empty(array)),
        "tolerance": float_literal(share * _largest(array)),
    }


def _largest(array: Array) -> float:
    """The largest magnitude among the finite elements."""
    real = np.abs(array.astype(np.float64))
    return float(np.max(real[np.isfinite(real)], initial=0.0))


def _layer_hash(call: KernelCall, expected: Mapping[Value, Array]) -> dict[str, Any]:
    """What the self-test compares after one layer; floats move by rounding from compiler to compiler: not hashed."""
    value, slot = call.node.outputs[0], call.outputs[0]
    is_exact = value.dtype not in ("float16", "float32", "float64")
    data = np.ascontiguousarray(expected[value]).tobytes() if is_exact else b""
    name = json.dumps(c_comment(call.node.name))[1:-1]
    return {"name": name, "region": slot.region, "offset": slot.offset, "bytes": len(data), "hash": fnv1a(data)}


def measure_code(
    program: Program, names: Names, folder: Path, compiler: Compiler, cache_dir: Path | None
) -> int | None:
    """Bytes of code and its own tables, compiled from `folder` as a user would with -O3; None without a size tool.

    Kept by content: an optimizing compiler takes longer than the rest of a compilation whose kernels are cached.
    """
    if not compiler.size:
        return None
    source = folder / f"{names.prefix}.c"
    digest = hashlib.sha256(" ".join(compiler.command).encode() + compiler.run("--version").encode())
    digest.update(b"linked kernels" if program.target.code == "object" else b"")
    for content in (source.read_bytes(), *(code for _, code in sorted(program.functions.items()))):
        digest.update(content)
    kept = read_cached(cache_dir, "code-sizes", digest.hexdigest())
    if kept is not None and kept.isdigit():  # and not damaged
        return int(kept)
    size = _compile_and_measure(program, source, compiler)
    write_cached(cache_dir, "code-sizes", digest.hexdigest(), str(size).encode())
    return size


def code_bytes(program: Program, compiler: Compiler, cache_dir: Path | None) -> int | None:
    """What `measure_code` gives, of a program that is not written anywhere."""
    source = CSource(program, Names("model"))
    with tempfile.TemporaryDirectory(prefix="tinyopt-code-") as text_folder:
        folder = Path(text_folder)
        for name, text in _code_files(source, _common_values(source, "")).items():
            (folder / name).write_text(text, encoding="ascii")
        return measure_code(program, source.names, folder, compiler, cache_dir)


def _compile_and_measure(program: Program, source: Path, compiler: Compiler) -> int:
    with tempfile.TemporaryDirectory(prefix="tinyopt-size-") as text_folder:
        objects = [Path(text_folder) / f"{source.stem}.o"]
        compiler.run("-std=c99", "-O3", "-c", source.name, "-o", objects[0], folder=source.parent)
        if program.target.code == "object":
            objects += _link_kernels(program, compiler, Path(text_folder))
        return sum(compiler.flash_bytes(path) for path in objects)
