"""`--emit`: the compiled model once more, as a folder that a framework or package manager takes as it is."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyopt.artifact.c_source import CSource, Names, environment
from tinyopt.artifact.names import c_comment
from tinyopt.errors import UsageError
from tinyopt.lowering.program import Program
from tinyopt.options import EmitShape
from tinyopt.targets.target import Target

_LONGEST_DESCRIPTION = 200  # of all registries CMSIS-Pack has the lowest limit, 256
_EARLIEST_OF_ZIP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Shape:
    """headers, sources: their folders. texts: for each file, which may name the model, its template."""

    headers: str
    sources: str
    texts: Mapping[str, str]


_SHAPES: Mapping[EmitShape, _Shape] = {
    "cmake": _Shape("include", "src", {"CMakeLists.txt": "cmake-CMakeLists.txt.j2"}),
    "zephyr": _Shape(
        "include",
        "src",
        {
            "zephyr/module.yml": "zephyr-module.yml.j2",
            "Kconfig": "zephyr-Kconfig.j2",
            "CMakeLists.txt": "zephyr-CMakeLists.txt.j2",
        },
    ),
    "esp-idf": _Shape(
        "include",
        "src",
        {"CMakeLists.txt": "esp-idf-CMakeLists.txt.j2", "idf_component.yml": "esp-idf-component.yml.j2"},
    ),
    "arduino": _Shape("src", "src", {"library.properties": "arduino-library.properties.j2"}),
    "platformio": _Shape("include", "src", {"library.json": "platformio-library.json.j2"}),
    "cmsis-pack": _Shape("include", "src", {"tinyopt.{name}.pdsc": "cmsis-pack.pdsc.j2"}),
}


def _cores(names: str, **feature: str) -> tuple[Mapping[str, str], ...]:
    return tuple({"Dcore": f"Cortex-{name}", **feature} for name in names.split())


# As CMSIS-Pack names what has that which generated C asks for. M52, M55 and M85 always have the DSP extension.
_CORES: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "__thumb__": _cores("M0 M0+ M1 M3 M4 M7 M23 M33 M35P M52 M55 M85"),
    "__thumb2__": _cores("M3 M4 M7 M33 M35P M52 M55 M85"),
    "__ARM_FEATURE_DSP": (*_cores("M4 M7 M52 M55 M85"), *_cores("M33 M35P", Ddsp="DSP")),
    "__ARM_FEATURE_MVE": (*_cores("M52 M55 M85", Dmve="MVE"), *_cores("M52 M55 M85", Dmve="FP_MVE")),
}


def check_emit(target: Target, shapes: Sequence[EmitShape]) -> None:
    """Raises UsageError for a shape that what is compiled for `target` cannot have."""
    for shape in shapes:
        if shape != "cmake" and target.code != "c":
            raise UsageError(
                f"--emit {shape} is made of C sources, and target '{target.name}' gives a library: "
                "compile for a cortex-m target or c, or emit cmake"
            )
        if shape == "esp-idf" and target.required_macro:
            raise UsageError(f"--emit esp-idf: no ESP32 runs code for '{target.name}'; compile for the target c")


def write_shapes(folder: Path, shapes: Sequence[EmitShape], program: Program, names: Names, version: str) -> None:
    """Write each shape into `folder`/shape/name, out of the sources or libraries that are in `folder` already.

    version: of tinyopt; its first three numbers are the version of what is written.
    """
    values = _values(program, names, version)
    for shape in dict.fromkeys(shapes):
        place = folder / shape / names.prefix
        _copy_code(folder, place, _SHAPES[shape], program.target.code, names.prefix)
        for name, template in _SHAPES[shape].texts.items():
            file = place / name.format(name=names.prefix)
            file.parent.mkdir(exist_ok=True)
            file.write_text(environment().get_template(f"emit/{template}").render(values), encoding="ascii")
        if shape == "cmsis-pack":
            _write_pack(place, place.parent / f"tinyopt.{names.prefix}.{values['release']}.pack")


def _copy_code(folder: Path, place: Path, shape: _Shape, code: str, prefix: str) -> None:
    """The self-test stays where it is: frameworks compile whatever they find, and it has a `main`."""
    files = {f"{prefix}.h": shape.headers}
    if code == "c":
        files |= {f"{prefix}.c": shape.sources, f"{prefix}_weights.c": shape.sources}
    else:
        files |= {f"lib{prefix}.a": "lib"}
    for name, where in files.items():
        (place / where).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place / where / name)


def _values(program: Program, names: Names, version: str) -> dict[str, Any]:
    numbers = [*re.findall(r"\d+", version), "0", "0", "0"]
    return {
        "p": names.prefix,
        "U": names.upper,
        "comment": c_comment(f"Model {program.graph.name}."),
        "description": c_comment(f"Neural network {program.graph.name}")[:_LONGEST_DESCRIPTION].strip(),
        "version": version,
        "release": ".".join(numbers[:3]),
        "target": program.target.name,
        "code": program.target.code,
        "threads": program.threads,
        "cores": _CORES.get(program.target.required_macro, ()),
        "uses_math": "math.h" in CSource(program, names).headers() if program.target.code == "c" else False,
    }


def _write_pack(place: Path, pack: Path) -> None:
    """A zip file of all in `place`, whose bytes follow from these files alone: no times, and nothing that a version of
    zlib decides."""
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(entry for entry in place.rglob("*") if entry.is_file()):
            info = zipfile.ZipInfo(file.relative_to(place).as_posix(), _EARLIEST_OF_ZIP)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, file.read_bytes())
