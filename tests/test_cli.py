"""The command line: exit codes, one line that says what, where and what to do, and nothing written on failure."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from tests.digits import CALIBRATION, DATA, MODEL, SAMPLES, compiled_digits
from tests.onnx_models import model_of, node
from tests.test_artifact import change_weight
from tinyopt.cli import main
from tinyopt.pipeline import DEFAULT_PASSES
from tinyopt.targets import all_targets


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def tinyopt(*arguments: str | Path) -> Outcome:
    done = CliRunner().invoke(main, [str(word) for word in arguments])
    return Outcome(done.exit_code, done.stdout, done.stderr)


LEFT_OUT = ("simplify", "distill", "convert-to-float16")  # disabled, or not asked for


def assert_refused(done: Outcome, code: int, *words: str) -> None:
    """One line on stderr that begins with `error:` and holds all the words; no traceback, nothing on stdout."""
    assert done.code == code, done
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert "internal error" not in lines[0]
    assert done.out == ""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder, so that what is written by mistake is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TINYOPT_CC", raising=False)
    return folder


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("This is not a model.\n" * 20)
    return path


def truncated(path: Path) -> Path:
    path.write_bytes(MODEL.read_bytes()[:9000])
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def missing(path: Path) -> Path:
    return path


def unsupported(path: Path) -> Path:
    nodes = [node("Det", "x", "a", name="first"), node("Relu", "a", "b"), node("Det", "b", name="second")]
    return saved(model_of(nodes, {"x": (1, 3, 3)}), path)


def dynamic(path: Path) -> Path:
    return saved(model_of([node("Relu", "x")], {"x": (1, "length", 4)}), path)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (missing, 2, ("model.onnx", "No such file")),
        (folder, 2, ("model.onnx",)),
        (empty, 3, ("model.onnx",)),
        (text, 3, ("model.onnx",)),
        (truncated, 3, ("model.onnx",)),
        (unsupported, 3, ("'first'", "Det", "'second'")),
        (dynamic, 3, ("'x'", "length", "--shape")),
    ],
)
def test_a_model_that_cannot_be_compiled_is_refused(
    make: Callable[[Path], Path], code: int, words: tuple[str, ...], tmp_path: Path, elsewhere: Path
) -> None:
    done = tinyopt("compile", make(tmp_path / "model.onnx"), "-t", "c", "-o", "out")
    assert_refused(done, code, *words)
    assert list(elsewhere.iterdir()) == []


def test_a_dynamic_dimension_is_fixed_by_shape(tmp_path: Path) -> None:
    done = tinyopt("compile", dynamic(tmp_path / "model.onnx"), "-t", "c", "-o", "out", "--shape", "x=1,2,4")
    assert done.code == 0, done.err
    assert "_INPUT_0_SIZE 8u" in Path("out/model.h").read_text()


def wrong_shape(path: Path) -> str:
    np.savez(path, x=np.zeros((5, 1, 9, 8), np.float32))
    return f"{path}:x"


def other_name(path: Path) -> str:
    np.savez(path, pictures=np.zeros((5, 1, 8, 8), np.float32))
    return f"{path}:images"


def objects(path: Path) -> str:
    np.savez(path, x=np.array([{"a": 1}] * 5, object))
    return f"{path}:x"


def not_a_number(path: Path) -> str:
    array = np.zeros((5, 1, 8, 8), np.float32)
    array[3, 0, 2, 2] = np.nan
    np.savez(path, x=array)
    return f"{path}:x"


def no_file(path: Path) -> str:
    return f"{path}:x"


def no_array_file(path: Path) -> str:
    path.write_text("x")
    return f"{path}:x"


def no_samples(path: Path) -> str:
    np.savez(path, x=np.zeros((0, 1, 8, 8), np.float32))
    return f"{path}:x"


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (wrong_shape, 3, ("'x'", "[1, 9, 8]", "[1, 1, 8, 8]")),
        (other_name, 2, ("no array 'images'", "pictures")),
        (objects, 3, ("'x'", "pickles are never loaded")),
        (not_a_number, 3, ("NaN", "sample 3")),
        (no_file, 2, ("no such file", "data.npz")),
        (no_array_file, 3, ("data.npz", "no NumPy file")),
        (no_samples, 3, ("no samples",)),
    ],
)
def test_calibration_data_that_do_not_fit_are_refused(
    make: Callable[[Path], str], code: int, words: tuple[str, ...], tmp_path: Path, elsewhere: Path
) -> None:
    done = tinyopt("compile", MODEL, "-t", "c", "-o", "out", "--calib", make(tmp_path / "data.npz"))
    assert_refused(done, code, *words)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-t", "cortex-m99"), ("cortex-m99", "cortex-m4")),
        (("--set", "pruning.ratio=0.2"), ("'pruning'", "prune-channels")),
        (("--set", "prune-channels.amount=0.2"), ("'amount'", "ratio")),
        (("--set", "prune-channels.ratio=lots"), ("prune-channels.ratio", "float", "lots")),
        (("--set", "prune-channels.ratio"), ("pass.option=value", "prune-channels.ratio")),
        (("--set", "=1"), ("pass.option=value",)),
        (("--disable-pass", "pruning"), ("'pruning'", "prune-channels")),
        (("--shape", "image=1,x"), ("--shape", "image=1,x")),
        (("--shape", "picture=1,1,8,8"), ("picture", "image")),
        (("--prune", "2"), ("--prune", "2.0")),
        (("--prune", "nan"), ("prune",)),
        (("--cluster", "1"), ("--cluster", "from 2 to 64")),
        (("--cluster", "400"), ("--cluster", "from 2 to 64")),
        (("--max-flash", "0"), ("--max-flash",)),
        (("--calib", "data.wav"), ("data.wav", "file.npz:array")),
        (("--eval", f"{DATA}:x"), ("labels", "file.npz:x,y")),
        (("--calib-mean", "inf", "--calib", CALIBRATION), ("finite",)),
        (("--calib-scale", "1/0"), ("--calib-scale", "1/0")),
        (("--calib", CALIBRATION, "--calib", CALIBRATION), ("which input", "image")),
        (("--cc", "gcc 'unfinished"), ("--cc",)),
        (("--io", "int4"), ("--io",)),
        (("--weights", "int2"), ("--weights", "int4")),
        (("--weights", "int4", "--no-quantize"), ("4 bits", "--no-quantize")),
        (("--ranges", "best"), ("--ranges", "moving-average")),
        (("--unknown",), ("--unknown",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_meant_is_a_usage_error(
    arguments: tuple[str, ...], words: tuple[str, ...], elsewhere: Path
) -> None:
    assert_refused(tinyopt("compile", MODEL, "-t", "c", "-o", "out", *arguments), 2, *words)
    assert list(elsewhere.iterdir()) == []


def test_a_compiler_that_does_not_exist_is_a_toolchain_error(elsewhere: Path) -> None:
    done = tinyopt("compile", MODEL, "-t", "c", "-o", "out", "--cc", "no-such-cc")
    assert_refused(done, 7, "no-such-cc", "--cc")
    assert list(elsewhere.iterdir()) == []


def test_without_any_compiler_all_ways_to_get_one_are_named(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    monkeypatch.setenv("PATH", "")
    done = tinyopt("compile", MODEL, "-t", "arm", "-o", "out", "--no-quantize")
    assert_refused(done, 7, "--cc", "$TINYOPT_CC", "aarch64-linux-gnu-gcc", "ziglang", "gcc-aarch64-linux-gnu")
    assert list(elsewhere.iterdir()) == []


def test_c_sources_need_no_compiler_and_the_report_says_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_digits("c", False)  # so that the kernels are there
    monkeypatch.setenv("PATH", "")
    done = tinyopt("compile", MODEL, "-t", "c", "-o", "out", "--no-quantize")
    assert done.code == 0, done.err
    assert "not measured: no compiler" in done.out


def test_a_missing_emulator_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is None:
        pytest.skip("no arm-none-eabi-gcc on PATH")
    out = compiled_digits("cortex-m4")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "arm-none-eabi-gcc").symlink_to(gcc)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert_refused(tinyopt("validate", out), 7, "qemu-system-arm", "install qemu-system-arm (Debian)")


@pytest.fixture
def out(elsewhere: Path) -> Path:
    """An output folder of its own for each test."""
    return Path(shutil.copytree(compiled_digits("c"), elsewhere / "out"))


def no_report(out: Path) -> None:
    (out / "report.json").unlink()


def garbled_report(out: Path) -> None:
    (out / "report.json").write_text("{")


def report_of_something_else(out: Path) -> None:
    (out / "report.json").write_text("[1, 2]")


def report_with_another_prefix(out: Path) -> None:
    report = out / "report.json"
    report.write_text(report.read_text().replace('"prefix": "digits"', '"prefix": "../digits"'))


def report_with_another_layer(out: Path) -> None:
    content = json.loads((out / "report.json").read_text())
    content["layers"][1]["name"] = "intruder"
    (out / "report.json").write_text(json.dumps(content))


def report_with_an_unknown_target(out: Path) -> None:
    content = json.loads((out / "report.json").read_text())
    content["target"]["name"] = "z80"
    (out / "report.json").write_text(json.dumps(content))


def no_graph(out: Path) -> None:
    (out / "digits.graph.npz").unlink()


def garbled_graph(out: Path) -> None:
    (out / "digits.graph.npz").write_bytes(b"PK" + bytes(50))


def no_source(out: Path) -> None:
    (out / "digits.c").unlink()


def no_weights(out: Path) -> None:
    (out / "digits_weights.c").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        no_report,
        garbled_report,
        report_of_something_else,
        report_with_another_prefix,
        report_with_another_layer,
        report_with_an_unknown_target,
        no_graph,
        garbled_graph,
        no_source,
        no_weights,
    ],
)
@pytest.mark.parametrize("command", [("run", "--input", SAMPLES), ("validate",), ("profile",)], ids=lambda c: c[0])
def test_a_damaged_output_folder_is_refused(
    command: tuple[str, ...], damage: Callable[[Path], None], out: Path
) -> None:
    damage(out)
    done = tinyopt(command[0], out, *command[1:])
    assert_refused(done, 2 if damage in (no_report, report_with_an_unknown_target) else 3)


def test_a_folder_that_is_not_there_is_refused() -> None:
    assert_refused(tinyopt("validate", "nowhere"), 2, "nowhere", "no report.json")


def test_a_changed_weight_is_found_by_validate_with_the_layer_s_name(out: Path) -> None:
    layer = json.loads((out / "report.json").read_text())["layers"][2]
    change_weight(out, layer["index"])
    done = tinyopt("validate", out, "--data", SAMPLES, "--samples", "1")
    assert done.code == 6
    (line,) = done.err.splitlines()
    assert re.match(
        rf"error: .*sample 0, layer 2 \({layer['op']} '{layer['name']}'\): \d+ of 512 elements differ", line
    )


def test_c_code_that_does_not_compile_is_a_toolchain_error(out: Path) -> None:
    (out / "digits.c").write_text("#error broken\n")
    assert_refused(tinyopt("validate", out), 7, "#error broken")


def test_profiling_where_nothing_is_emulated_says_what_to_do() -> None:
    assert_refused(tinyopt("profile", compiled_digits("c")), 2, "compile for arm or a Cortex-M")


def test_an_output_file_that_cannot_be_written_is_named() -> None:
    done = tinyopt("run", compiled_digits("c"), "--input", SAMPLES, "--samples", "1", "-o", "no/such/folder.npz")
    assert_refused(done, 2, "no/such/folder.npz", "No such file")


def test_a_quiet_compilation_says_nothing() -> None:
    done = tinyopt("compile", MODEL, "-t", "c", "--calib", CALIBRATION, "--calib-samples", "20", "-o", "out", "-q")
    assert done == Outcome(0, "", "")


def test_compile_prints_its_report_and_where_to_go_next() -> None:
    done = tinyopt("compile", MODEL, "-t", "c", "--calib", CALIBRATION, "--calib-samples", "20", "-o", "out")
    assert done.code == 0
    for word in ("Passes", "Layers", "Memory by section", "conv_s8", "arena"):
        assert word in done.out
    assert done.err.splitlines()[-1] == "wrote out; next: tinyopt validate out, tinyopt profile out"


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", str(MODEL), "-t", "c", "--calib", CALIBRATION, "--calib-samples", "20", "-o", "out", "--json"),
        ("compile", str(MODEL), "-t", "c", "--print-passes", "--json"),
        ("passes", "--json"),
        ("passes", "quantize", "--json"),
        ("targets", "--json"),
    ],
    ids=" ".join,
)
def test_json_output_is_strict_json_and_nothing_else(arguments: tuple[str, ...]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    done = tinyopt(*arguments)
    assert (done.code, done.err) == (0, "")
    json.loads(done.out, parse_constant=refuse)


def test_json_of_run_and_validate_holds_every_number() -> None:
    folder = compiled_digits("c")
    ran = json.loads(tinyopt("run", folder, "--input", SAMPLES, "--samples", "2", "--json").out)
    assert np.array(ran["probabilities"]).shape == (2, 10)
    checked = json.loads(tinyopt("validate", folder, "--data", SAMPLES, "--samples", "2", "--json").out)
    assert (checked["different_bytes"], checked["output_bytes"], checked["first_difference"]) == (0, 20, None)


def test_run_writes_all_outputs_to_the_very_file_that_is_named() -> None:
    done = tinyopt("run", compiled_digits("c"), "--input", SAMPLES, "--samples", "3", "-o", "result")
    assert (done.code, done.err) == (0, "wrote result\n")
    with np.load("result") as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {"probabilities": (3, 10)}


def test_print_passes_shows_the_pipeline_with_the_options_applied_and_writes_nothing(elsewhere: Path) -> None:
    done = tinyopt(
        "compile", MODEL, "-t", "cortex-m4", "--print-passes", "--prune", "0.25", "--disable-pass", "simplify"
    )
    assert done.code == 0
    names = [line.split()[0] for line in done.out.splitlines()[1:] if line[:1].strip()]
    assert names == [step.name for step in DEFAULT_PASSES if step.name not in LEFT_OUT]
    assert "ratio=0.25" in done.out
    assert "boundary=int8" in done.out
    assert list(elsewhere.iterdir()) == []


def test_options_of_quantization_reach_its_pass() -> None:
    chosen = ("--weights", "int4", "--ranges", "mse", "--set", "quantize.percentile=99", "--set", "quantize.cost=2")
    done = tinyopt("compile", MODEL, "-t", "cortex-m4", "--print-passes", "--json", *chosen)
    options = next(step["options"] for step in json.loads(done.out) if step["name"] == "quantize")
    assert (options["weight_bits"], options["method"], options["cost"], options["percentile"]) == (4, "mse", 2, 99)


@pytest.mark.parametrize("step", DEFAULT_PASSES, ids=lambda step: step.name)
def test_every_pass_explains_itself_under_the_fixed_headings(step: type) -> None:
    name: str = step.name  # type: ignore[attr-defined]  # a Pass
    done = tinyopt("passes", name)
    assert done.code == 0
    headings = [f"\n{heading}:" for heading in ("What", "Before -> After", "Exactness", "Refuses when", "Source")]
    positions = [done.out.find(heading) for heading in headings]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert max(map(len, done.out.splitlines())) <= 120


def test_an_unknown_pass_is_answered_with_those_there_are() -> None:
    assert_refused(tinyopt("passes", "magic"), 2, "'magic'", "fold-batchnorm")


def test_targets_lists_every_target() -> None:
    done = tinyopt("targets")
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == list(all_targets())


def test_colours_appear_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in tinyopt("targets").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", tinyopt("targets").out)


@pytest.mark.parametrize("command", ["", "compile", "run", "validate", "profile", "passes", "targets"])
def test_every_command_has_help_that_fits_a_terminal(command: str) -> None:
    done = tinyopt(*command.split(), "--help")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 110
    assert done.out.startswith("Usage: ")


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "[bold]y[/red]:smile:", name="[/nothing]")]
    model = saved(model_of(nodes, {"x": (1, 4)}, outputs="[bold]y[/red]:smile:"), tmp_path / "m.onnx")
    assert tinyopt("compile", model, "-t", "c", "-o", "out").code == 0
    assert tinyopt("validate", "out").code == 0
    np.savez("x.npz", x=np.ones((2, 1, 4), np.float32))
    done = tinyopt("run", "out", "--input", "x.npz")
    assert done.code == 0, done.err
    assert done.out.count("[bold]y[/red]:smile:") == 2


def test_an_internal_error_is_one_line_and_a_traceback_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("tinyopt.api.compile_imported", explode)
    done = tinyopt("compile", MODEL)
    assert done.code == 1
    assert done.err == "error: internal error, please report it (-vv shows where): ZeroDivisionError: boom\n"
    assert "Traceback" in tinyopt("compile", MODEL, "-vv").err


def test_the_cache_folder_can_be_chosen_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(model_of([node("Relu", "x")], {"x": (1, 4)}), tmp_path / "m.onnx")
    monkeypatch.setenv("TINYOPT_CACHE_DIR", str(tmp_path / "default"))
    assert tinyopt("compile", model, "-t", "c", "-o", "out", "--no-cache").code == 0
    assert not (tmp_path / "default").exists()
    assert tinyopt("compile", model, "-t", "c", "-o", "out", "--cache-dir", tmp_path / "chosen").code == 0
    assert list((tmp_path / "chosen").rglob("*.c"))
    assert not (tmp_path / "default").exists()
    assert os.environ["TINYOPT_CACHE_DIR"]
