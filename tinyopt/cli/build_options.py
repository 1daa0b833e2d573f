"""Options of `tinyopt compile` for build systems: -MF and -MT, as C compilers have them, and --emit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from tinyopt.artifact.depfile import write_depfile
from tinyopt.cli.completing import FILE
from tinyopt.errors import UsageError
from tinyopt.ir import Value
from tinyopt.onnx_import import external_files
from tinyopt.options import CompileOptions, EmitShape

BUILD_OPTIONS = (
    click.option(
        "--emit",
        multiple=True,
        type=click.Choice(get_args(EmitShape)),
        help="Also write a folder that this framework takes as it is; may be given several times.",
    ),
    click.option(
        "-MF",
        "depfile",
        type=FILE,
        metavar="FILE",
        help="Write what the output depends on there, as a rule for Make and Ninja.",
    ),
    click.option("-MT", "depfile_target", metavar="TARGET", help="The target of that rule: your build's stamp file."),
)


@dataclass(frozen=True)
class Depfile:
    """Where the dependencies go, and of what they are."""

    file: Path
    target: str

    @staticmethod
    def of(file: Path | None, target: str | None) -> Depfile | None:
        """Raises UsageError where only one of the two is given."""
        if file is None and target is None:
            return None
        if file is None or not target:
            raise UsageError("-MF FILE and -MT TARGET go together: the target is the file that your build's rule makes")
        return Depfile(file, target)

    def write(self, model: Path, options: CompileOptions, inputs: Sequence[Value], others: Sequence[Path]) -> None:
        """Write the rule. inputs: those of the model as it was imported. others: more that was read."""
        from tinyopt.samples import files_of

        sources = [model, *external_files(model), *others]
        for specs in (options.calibration, options.evaluation):
            if specs:
                sources += files_of(specs, inputs)
        write_depfile(self.file, self.target, sources)
