"""Running what was compiled, on this machine and on emulated ones: the bytes are those of the reference."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from tests.digits import CALIBRATION, DATA, MODEL, SAMPLES, compiled_digits, options_for
from tests.graph_builder import GraphBuilder
from tests.onnx_models import model_of, node, random_inputs
from tinyopt.api import compile_model
from tinyopt.cli import main
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import InvalidModelError, ToolchainError
from tinyopt.evaluate import evaluate
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.measure import measure
from tinyopt.execution.profile import profile
from tinyopt.execution.runner import run_built_model
from tinyopt.execution.validate import tolerances, validate
from tinyopt.ir import Quantization
from tinyopt.options import CompileOptions
from tinyopt.samples import load_samples
from tinyopt.targets import all_targets, target_named
from tinyopt.targets.arm import NAMED_CPUS
from tinyopt.toolchain import DEFAULT_COMPILER, CompilerChoice, find_compiler

NAMED = {target.name for target in NAMED_CPUS}  # tests/test_arm_targets.py runs these
EMULATED = [n for n, target in all_targets().items() if target.emulator.kind != "native" and n not in NAMED]
EVERYWHERE = ["c", "host", *(pytest.param(name, marks=pytest.mark.qemu) for name in EMULATED)]


def need_tools(target_name: str) -> None:
    """Skip where this machine lacks the target's compiler or emulator."""
    target = target_named(target_name)
    programs = [*target.toolchain.compilers[:1], *([target.emulator.program] if target.emulator.program else [])]
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH")


@pytest.mark.parametrize("target", EVERYWHERE)
def test_the_quantized_network_gives_the_reference_s_bytes_on_every_target(target: str) -> None:
    need_tools(target)
    built = load_built_model(compiled_digits(target))
    samples = load_samples(SAMPLES, built.graph.inputs, limit=5)
    found = validate(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    assert found.different_bytes == 0
    assert found.output_bytes == 5 * built.graph.outputs[0].type.bytes
    assert found.exact_layers == len(built.layers)
    assert found.onnxruntime_steps <= 1


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55", "cortex-m0plus"])
def test_4_bit_weights_are_looked_up_to_the_reference_s_bytes_and_take_half_the_flash(
    target: str, tmp_path: Path
) -> None:
    need_tools(target)
    options = replace(options_for(target), weight_bits=4, cluster_cost=10.0)
    result = compile_model(MODEL, tmp_path / "out", options)
    decoded = [x["clusters"] for x in result.report["layers"] if x["clusters"] and x["clusters"]["is_decoded"]]
    assert {(x["count"], x["index_bits"]) for x in decoded} == {(15, 4)}
    assert sum(x["bytes"] for x in decoded) < 0.6 * sum(x["int8_bytes"] for x in decoded)
    built = load_built_model(result.folder)
    found = validate(built, load_samples(SAMPLES, built.graph.inputs, limit=5), DEFAULT_COMPILER, default_cache_dir())
    assert found.different_bytes == 0
    assert found.exact_layers == len(built.layers)


@pytest.mark.parametrize(
    "target", ["c", "host", *(pytest.param(name, marks=pytest.mark.qemu) for name in ("arm", "cortex-m4"))]
)
def test_the_float_network_stays_close_to_the_reference(target: str) -> None:
    need_tools(target)
    built = load_built_model(compiled_digits(target, False))
    samples = load_samples(SAMPLES, built.graph.inputs, limit=3)
    found = validate(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    assert found.onnxruntime_error < 1e-5
    assert found.float_layers > 5


@pytest.mark.parametrize("target", ["c", "host"])
def test_running_several_samples_gives_each_its_own_outputs_in_order(target: str) -> None:
    built = load_built_model(compiled_digits(target))
    samples = load_samples(SAMPLES, built.graph.inputs, limit=4)
    ran = run_built_model(built, samples, "run", DEFAULT_COMPILER, default_cache_dir())
    for sample, outputs in zip(samples, ran.outputs, strict=True):
        for name, expected in evaluate(built.graph, sample).items():
            np.testing.assert_array_equal(outputs[name], expected)
    assert len({outputs["probabilities"].tobytes() for outputs in ran.outputs}) == 4


def test_a_sample_of_the_wrong_type_is_refused() -> None:
    built = load_built_model(compiled_digits("c"))
    name = built.graph.inputs[0].name
    with pytest.raises(InvalidModelError, match=r"takes int8\[1, 1, 8, 8\], not float32"):
        run_built_model(
            built, [{name: np.zeros((1, 1, 8, 8), np.float32)}], "run", DEFAULT_COMPILER, default_cache_dir()
        )


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["arm", "cortex-m4"])
def test_the_profile_counts_every_layer_the_same_each_time(target: str, tmp_path: Path) -> None:
    need_tools(target)
    folder = tmp_path / "out"  # the command writes its counts into it
    shutil.copytree(compiled_digits(target), folder)
    built = load_built_model(folder)
    sample = load_samples(SAMPLES, built.graph.inputs, limit=1)[0]
    counted = profile(built, sample, DEFAULT_COMPILER, default_cache_dir())
    layers = counted.layers
    assert [layer.name for layer in layers] == [layer["name"] for layer in built.layers]
    assert all(layer.instructions > 0 for layer in layers)
    assert sum(layer.macs for layer in layers) == json.loads((folder / "report.json").read_text())["after"]["macs"]
    assert profile(built, sample, DEFAULT_COMPILER, default_cache_dir()) == counted
    done = CliRunner().invoke(main, ["profile", str(folder), "--data", SAMPLES])
    assert done.exit_code == 0
    total = re.search(r"^ +all +[\d,]+ +([\d,]+)", done.stdout, re.MULTILINE)
    assert total is not None
    assert int(total[1].replace(",", "")) == sum(layer.instructions for layer in layers)


@pytest.mark.parametrize(("target", "source"), [("c", "the compiled library"), ("cortex-m4", "the numpy reference")])
def test_evaluation_tells_the_accuracy_before_and_after_and_who_computed_it(
    target: str, source: str, tmp_path: Path
) -> None:
    command = ["compile", str(MODEL), "-t", target, "--calib", CALIBRATION, "--calib-samples", "50"]
    done = CliRunner().invoke(main, [*command, "--eval", f"{DATA}:x,y", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    evaluation = json.loads((tmp_path / "out" / "report.json").read_text())["evaluation"]
    assert evaluation["samples"] == 450
    assert evaluation["source"] == source
    assert evaluation["float_top1"] > 0.97
    assert evaluation["compiled_top1"] > 0.96
    last = done.stdout.splitlines()[-1]
    for share in (evaluation["float_top1"], evaluation["compiled_top1"], evaluation["agreement"]):
        assert f"{100 * share:.2f} %" in last


def test_a_network_of_several_inputs_and_outputs_keeps_their_order(tmp_path: Path) -> None:
    nodes = [
        node("Split", "b", "left right", axis=1, num_outputs=2),
        node("Add", "a right", "sum"),
        node("Reshape", "left shape", "view"),
        node("Sub", "a left", "difference"),
    ]
    model = model_of(
        nodes, {"a": (1, 4), "b": (1, 8)}, {"shape": np.array([2, 2])}, outputs="difference view sum right", opset=18
    )
    path = tmp_path / "several.onnx"
    onnx.save(model, path)
    result = compile_model(path, tmp_path / "out", CompileOptions(target="c", cache_dir=default_cache_dir()))
    built = load_built_model(result.folder)
    sample = random_inputs(built.graph)
    (outputs,) = run_built_model(built, [sample], "run", DEFAULT_COMPILER, default_cache_dir()).outputs
    left, right = sample["b"][:, :4], sample["b"][:, 4:]
    expected = {
        "difference": sample["a"] - left,
        "view": left.reshape(2, 2),
        "sum": sample["a"] + right,
        "right": right,
    }
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs[name], array)
    assert validate(built, [sample], DEFAULT_COMPILER, default_cache_dir()).first_difference is None


def test_a_wrong_second_output_of_a_layer_is_found(tmp_path: Path) -> None:
    model = model_of([node("Split", "x", "left right", axis=1, num_outputs=2)], {"x": (1, 8)}, {}, "left right", 18)
    path, out = tmp_path / "split.onnx", tmp_path / "out"
    onnx.save(model, path)
    compile_model(path, out, CompileOptions(target="c", cache_dir=default_cache_dir()))
    source = (out / "split.c").read_text()
    assert source.count("return (const void *)(arena + ") == 2
    offsets = re.findall(r"return \(const void \*\)\(arena \+ (\d+)\)", source)
    second = f"return (const void *)(arena + {offsets[1]})"
    (out / "split.c").write_text(source.replace(second, f"return (const void *)(arena + {offsets[0]})"))
    built = load_built_model(out)
    found = validate(built, [random_inputs(built.graph)], DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is not None
    assert found.first_difference.startswith("sample 0, output 'right': 4 of 4 elements differ")


def test_the_compiler_of_the_environment_is_taken_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYOPT_CC", "gcc -DFROM_ENVIRONMENT")
    assert find_compiler(target_named("c"), None).command == ("gcc", "-DFROM_ENVIRONMENT")
    assert find_compiler(target_named("c"), "gcc -DGIVEN").command == ("gcc", "-DGIVEN")
    arm = find_compiler(target_named("cortex-m4"), "gcc").command
    assert arm[:2] == ("gcc", "-mthumb")


def test_clang_borrows_the_c_library_and_the_linker_of_the_target_s_gcc(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("clang") is None:
        pytest.skip("no clang on PATH")
    need_tools("cortex-m4")
    found = find_compiler(target_named("cortex-m4"), "clang -DGIVEN")
    assert found.command[:3] == ("clang", "-DGIVEN", "--target=arm-none-eabi")
    assert found.linker[0].endswith("arm-none-eabi-gcc")
    own = find_compiler(target_named("cortex-m4"), "clang --target=thumbv7em-none-eabi")
    assert own.linker == own.command  # who names a target brings the rest, too
    clang = shutil.which("clang")
    monkeypatch.setattr(shutil, "which", lambda name: clang if name == "clang" else None)  # pyright: ignore
    with pytest.raises(ToolchainError, match=r"needs the C library and linker of arm-none-eabi-gcc for cortex-m4"):
        find_compiler(target_named("cortex-m4"), "clang")


@pytest.mark.qemu
@pytest.mark.parametrize("cc", ["arm-none-eabi-gcc", "clang-19"])
@pytest.mark.parametrize("optimization", ["O0", "Os"])
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_every_compiler_and_level_gives_the_reference_s_bytes(target: str, optimization: str, cc: str) -> None:
    need_tools(target)
    if shutil.which(cc) is None:
        pytest.skip(f"no {cc} on PATH")
    built = load_built_model(compiled_digits(target))
    samples = load_samples(SAMPLES, built.graph.inputs, limit=2)
    found = validate(built, samples, CompilerChoice(cc, optimization), default_cache_dir())
    assert found.first_difference is None
    assert found.different_bytes == 0


@pytest.mark.qemu
@pytest.mark.parametrize("target", EMULATED)
def test_the_library_has_no_memory_but_the_arena_and_little_stack(target: str) -> None:
    need_tools(target)
    built = load_built_model(compiled_digits(target))
    samples = load_samples(SAMPLES, built.graph.inputs, limit=2)
    found = measure(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.library.static_ram == 0
    assert 0 < found.stack_bytes <= (1024 if target.startswith("cortex-m") else 4096)
    assert found.library.code > 500
    constants = json.loads((built.folder / "report.json").read_text())["after"]["flash_constant_bytes"]
    assert constants <= found.library.weights <= constants + 16 * len(built.layers) * 4  # padded
    for sample, outputs in zip(samples, found.outputs, strict=True):
        for name, expected in evaluate(built.graph, sample).items():
            np.testing.assert_array_equal(outputs[name], expected)


@pytest.mark.qemu
def test_stack_static_memory_and_instructions_that_the_code_takes_are_found(tmp_path: Path) -> None:
    need_tools("cortex-m4")
    folder = tmp_path / "out"
    shutil.copytree(compiled_digits("cortex-m4"), folder)
    built = load_built_model(folder)
    samples = load_samples(SAMPLES, built.graph.inputs, limit=1)
    before = measure(built, samples, DEFAULT_COMPILER, default_cache_dir())
    source = folder / "digits.c"
    text, start = source.read_text(), "  unsigned char *const arena = memory;\n  if (arena == NULL"
    assert text.count(start) == 1
    more = "  static int calls[25]; volatile char deep[2000]; deep[0] = (char)++calls[0];\n"
    nops = '  __asm__ volatile(".rept 1000\\n\\tnop\\n\\t.endr");\n'
    source.write_text(text.replace(start, more + nops + start))
    after = measure(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert after.library.static_ram == 100
    assert 2000 <= after.stack_bytes - before.stack_bytes < 2100
    assert 1000 < after.instructions[0] - before.instructions[0] < 1100
    assert 2000 < after.library.code - before.library.code < 2100


def test_reals_made_of_integers_that_depend_on_float_sums_may_be_one_step_off() -> None:
    build = GraphBuilder()
    levels = Quantization.per_tensor(0.25, 0)
    x = build("QuantizeLinear", build.input("x", (3,)), quantization=levels)
    exact = build("DequantizeLinear", x)
    rounded = build("QuantizeLinear", build("Sigmoid", exact), quantization=levels)
    inexact = build("DequantizeLinear", rounded)
    found = tolerances(build.graph_of(exact, inexact))
    assert exact not in found
    assert found[inexact].step == 0.25
