"""find_package(tinyopt): models are compiled when something they depend on changed, and never in vain."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.stand_in import Build, assert_settles, must, need, write_project, write_tools
from tests.test_cli import tinyopt
from tinyopt.cmake import FOLDER
from tinyopt.targets import all_targets

GENERATORS = {"Unix Makefiles": "make", "Ninja": "ninja"}


def configured(folder: Path, generator: str, names: Sequence[str]) -> Build:
    need("cmake", "gcc", GENERATORS[generator])
    compiler, cc = write_tools(folder)
    write_project(folder, names)
    models = "".join(f"tinyopt_add_model(NAME {n} MODEL {n}.onnx TARGET c CALIB {n}.npy)\n" for n in names)
    libraries = " ".join(f"tinyopt::{n}" for n in names)
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(app C)\nfind_package(tinyopt 0.1 REQUIRED)\n"
        f"{models}add_executable(app main.c)\ntarget_link_libraries(app PRIVATE {libraries})\n"
        f'get_target_property(arena tinyopt::{names[0]} TINYOPT_ARENA_BYTES)\nfile(WRITE arena.txt "${{arena}}")\n'
    )
    options = (f"-Dtinyopt_DIR={FOLDER}", f"-DTINYOPT_EXECUTABLE={compiler}", f"-DCMAKE_C_COMPILER={cc}")
    must(["cmake", "-G", generator, "-S", ".", "-B", "build", *options], folder)
    return Build(folder, ("cmake", "--build", "build", "-j2"))


@pytest.mark.parametrize("generator", GENERATORS)
def test_models_are_compiled_when_something_changed_and_c_only_where_its_bytes_did(
    generator: str, tmp_path: Path
) -> None:
    build = configured(tmp_path, generator, ["kws"])
    assert_settles(build, "kws", ["kws.c", "kws_weights.c", "main.c"])
    must([tmp_path / "build" / "app"], tmp_path)
    assert (tmp_path / "arena.txt").read_text() == "96"


@pytest.mark.parametrize("generator", GENERATORS)
def test_eight_models_in_parallel_are_each_compiled_once(generator: str, tmp_path: Path) -> None:
    names = [f"net{number}" for number in range(8)]
    build = configured(tmp_path, generator, names)
    sources = [f"{name}{part}.c" for name in names for part in ("", "_weights")]
    assert build.did() == (8, sorted(["main.c", *sources]))
    assert build.did() == (0, [])
    must([tmp_path / "build" / "app"], tmp_path)


def guessed(folder: Path, system: str, processor: str, flags: str) -> str:
    need("cmake")
    (folder / "guess.cmake").write_text(
        f'set(CMAKE_SYSTEM_NAME {system})\nset(CMAKE_SYSTEM_PROCESSOR "{processor}")\nset(CMAKE_C_FLAGS "{flags}")\n'
        "set(CMAKE_CROSSCOMPILING TRUE)\nset(TINYOPT_EXECUTABLE tinyopt)\n"
        f'include("{FOLDER}/tinyoptConfig.cmake")\ntinyopt_guess_target(found)\n'
        "execute_process(COMMAND ${CMAKE_COMMAND} -E echo ${found})\n"
    )
    return must(["cmake", "-P", "guess.cmake"], folder).strip()


@pytest.mark.parametrize(
    ("system", "processor", "flags", "target"),
    [
        ("Generic", "arm", "-mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16", "cortex-m4"),
        ("Generic", "cortex-m0plus", "", "cortex-m0plus"),
        ("Generic", "cortex-m55", "-mcpu=cortex-m55+nomve", "cortex-m33"),
        ("Generic", "arm", "-mcpu=cortex_m7", "cortex-m7"),
        ("Linux", "aarch64", "", "arm"),
        ("Linux", "aarch64", "-mcpu=cortex-a72", "cortex-a72"),
        ("Linux", "armv7l", "-mfpu=neon", "arm32"),
    ],
)
def test_the_target_follows_from_the_processor(
    system: str, processor: str, flags: str, target: str, tmp_path: Path
) -> None:
    assert guessed(tmp_path, system, processor, flags) == target


def test_the_package_knows_no_target_that_there_is_not() -> None:
    text = (FOLDER / "tinyoptConfig.cmake").read_text()
    named = re.search(r"set\(named ([^)]*)\)", text)
    assert named
    assert {*re.findall(r"set\(target (\S+?)\)", text)} - {'"${cpu}"', '""'} <= set(all_targets())
    assert set(shlex.split(named[1])) <= set(all_targets())


def test_the_folder_of_the_package_is_printed() -> None:
    done = tinyopt("--cmake-dir")
    assert (done.code, done.out) == (0, f"{FOLDER}\n")
