"""`--emit`: folders that frameworks and package managers take as they are."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from tests.onnx_models import model_of, node
from tests.stand_in import must, need
from tests.test_artifact import tree
from tinyopt.api import compile_model
from tinyopt.cli.compile_command import compile_command
from tinyopt.cli.recipe_option import recipe_keys
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.options import CompileOptions, EmitShape
from tinyopt.recipes import read_recipe

SHAPES: tuple[EmitShape, ...] = get_args(EmitShape)
EVIL = "EVIL\"'\\ & <!-- ]]> ${x} [[ #{{ p }}"
USE = '#include "net.h"\nalignas(NET_ARENA_ALIGN) static unsigned char arena[NET_ARENA_BYTES];\n'
MAIN = USE + "int main() { return net_run(arena); }\n"


def emitted(folder: Path, target: str, shapes: tuple[EmitShape, ...]) -> Path:
    """What a model is compiled into, by a file whose name tries to get out of every text."""
    model = model_of([node("MatMul", "x w", "m"), node("Sigmoid", "m")], {"x": (1, 4)}, {"w": np.eye(4, dtype="f")})
    onnx.save(model, folder / f"{EVIL}.onnx")
    options = CompileOptions(target=target, name="net", emit=shapes, cache_dir=default_cache_dir())
    return compile_model(folder / f"{EVIL}.onnx", folder / "out", options).folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emitted(tmp_path_factory.mktemp("emit"), "c", SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_sources_in_each_folder_compile_together_for_a_program_in_cpp(
    shape: EmitShape, out: Path, tmp_path: Path
) -> None:
    need("gcc", "g++")
    folder = out / shape / "net"
    sources = sorted(folder.rglob("*.c"))
    assert [source.name for source in sources] == ["net.c", "net_weights.c"]  # and no second `main`
    (header,) = folder.rglob("net.h")
    (tmp_path / "main.cpp").write_text(MAIN)
    must(["gcc", "-std=c99", "-Wall", "-Werror", "-I", header.parent, "-c", *sources], tmp_path)
    must(["g++", "-I", header.parent, "main.cpp", "net.o", "net_weights.o", "-lm", "-o", "app"], tmp_path)
    must([tmp_path / "app"], tmp_path)


def test_names_of_the_model_stay_inside_their_texts(out: Path) -> None:
    said = f"Neural network {EVIL}"
    assert json.loads((out / "platformio" / "net" / "library.json").read_text())["description"] == said
    manifest = (out / "esp-idf" / "net" / "idf_component.yml").read_text().splitlines()
    assert json.loads(manifest[2].removeprefix("description: ")) == said
    properties = (out / "arduino" / "net" / "library.properties").read_text().splitlines()
    assert dict(line.split("=", 1) for line in properties)["sentence"] == said
    pack = ElementTree.parse(out / "cmsis-pack" / "net" / "tinyopt.net.pdsc")
    assert {place.text for place in pack.iter("description")} == {said}
    for name in ("zephyr/net/Kconfig", "zephyr/net/zephyr/module.yml", "esp-idf/net/CMakeLists.txt"):
        assert [line for line in (out / name).read_text().splitlines() if "EVIL" in line and line[0] != "#"] == []


def test_a_pack_has_the_files_that_its_description_lists_and_the_same_bytes_each_time(
    out: Path, tmp_path: Path
) -> None:
    again = emitted(tmp_path, "c", ("cmsis-pack",))
    (pack,) = (out / "cmsis-pack").glob("*.pack")
    assert pack.read_bytes() == (again / "cmsis-pack" / pack.name).read_bytes()
    with zipfile.ZipFile(pack) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    assert held == tree(out / "cmsis-pack" / "net")
    listed = [file.attrib["name"] for file in ElementTree.fromstring(held["tinyopt.net.pdsc"]).iter("file")]
    assert {*held} - {*listed} == {"tinyopt.net.pdsc"}
    assert [name for name in listed if name not in held] == ["include/"]


def test_cores_that_lack_the_instructions_cannot_choose_the_pack(tmp_path: Path) -> None:
    out = emitted(tmp_path, "cortex-m4", ("cmsis-pack", "zephyr"))
    pack = ElementTree.parse(out / "cmsis-pack" / "net" / "tinyopt.net.pdsc")
    cores = {accept.attrib["Dcore"]: accept.get("Ddsp") for accept in pack.iter("accept")}
    assert (cores["Cortex-M4"], cores["Cortex-M33"]) == (None, "DSP")
    assert "Cortex-M3" not in cores
    assert [component.get("condition") for component in pack.iter("component")] == ["core"]
    assert "depends on CPU_CORTEX_M\n" in (out / "zephyr" / "net" / "Kconfig").read_text()


@pytest.mark.parametrize("early", [True, False], ids=["early expansion", "build"])
def test_an_esp_idf_component_can_be_read_as_a_script(early: bool, out: Path, tmp_path: Path) -> None:
    need("cmake")
    (tmp_path / "stub.cmake").write_text(
        "cmake_minimum_required(VERSION 3.21)\n"
        "function(idf_component_register)\n"
        '  message(NOTICE "registered ${ARGN}")\n  set(COMPONENT_LIB lib PARENT_SCOPE)\nendfunction()\n'
        + ("set(CMAKE_BUILD_EARLY_EXPANSION 1)\n" if early else "")
        + ("" if early else 'function(target_compile_options)\n  message(NOTICE "options ${ARGN}")\nendfunction()\n')
        + f'include("{out}/esp-idf/net/CMakeLists.txt")\n'
    )
    done = subprocess.run(["cmake", "-P", "stub.cmake"], cwd=tmp_path, capture_output=True, text=True, check=True)
    registered = "registered SRCS;src/net.c;src/net_weights.c;INCLUDE_DIRS;include\n"
    assert done.stderr == registered + ("" if early else "options lib;PRIVATE;-O2\n")


@pytest.mark.parametrize("target", ["c", "host"])
def test_an_installed_cmake_package_is_found_and_linked(target: str, out: Path, tmp_path: Path) -> None:
    need("cmake", "g++")
    compiled = out if target == "c" else emitted(tmp_path, target, ("cmake",))
    must(["cmake", "-S", compiled / "cmake" / "net", "-B", "net", "-DCMAKE_INSTALL_PREFIX=there"], tmp_path)
    must(["cmake", "--build", "net"], tmp_path)
    must(["cmake", "--install", "net", "--prefix", tmp_path / "there"], tmp_path)
    (tmp_path / "main.cpp").write_text(MAIN)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(app C CXX)\nfind_package(net REQUIRED)\n"
        "add_executable(app main.cpp)\ntarget_link_libraries(app PRIVATE tinyopt::net)\n"
    )
    must(["cmake", "-B", "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'there'}"], tmp_path)
    must(["cmake", "--build", "build"], tmp_path)
    must([tmp_path / "build" / "app"], tmp_path)


@pytest.mark.parametrize(
    ("target", "shape", "words"),
    [
        ("arm", "zephyr", "a library: compile for a cortex-m target or c"),
        ("cortex-m4", "esp-idf", "compile for the target c"),
    ],
)
def test_shapes_that_the_target_cannot_have_are_refused(
    target: str, shape: EmitShape, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        emitted(tmp_path, target, (shape,))
    assert [path.name for path in tmp_path.iterdir()] == [f"{EVIL}.onnx"]


def test_the_lock_asks_for_the_same_folders(out: Path) -> None:
    recipe = read_recipe(out / "recipe.lock.toml", recipe_keys(compile_command))
    assert recipe.settings["emit"] == list(SHAPES)
