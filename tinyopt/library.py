"""`tinyopt.compile`: the command for Python, with models and samples that are in memory.

Its options become the words of a command line, which the command's own parser reads: there is one way of checking them.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import click
import onnx

from tinyopt.api import compile_imported, no_progress
from tinyopt.artifact.names import c_identifier
from tinyopt.cli.compile_command import compile_command
from tinyopt.cli.compile_options import options_of
from tinyopt.cli.recipe_option import recipe_keys
from tinyopt.compile_result import CompileResult
from tinyopt.errors import TinyoptError, UsageError
from tinyopt.in_memory import Samples, Stored, store_model, store_samples
from tinyopt.ir import Value
from tinyopt.library_options import Options
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Pass
from tinyopt.recipes import Origin, Recipe
from tinyopt.samples import paths_of

OWN_PARAMETERS = frozenset({"model", "output", "target", "calib", "eval", "recipe"})
"""Of `compile`, and not of `Options`."""
_LISTS = ("keep", "disable-pass", "emit")  # options that are given once for each item


def compile(  # noqa: A001 - users call it tinyopt.compile
    model: onnx.ModelProto | str | Path | None = None,
    output: str | Path | None = None,
    *,
    target: str | None = None,
    calib: Samples | None = None,
    eval: Samples | None = None,
    passes: Sequence[Pass] = (),
    recipe: str | Path | None = None,
    on_progress: Callable[[str, int, int], None] = no_progress,
    **options: Unpack[Options],
) -> CompileResult:
    """Compile an ONNX model as `tinyopt compile` does, to the same bytes.

    model: the path of an ONNX file, or a model in memory, which is called `name` then. output: the folder to write;
    None for one that vanishes with the result. target: see `tinyopt targets`; "arm" unless told. calib: calibration
    samples: an array of shape [samples, *shape of the input], a mapping of such by the names of the inputs, a tuple of
    samples and the class of each, anything that gives one sample after the other (only one is in memory at a time), or
    what --calib takes: a path, `file.npz:array`, "random"; without any the model stays float. eval: labelled samples to
    measure top-1 on, a tuple or what --eval takes. passes: passes of your own, run on the fused float graph before
    quantization. recipe: a TOML file with options; what is given here goes before. on_progress: called with what is
    done, how much of it, and of how much. options: see `Options`, and `tinyopt compile --help`.

    Raises TinyoptError, whose `exit_code` is that of the command: UsageError for what cannot be meant,
    InvalidModelError for a model or samples that are broken, unsupported or beyond the limits, AccuracyError and
    BudgetError where a limit is missed, ToolchainError where a compiler is missing. Nothing is written then. See
    docs/python-api.md.
    """
    words = _words({**options, "target": target, "recipe": recipe})
    given = _parse([*words, str(model)] if isinstance(model, str | Path) else words)
    if model is None and given["model"] is None:
        raise UsageError("no model: give a path, an onnx.ModelProto, or a recipe that names one")
    asked = options_of(given)
    temporary = None if output or given["output"] else tempfile.TemporaryDirectory(prefix="tinyopt-result-")
    folder = Path(output or given["output"] or Path(temporary.name if temporary else "") / "out")
    with tempfile.TemporaryDirectory(prefix="tinyopt-inputs-") as work, _without(Path(work)):
        file = given["model"]
        if isinstance(model, onnx.ModelProto):
            file = Path(work) / f"{c_identifier(asked.name or 'model')}.onnx"
            store_model(model, file)
        imported = import_model(file, asked.shapes)
        stored = {
            "calib": None if calib is None else store_samples(calib, Path(work), "calib", asked.calibration_samples),
            "eval": None if eval is None else store_samples(eval, Path(work), "eval"),
        }
        _check_names(stored, imported.graph.inputs)
        asked = _with_samples(asked, stored)
        origin = _origin(file, folder, asked, stored, given["recipe"], Path(work))
        result = compile_imported(imported, file, folder, asked, on_progress, origin=origin, passes=passes)
    return replace(result, temporary=temporary)


def _words(options: Mapping[str, object]) -> list[str]:
    """The options as words of the command line. Raises UsageError for one that there is not."""
    known = recipe_keys(compile_command)
    words: list[str] = []
    for name, value in options.items():
        key = name.replace("_", "-")
        if key != "recipe" and (key not in known or "-" in name):
            names = sorted(other.replace("-", "_") for other in known)
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise UsageError(f"there is no option '{name}'; the nearest is '{nearest}'")
        if isinstance(value, bool):
            words += [f"--{key}"] if value else _switched_off(known[key], key)
        elif value is not None:
            words += [f"--{key}={text}" for text in _texts(key, value)]
    return words


def _switched_off(parameter: click.Parameter, key: str) -> list[str]:
    """Flags that can only be switched on are left out."""
    return [f"--no-{key}"] if f"--no-{key}" in parameter.secondary_opts else []


def _texts(key: str, value: object) -> list[str]:
    if key == "set" and isinstance(value, Mapping):
        return [f"{step}.{option}={v}" for step, settings in value.items() for option, v in settings.items()]
    if key == "mem" and isinstance(value, Mapping):
        return [",".join(f"{name}={size}" for name, size in value.items())]
    if isinstance(value, Mapping):
        return [f"{name}={_joined(item)}" for name, item in value.items()]
    if key in _LISTS and isinstance(value, Sequence) and not isinstance(value, str):
        return [str(item) for item in value]
    return [_joined(value)]


def _joined(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(item) for item in value)
    return str(value)


def _parse(words: list[str]) -> dict[str, Any]:
    """What the command makes of the words. Raises UsageError as it does."""
    try:
        with compile_command.make_context("tinyopt.compile", words) as context:
            return dict(context.params)
    except click.ClickException as error:
        raise UsageError(" ".join(error.format_message().split())) from None


def _check_names(stored: Mapping[str, Stored | None], inputs: Sequence[Value]) -> None:
    known = [value.name for value in inputs]
    for what, found in stored.items():
        if found is not None and found.inputs and set(found.inputs) != set(known):
            raise UsageError(f"{what} has arrays for {', '.join(found.inputs)}; the model's inputs: {', '.join(known)}")


def _with_samples(options: CompileOptions, stored: Mapping[str, Stored | None]) -> CompileOptions:
    calibration, evaluation = stored["calib"], stored["eval"]
    if calibration is not None:
        options = replace(options, calibration=calibration.specs)
    if evaluation is not None:
        if len(evaluation.specs) != 1:
            raise UsageError("eval takes one source: a tuple of samples and labels, or what --eval takes")
        options = replace(options, evaluation=evaluation.specs[0])
    return options


def _origin(
    model: Path,
    output: Path,
    options: CompileOptions,
    stored: Mapping[str, Stored | None],
    recipe: Recipe | None,
    work: Path,
) -> Origin:
    """Files of `work` stand for such beside the others, so that the lock finds them there."""
    named = [model, *paths_of(options.calibration)] if options.calibration else [model]
    given = (path for path in named if path.parent != work)
    beside = next(given, output).parent
    made = [model] if model.parent == work else []
    made += [path for found in stored.values() if found is not None for path in found.files]
    origin = Origin() if recipe is None else recipe.origin
    return replace(origin, stand_ins={path: beside / path.name for path in made})


@contextmanager
def _without(work: Path) -> Generator[None]:
    """What is said of files in `work` names them as if they were the caller's."""
    try:
        yield
    except TinyoptError as error:
        error.args = tuple(str(part).replace(f"{work}/", "") for part in error.args)
        raise
