"""`tinyopt.load`: a compiled library called from Python gives what the reference gives, and takes nothing else."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import tinyopt
from tests.digits import MODEL, SAMPLES, compiled_digits, options_for
from tests.onnx_models import model_of, node
from tests.test_artifact import need
from tinyopt import loader
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import InvalidModelError, ToolchainError, UsageError
from tinyopt.evaluate import evaluate
from tinyopt.execution.built_model import load_built_model
from tinyopt.ir import Array
from tinyopt.options import CompileOptions, MemoryRegion
from tinyopt.samples import load_samples


def digits_samples(folder: Path, count: int) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """Inputs, and what the reference makes of them."""
    graph = load_built_model(folder).graph
    return [(sample, evaluate(graph, sample)) for sample in load_samples(SAMPLES, graph.inputs, limit=count)]


@pytest.fixture(scope="module")
def two_in_two_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs of different shapes, one of whose names is no Python identifier, and two outputs."""
    folder = tmp_path_factory.mktemp("two")
    nodes = [node("Sub", "a b:0", "difference"), node("Mul", "a two", "double")]
    shapes = {"a": (2, 3), "b:0": (3,)}
    model = model_of(nodes, shapes, {"two": np.float32(2)}, "difference double")
    onnx.save(model, folder / "two.onnx")
    options = CompileOptions(target="host", is_quantized=False, cache_dir=default_cache_dir())
    return compile_model(folder / "two.onnx", folder / "out", options).folder


A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([10, 20, 30], np.float32)


@pytest.mark.parametrize("is_quantized", [True, False], ids=["int8", "float"])
def test_a_loaded_library_gives_the_reference_s_outputs(is_quantized: bool) -> None:
    folder = compiled_digits("host", is_quantized)
    model = tinyopt.load(folder)
    for sample, expected in digits_samples(folder, 4):
        (x,), (wanted,) = sample.values(), expected.values()
        y = model(x)
        assert isinstance(y, np.ndarray)
        assert (y.dtype, y.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(y, wanted, rtol=0 if is_quantized else 1e-3, atol=0 if is_quantized else 1e-5)
    assert model.variant is None


def test_inputs_go_by_place_or_by_name_and_several_outputs_come_in_order(two_in_two_out: Path) -> None:
    model = tinyopt.load(str(two_in_two_out))
    assert [(tensor.name, str(tensor)) for tensor in model.inputs] == [("a", "float32[2, 3]"), ("b:0", "float32[3]")]
    for difference, double in (model(A, B), model(A, **{"b:0": B}), model(**{"b:0": B, "a": A})):
        np.testing.assert_array_equal(difference, A - B)
        np.testing.assert_array_equal(double, 2 * A)
    assert list(model.run({"b:0": B, "a": A})) == ["difference", "double"]


def test_arrays_whose_elements_do_not_lie_in_order_are_taken_as_what_they_are(two_in_two_out: Path) -> None:
    turned = np.ascontiguousarray(A.T).T
    difference, _ = tinyopt.load(two_in_two_out)(turned, B[::-1])
    np.testing.assert_array_equal(difference, A - B[::-1])


def test_results_stay_when_the_model_runs_again(two_in_two_out: Path) -> None:
    model = tinyopt.load(two_in_two_out)
    first, _ = model(A, B)
    model(7 * A, B)
    np.testing.assert_array_equal(first, A - B)


@pytest.mark.parametrize(
    ("arrays", "named", "message"),
    [
        ((A, B.astype(np.float64)), {}, r"'b:0' takes float32\[3\], not float64\[3\]"),
        ((A.T, B), {}, r"'a' takes float32\[2, 3\], not float32\[3, 2\]"),
        ((A[None], B), {}, r"not float32\[1, 2, 3\]"),
        ((A,), {}, r"no array for b:0: it takes 'a' float32\[2, 3\], 'b:0'"),
        ((A, B, B), {}, "takes 2 inputs, not 3"),
        ((A, B), {"c": A}, "no input c"),
        ((A, B), {"a": A}, "given twice, by place and by name: a"),
    ],
)
def test_other_shapes_dtypes_and_names_are_refused(
    two_in_two_out: Path, arrays: tuple[Array, ...], named: dict[str, Array], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tinyopt.load(two_in_two_out)(*arrays, **named)


def test_threads_run_one_model_at_the_same_time() -> None:
    folder = compiled_digits("host")
    model, samples = tinyopt.load(folder), digits_samples(folder, 8)

    def run(number: int) -> bool:
        sample, expected = samples[number % len(samples)]
        found = model.run(sample)
        return all(np.array_equal(found[name], array) for name, array in expected.items())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(400)))


def test_memory_regions_are_allocated_apart(tmp_path: Path) -> None:
    options = replace(options_for("host"), memory=(MemoryRegion("fast", 512), MemoryRegion("slow", 1 << 16)))
    out = compile_model(MODEL, tmp_path / "out", options).folder
    model = tinyopt.load(out)
    for sample, expected in digits_samples(out, 2):
        for name, array in model.run(sample).items():
            np.testing.assert_array_equal(array, expected[name])


def test_what_was_compiled_again_into_the_same_folder_is_loaded_anew(two_in_two_out: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(two_in_two_out, out)
    assert len(tinyopt.load(out).outputs) == 2
    shutil.rmtree(out)
    other = model_of([node("Add", "a b:0")], {"a": (2, 3), "b:0": (3,)})
    onnx.save(other, tmp_path / "two.onnx")
    options = CompileOptions(target="host", is_quantized=False, cache_dir=default_cache_dir())
    compile_model(tmp_path / "two.onnx", out, options)
    np.testing.assert_array_equal(tinyopt.load(out)(A, B), A + B)


def test_loading_needs_no_compiler_in_the_process(two_in_two_out: Path) -> None:
    program = (
        f"import sys, tinyopt; tinyopt.load({str(two_in_two_out)!r})\n"
        "assert not {'tvm', 'onnx', 'onnxruntime', 'sklearn', 'click'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_library_for_another_machine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    need("aarch64-linux-gnu-gcc")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(UsageError, match=r"is for arm \(aarch64\), this machine is x86_64: compile for host"):
        tinyopt.load(compiled_digits("arm"))


def test_a_library_for_instructions_that_the_cpu_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need("aarch64-linux-gnu-gcc")
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(loader, "_CPUINFO", cpuinfo)
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\nCPU part\t: 0xd08\n")
    with pytest.raises(UsageError, match="is for cortex-a55, this CPU has no dotprod"):
        tinyopt.load(compiled_digits("cortex-a55"))
    cpuinfo.write_text("Features\t: fp asimd asimddp\n")
    if platform.processor() != "aarch64":
        with pytest.raises(ToolchainError, match="cannot be loaded"):  # it is let through as far as the system's loader
            tinyopt.load(compiled_digits("cortex-a55"))


def test_folders_without_a_library_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an output folder"):
        tinyopt.load(tmp_path)
    with pytest.raises(UsageError, match="cortex-m4 gets C sources"):
        tinyopt.load(compiled_digits("cortex-m4"))


def test_damaged_folders_are_refused(two_in_two_out: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(two_in_two_out, out)
    (out / "libtwo.so").write_bytes(b"\x7fELF")
    with pytest.raises(InvalidModelError, match="no shared library"):
        tinyopt.load(out)
    (out / "report.json").write_text("{}")
    with pytest.raises(InvalidModelError, match="is not a report"):
        tinyopt.load(out)
