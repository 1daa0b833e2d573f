"""What the user gets: C that every compiler takes, a self-test that finds a wrong byte, the same bytes every time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.digits import CALIBRATION, MODEL, compiled_digits, options_for
from tests.onnx_models import model_of, node
from tinyopt.api import compile_model
from tinyopt.artifact.names import c_identifier
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import ToolchainError, UsageError
from tinyopt.graph_file import load_graph
from tinyopt.options import CompileOptions

STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
M4 = ("-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
NEWLIB = "/usr/lib/arm-none-eabi/include"
FORBIDDEN = re.compile(r"malloc|calloc|realloc|\bfree\b|TVM|tvm|_Z")


def run(command: Sequence[str | Path], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)


def must(command: Sequence[str | Path], folder: Path | None = None) -> str:
    done = run(command, folder)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH")


def self_test(out: Path, folder: Path, prefix: str = "digits") -> subprocess.CompletedProcess[str]:
    """Compile and run the self-test of a folder of C sources."""
    program = folder / "self_test"
    must(["gcc", *STRICT, out / f"{prefix}_test.c", out / f"{prefix}_weights.c", "-o", program, "-lm"])
    return run([program])


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize(
    ("target", "compiler"),
    [
        ("c", ("gcc",)),
        ("c", ("clang",)),
        ("cortex-m4", ("arm-none-eabi-gcc", *M4)),
        ("cortex-m4", ("clang", "--target=arm-none-eabi", "-isystem", NEWLIB, *M4)),
    ],
    ids=["c-gcc", "c-clang", "m4-gcc", "m4-clang"],
)
def test_the_c_sources_compile_without_a_warning(
    target: str, compiler: tuple[str, ...], is_quantized: bool, tmp_path: Path
) -> None:
    need(compiler[0])
    out = compiled_digits(target, is_quantized)
    for source in ("digits.c", "digits_weights.c", "digits_test.c"):
        must([*compiler, *STRICT, "-c", out / source, "-o", tmp_path / "object.o"])


def test_sources_for_one_core_tell_the_compiler_of_another_what_it_takes(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc")
    source = compiled_digits("cortex-m4") / "digits.c"
    done = run(["arm-none-eabi-gcc", "-mthumb", "-mcpu=cortex-m3", "-c", source, "-o", tmp_path / "object.o"])
    assert done.returncode != 0
    assert f"made for cortex-m4: compile it with {' '.join(M4)}" in done.stderr


def test_the_header_stands_alone(tmp_path: Path) -> None:
    main = tmp_path / "main.c"
    main.write_text('#include "digits.h"\nint8_t samples[DIGITS_INPUT_0_BYTES];\n')
    must(["gcc", *STRICT, f"-I{compiled_digits('c')}", "-c", main, "-o", tmp_path / "object.o"])


def test_float_kernels_include_what_their_literals_need(tmp_path: Path) -> None:
    nodes = [node("MaxPool", "x", "m", kernel_shape=[2, 2]), node("Clip", "m - h")]
    model = model_of(nodes, {"x": (1, 2, 3, 3)}, {"h": np.array(-0.3, np.float32)})
    onnx.save(model, tmp_path / "tiny.onnx")
    compile_model(tmp_path / "tiny.onnx", tmp_path / "out", CompileOptions(target="c", cache_dir=default_cache_dir()))
    assert self_test(tmp_path / "out", tmp_path, "tiny").returncode == 0


def test_a_firmware_links_neither_an_allocator_nor_a_runtime(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "arm-none-eabi-nm")
    main = tmp_path / "main.c"
    main.write_text(
        '#include "digits.h"\n'
        "static unsigned char arena[DIGITS_ARENA_BYTES] __attribute__((aligned(DIGITS_ARENA_ALIGN)));\n"
        "int main(void) {\n"
        "  digits_input(arena, 0);\n"
        "  return digits_run(arena) + *(const char *)digits_output(arena, 0);\n}\n"
    )
    out, program = compiled_digits("cortex-m4"), tmp_path / "firmware.elf"
    link = ("-nostartfiles", "-Wl,-e,main", "-Wl,--gc-sections", "--specs=nosys.specs")
    sources = (main, out / "digits.c", out / "digits_weights.c")
    must(["arm-none-eabi-gcc", *M4, "-O2", f"-I{out}", *sources, *link, "-o", program])
    symbols = must(["arm-none-eabi-nm", program])
    assert "digits_run" in symbols
    assert not FORBIDDEN.findall(symbols)


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("target", ["host", "arm"])
def test_a_library_needs_nothing_but_the_c_and_mathematics_libraries(target: str, is_quantized: bool) -> None:
    prefix = "aarch64-linux-gnu-" if target == "arm" else ""
    need(f"{prefix}gcc", f"{prefix}nm")
    archive = compiled_digits(target, is_quantized) / "libdigits.a"
    lines = [line.split() for line in must([f"{prefix}nm", archive]).splitlines()]
    defined = {line[2] for line in lines if len(line) == 3}
    wanted = {line[1] for line in lines if line[:1] == ["U"]} - defined
    allowed = {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "getauxval"}
    assert wanted - allowed <= {"expf", "logf", "tanhf", "erff", "sqrtf", "floorf", "roundf", "rintf", "fmaf", "powf"}


def test_the_shared_library_exports_its_three_functions_alone() -> None:
    listed = must(["nm", "-D", "--defined-only", compiled_digits("host") / "libdigits.so"])
    assert [line.split()[-1] for line in listed.splitlines()] == ["digits_input", "digits_output", "digits_run"]


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
def test_the_self_test_passes_on_this_machine(is_quantized: bool, tmp_path: Path) -> None:
    done = self_test(compiled_digits("c", is_quantized), tmp_path)
    assert (done.returncode, done.stdout) == (0, "PASS\n")


def test_the_self_test_names_the_layer_whose_weight_was_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled_digits("c"), out)
    layer = json.loads((out / "report.json").read_text())["layers"][2]
    change_weight(out, layer["index"])
    done = self_test(out, tmp_path)
    assert (done.returncode, done.stdout) == (1, f"FAIL: layer 2 ({layer['name']}) is the first that differs\n")


def change_weight(out: Path, layer: int) -> None:
    """Change the first byte of the weight of one layer, its first constant, in the C sources."""
    call = (out / "digits.c").read_text().split(f"DIGITS_BEFORE_LAYER({layer})")[1].split(";")[0]
    name = re.findall(r"digits_[a-z]+_\d+", call)[0]
    weights = out / "digits_weights.c"
    definition = re.compile(rf"({name}\[\d+\] = {{)(-?\d+)")
    text, count = definition.subn(lambda m: f"{m[1]}{127 if int(m[2]) < 0 else -127}", weights.read_text())
    assert count == 1
    weights.write_text(text)


@pytest.mark.parametrize("target", ["c", "host"])
def test_the_header_tells_the_truth(target: str) -> None:
    out = compiled_digits(target)
    header = (out / "digits.h").read_text()
    macros = dict(re.findall(r"^#define (DIGITS_\w+) (\S+)", header, re.MULTILINE))
    graph = load_graph(out / "digits.graph.npz")
    report = json.loads((out / "report.json").read_text())
    assert macros["DIGITS_ARENA_BYTES"] == f"{report['after']['arena_bytes']}u"
    assert macros["DIGITS_ARENA_ALIGN"] == "16u"
    assert (macros["DIGITS_INPUTS"], macros["DIGITS_OUTPUTS"]) == ("1u", "1u")
    for kind, value in (("INPUT", graph.inputs[0]), ("OUTPUT", graph.outputs[0])):
        assert macros[f"DIGITS_{kind}_0_SIZE"] == f"{value.type.elements}u"
        assert macros[f"DIGITS_{kind}_0_BYTES"] == f"{value.type.bytes}u"
        if target == "host":
            assert f"DIGITS_{kind}_0_SCALE" not in macros
        else:
            assert value.quantization is not None
            scale = float(macros[f"DIGITS_{kind}_0_SCALE"].removesuffix("f"))
            assert np.float32(scale) == np.float32(value.quantization.scale[0])
            assert macros[f"DIGITS_{kind}_0_ZERO_POINT"] == f"({value.quantization.zero_point[0]})"


def test_misaligned_and_missing_arenas_are_refused_and_unknown_tensors_are_null(tmp_path: Path) -> None:
    main = tmp_path / "main.c"
    main.write_text(
        '#include "digits.h"\n#include <stddef.h>\n'
        "static unsigned char arena[DIGITS_ARENA_BYTES + 32];\n"
        "int main(void) {\n"
        "  if (digits_run(NULL) != DIGITS_ERROR_ARENA) return 1;\n"
        "  if (digits_run(arena + 1) == DIGITS_OK && digits_run(arena + 2) == DIGITS_OK) return 2;\n"
        "  if (digits_input(arena, 1) != NULL || digits_output(arena, 1) != NULL) return 3;\n"
        "  return 0;\n}\n"
    )
    out, program = compiled_digits("c"), tmp_path / "main"
    must(["gcc", *STRICT, f"-I{out}", main, out / "digits.c", out / "digits_weights.c", "-o", program, "-lm"])
    must([program])


@pytest.mark.parametrize("target", ["c", "host"])
def test_cmake_builds_the_library_and_its_test_passes(target: str, tmp_path: Path) -> None:
    need("cmake", "ctest")
    must(["cmake", "-S", compiled_digits(target), "-B", tmp_path, "-DCMAKE_BUILD_TYPE=Release"])
    must(["cmake", "--build", tmp_path])
    assert "100% tests passed, 0 tests failed out of 1" in must(["ctest", "--test-dir", tmp_path])


def test_a_c_plus_plus_program_can_use_the_library_as_part_of_its_own_cmake_build(tmp_path: Path) -> None:
    need("cmake", "g++")
    (tmp_path / "main.cpp").write_text(
        '#include "digits.h"\nalignas(DIGITS_ARENA_ALIGN) static unsigned char arena[DIGITS_ARENA_BYTES];\n'
        "int main() { return digits_run(arena); }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(firmware C CXX)\n"
        f'add_subdirectory("{compiled_digits("c")}" digits)\n'
        "add_executable(firmware main.cpp)\n"
        "target_compile_options(firmware PRIVATE -Wall -Wextra -Werror -pedantic)\n"
        "target_link_libraries(firmware PRIVATE tinyopt::digits)\n"
    )
    must(["cmake", "-S", tmp_path, "-B", tmp_path / "build"])
    must(["cmake", "--build", tmp_path / "build"])
    must([tmp_path / "build" / "firmware"])
    assert not (tmp_path / "build" / "digits" / "digits_test").exists()


EVIL = 'EVIL"; */ #include "x'


def evil_model(path: Path) -> None:
    """A model whose every name tries to get out of comments, strings, lines and formats."""
    names = [f"{EVIL}\n#error EVIL", f"{EVIL} %s%n\\", "EVIL??/é😀??)", "EVIL\\", "EVIL/*", "EVIL`rm`$(rm);"]
    first = onnx.helper.make_node("Gemm", [names[0], "w"], [names[1]], name=names[2], transB=1)
    last = onnx.helper.make_node("Relu", [names[1]], [names[3]], name=names[4])
    model = model_of([node("Relu", "x")], {"x": (1, 8)})
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.node.extend([first, last])
    make = onnx.helper.make_tensor_value_info
    model.graph.input.append(make(names[0], onnx.TensorProto.FLOAT, [1, 8]))
    model.graph.output.append(make(names[3], onnx.TensorProto.FLOAT, [1, 4]))
    weights = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    model.graph.name = names[5] + EVIL
    onnx.save(model, path)


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
@pytest.mark.parametrize("target", ["c", "host"])
def test_names_from_the_model_cannot_become_code(target: str, is_quantized: bool, tmp_path: Path) -> None:
    model, data = tmp_path / f"{EVIL.replace('/', '')}.onnx", tmp_path / "data.npz"
    evil_model(model)
    np.savez(data, x=np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32))
    options = CompileOptions(
        target=target, name=EVIL, calibration=f"{data}:x", is_quantized=is_quantized, cache_dir=default_cache_dir()
    )
    out = compile_model(model, tmp_path / "out", options).folder
    prefix = c_identifier(EVIL)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", prefix)
    for source in [*out.glob("*.c"), *out.glob("*.h")]:
        text = re.sub(r"/\*.*?\*/", "", source.read_text(encoding="ascii"), flags=re.DOTALL)
        code = re.sub(r'"(\\.|[^"\\\n])*"', '""', text)
        assert "EVIL" not in code.replace(prefix.upper(), ""), source.name
        assert "#error" not in code
    cmake = (out / "CMakeLists.txt").read_text(encoding="ascii")
    assert not [line for line in cmake.splitlines() if "EVIL" in line.replace(prefix.upper(), "") and line[0] != "#"]
    sources = [out / f"{prefix}_test.c", out / f"{prefix}_weights.c" if target == "c" else out / f"lib{prefix}.a"]
    must(["gcc", *STRICT, *sources, "-o", tmp_path / "self_test", "-lm"])
    assert must([tmp_path / "self_test"]) == "PASS\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([model.name, "data.npz", "out", "self_test"])


@pytest.mark.parametrize("name", ["math", "test", "m"])
def test_names_that_mean_something_to_compilers_and_cmake_get_out_of_the_way(name: str, tmp_path: Path) -> None:
    need("cmake")
    model = tmp_path / f"{name}.onnx"
    onnx.save(model_of([node("Sigmoid", "x")], {"x": (1, 8)}), model)
    out = compile_model(model, tmp_path / "out", CompileOptions(target="c", cache_dir=default_cache_dir())).folder
    must(["cmake", "-S", out, "-B", tmp_path / "build"])
    must(["cmake", "--build", tmp_path / "build"])
    must(["ctest", "--test-dir", tmp_path / "build"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["c", "cortex-m4", "host"])
def test_two_compilations_give_the_same_bytes_whatever_the_hash_seed(target: str, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        arguments = ["compile", MODEL, "-t", target, "--calib", CALIBRATION, "--calib-samples", "10", "--prune", "0.2"]
        command = [sys.executable, "-m", "tinyopt.cli", *arguments, "--cluster", "16", "--no-cache", "-q", "-o", seed]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([str(word) for word in command], cwd=tmp_path, env=environment, check=True)
    first, second = tree(tmp_path / "1"), tree(tmp_path / "2")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_left_behind_by_a_compiler_that_fails(tmp_path: Path) -> None:
    options = CompileOptions(target="host", is_quantized=False, cc="false", cache_dir=default_cache_dir())
    with pytest.raises(ToolchainError):
        compile_model(MODEL, tmp_path / "a" / "b" / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_compilation_leaves_the_old_output_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled_digits("c"), out)
    before = tree(out)
    with pytest.raises(ToolchainError):
        compile_model(MODEL, out, CompileOptions(target="host", cc="false", cache_dir=default_cache_dir()))
    assert tree(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_old_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled_digits("host"), out)
    compile_model(MODEL, out, options_for("c"))
    assert tree(out) == tree(compiled_digits("c"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def foreign_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")


def foreign_report(folder: Path) -> None:
    folder.mkdir()
    (folder / "report.json").write_text('{"written by": "another program"}')


def plain_file(folder: Path) -> None:
    folder.write_text("a file")


@pytest.mark.parametrize("occupy", [foreign_folder, foreign_report, plain_file])
def test_what_tinyopt_did_not_write_is_never_replaced(occupy: Callable[[Path], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    occupy(out)
    with pytest.raises(UsageError, match="is no output folder of tinyopt"):
        compile_model(MODEL, out, options_for("c"))
    assert len(list(tmp_path.iterdir())) == 1


def test_the_present_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="holds the present folder"):
        compile_model(MODEL, Path(), options_for("c"))


def test_a_file_in_the_place_of_a_parent_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file"):
        compile_model(MODEL, tmp_path / "file" / "out", options_for("c"))


@pytest.mark.parametrize(
    "model",
    [
        model_of([node("Flatten", "x")], {"x": (1, 2, 2)}),
        model_of(
            [node("Relu", "x"), node("Identity", "c", "z")],
            {"x": (1, 4)},
            {"c": np.array([np.inf, -np.inf, -0.0, 1e-45], np.float32)},
            outputs="y z",
        ),
    ],
    ids=["a view alone", "numbers that are none"],
)
def test_the_self_test_of_an_odd_model_compiles_and_passes(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "odd.onnx")
    options = CompileOptions(target="c", cache_dir=default_cache_dir())
    out = compile_model(tmp_path / "odd.onnx", tmp_path / "out", options).folder
    assert self_test(out, tmp_path, "odd").stdout == "PASS\n"


def test_the_self_test_of_tiny_numbers_still_sees_a_wrong_weight(tmp_path: Path) -> None:
    weights = np.full((2, 4), 1e-6, np.float32)
    onnx.save(model_of([node("MatMul", "x w")], {"x": (1, 4)}, {"w": weights.T}), tmp_path / "tiny.onnx")
    options = CompileOptions(target="c", cache_dir=default_cache_dir())
    out = compile_model(tmp_path / "tiny.onnx", tmp_path / "out", options).folder
    source = out / "tiny_weights.c"
    source.write_text(source.read_text().replace("1e-06f", "2e-06f", 1))
    assert self_test(out, tmp_path, "tiny").stdout == "FAIL: an output differs\n"


@pytest.mark.parametrize("target", ["c", "cortex-m4"])
def test_constants_are_declared_with_the_alignment_of_their_definition(target: str) -> None:
    """On x86-64 clang takes an array of 16 bytes or more for 16-byte aligned unless its declaration says less."""
    folder = compiled_digits(target, is_quantized=True)
    declared = re.findall(r"^(.*extern const .*);$", (folder / "digits.c").read_text(), re.MULTILINE)
    again = re.findall(r"^(.*extern const .*);$", (folder / "digits_weights.c").read_text(), re.MULTILINE)
    assert declared
    assert declared == again
    assert all(line.startswith("TINYOPT_ALIGNED ") for line in declared)
