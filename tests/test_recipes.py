"""Recipes and locks: options from a file, and the same bytes again from what a compilation left."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.digits import DATA, MODEL
from tests.test_artifact import tree
from tests.test_cli import assert_refused, tinyopt
from tinyopt.cli.compile_command import compile_command
from tinyopt.cli.recipe_option import recipe_keys
from tinyopt.options import CompileOptions, MemoryRegion
from tinyopt.recipes import LOCK_NAME, read_recipe
from tinyopt.recipes.keys import option_values

# other values than the defaults
OTHERS: dict[str, Any] = {
    "target": "c",
    "name": "other",
    "shapes": {"x": (1, 2)},
    "calibration": "calib.npz:x",
    "calibration_mean": (1.0, 2.0),
    "calibration_scale": 0.5,
    "calibration_samples": 7,
    "evaluation": "test.npz:x,y",
    "is_quantized": False,
    "dtype": "float16",
    "boundary": "int8",
    "cluster": "auto",
    "max_flash": 1000,
    "max_ram": 1000,
    "max_cycles": 1000,
    "max_drop": 1.0,
    "memory": (MemoryRegion("sram", 1000),),
    "recover": "none",
    "recover_parameters": "last",
    "settings": {"quantize": {"method": "minmax"}},
    "cc": "clang",
}
BY_TYPE: dict[type, Any] = {bool: True, int: 3, float: 0.25, str: "l1", tuple: ("a*=0.5",)}
NOT_LOCKED = {"cache_dir"}  # what is kept changes no byte


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and its data, which is the present one."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    shutil.copy(MODEL, folder / "digits.onnx")
    shutil.copy(DATA, folder / "data" / "digits.npz")
    monkeypatch.chdir(folder)
    return folder


def test_init_writes_every_option_so_that_it_is_one_without_its_comment_sign(project: Path) -> None:
    assert tinyopt("init", "digits.onnx", "-t", "cortex-m4").code == 0
    text = (project / "tinyopt.toml").read_text()
    assert "image  float32[batch,1,8,8]" in text
    assert tomllib.loads(text) == {"model": "digits.onnx", "target": "cortex-m4"}
    keys = recipe_keys(compile_command).keys()
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    assert tomllib.loads("\n".join(line for line in lines if line.partition(" = ")[0] in keys)).keys() == keys
    assert_refused(tinyopt("init", "digits.onnx"), 2, "tinyopt.toml exists", "--output")


def test_the_command_line_goes_before_the_recipe(project: Path) -> None:
    (project / "r.toml").write_text('model = "digits.onnx"\nprune = 0.2\nkeep = ["head*"]\nquantize = false\n')
    done = tinyopt("compile", "--recipe", "r.toml", "--prune", "0.3", "--print-passes", "--json")
    passes = {step["name"]: step["options"] for step in json.loads(done.out)}
    assert (passes["prune-channels"]["ratio"], passes["prune-channels"]["keep"]) == (0.3, ["head*"])
    assert "quantize" not in passes


def test_paths_in_a_recipe_are_relative_to_it(project: Path) -> None:
    recipe = project / "r.toml"
    recipe.write_text('model="digits.onnx"\ncalib=["image=data/digits.npz:calib", "random"]\ncalib-mean=[1, 2.5]\n')
    settings = read_recipe(recipe).settings
    assert settings["model"] == str(project / "digits.onnx")
    assert settings["calib"] == [f"image={project}/data/digits.npz:calib", "random"]
    assert settings["calib-mean"] == "1,2.5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prun = 0.2", ("no option 'prun'", "'prune'")),
        ("max_flash = 2000", ("no option 'max_flash'", "'max-flash'")),
        ("quantize = 1", ("'quantize'", "true or false")),
        ("target = true", ("'target'", "a text or a number")),
        ("target = ['arm', 'c']", ("'target'", "one value, not a list")),
        ("[set]\nquantize = 1", ("'set'", "dict")),
        ("prune = ", ("is not TOML",)),
        ("prune = 2.0", ("2.0", "0.95")),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(text: str, words: tuple[str, ...], project: Path) -> None:
    (project / "r.toml").write_text(text)
    assert_refused(tinyopt("compile", "digits.onnx", "--recipe", "r.toml"), 2, *words)


@pytest.mark.parametrize("field", dataclasses.fields(CompileOptions), ids=lambda field: field.name)
def test_every_option_that_bytes_follow_from_is_locked_under_a_key_of_the_command_line(field: Any) -> None:
    plain = CompileOptions()
    present = getattr(plain, field.name)
    other = OTHERS[field.name] if field.name in OTHERS else BY_TYPE.get(type(present), "other")
    values = option_values(dataclasses.replace(plain, **{field.name: other}), str)
    assert (values != option_values(plain, str)) == (field.name not in NOT_LOCKED)
    assert values.keys() <= recipe_keys(compile_command).keys()


OPTIONS = ("-t", "c", "--calib", "data/digits.npz:calib", "--calib-samples", "4", "-q")


def test_a_lock_gives_the_same_bytes_on_a_copy_in_another_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "r.toml").write_text('ranges = "minmax"\ndisable-pass = ["round-weights"]\n')
    assert tinyopt("compile", "digits.onnx", "--recipe", "r.toml", *OPTIONS, "-o", "out").code == 0
    first = tree(project / "out")
    assert not any(str(project.parent).encode() in content for content in first.values())
    copy = project.parent / "elsewhere" / "copy"
    shutil.copytree(project, copy)
    shutil.rmtree(project)
    monkeypatch.chdir(copy.parent)
    assert tinyopt("compile", "--recipe", copy / "out" / LOCK_NAME, "-o", "deep/again", "-q").code == 0
    again = tree(copy.parent / "deep" / "again")
    assert [name for name in first.keys() | again.keys() if first.get(name) != again.get(name)] == []

    lock = copy / "out" / LOCK_NAME
    text = lock.read_text()
    version = tomllib.loads(text)["versions"]["onnx"]
    lock.write_text(text.replace(f'onnx = "{version}"', 'onnx = "1.0.0"'))
    assert_refused(tinyopt("compile", "--recipe", lock, "-o", "again"), 2, "onnx 1.0.0", version)
    sources = tomllib.loads(text)["versions"]["tinyopt-sources"]
    lock.write_text(text.replace(sources, "0123456789abcdef"))
    assert_refused(tinyopt("compile", "--recipe", lock, "-o", "again"), 2, "tinyopt-sources 0123456789abcdef", sources)
    lock.write_text(text)
    with (copy / "data" / "digits.npz").open("ab") as file:
        file.write(b"\0")
    assert_refused(tinyopt("compile", "--recipe", lock, "-o", "again"), 2, "data/digits.npz", "sha256")
    assert not (copy.parent / "again").exists()
