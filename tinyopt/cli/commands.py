"""The `tinyopt` command. Its subcommands are imported when they are asked for: each needs other parts of tinyopt."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from tinyopt import __version__
from tinyopt.cmake import FOLDER as CMAKE_FOLDER

COMMANDS = {
    "init": "init_command",
    "analyze": "analyze_command",
    "compile": "compile_command",
    "run": "execute_commands",
    "validate": "execute_commands",
    "profile": "execute_commands",
    "debug-quant": "debug_quant_command",
    "diff": "diff_command",
    "passes": "list_commands",
    "targets": "list_commands",
    "cache": "cache_command",
    "completion": "completion_command",
}
"""The subcommands, and the modules of `tinyopt.cli` that hold them."""


class _Commands(click.Group):
    """A group whose usage errors look like all others: one line that begins with `error:`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"tinyopt.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            result = super().main(*args, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = error.ctx if isinstance(error, click.UsageError) else None
            hint = f" (see {context.command_path} --help)" if context else ""
            click.echo(f"error: {' '.join(error.format_message().split())}{hint}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(130)
        # without standalone mode click returns what ctx.exit() was given, such as 0 after --help
        sys.exit(result if isinstance(result, int) else 0)


def _print_cmake_folder(context: click.Context, _parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        click.echo(CMAKE_FOLDER)
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tinyopt")
@click.option(
    "--cmake-dir",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_cmake_folder,
    help="Print the folder for CMake's -Dtinyopt_DIR, and exit.",
)
def main() -> None:
    """Compile trained ONNX models into small, self-contained C libraries for Arm.

    \b
    tinyopt analyze model.onnx                   operators, MACs, memory, what is not supported
    tinyopt init model.onnx                      write a recipe: every option, for compile --recipe
    tinyopt compile model.onnx --target cortex-m4 --calib samples.npz:x -o out
    tinyopt validate out --data samples.npz:x    check the compiled bytes, layer by layer
    tinyopt profile out                          instructions per layer, under QEMU
    tinyopt debug-quant model.onnx --calib samples.npz:x    which layers quantization hurts, and what to do
    tinyopt diff model.onnx edited.onnx          which nodes differ
    tinyopt run out --input samples.npz:x        run the compiled model, under QEMU where it is for Arm
    tinyopt targets                              what there is to compile for
    tinyopt passes                               what is done on the way, in this order
    tinyopt completion bash                      the script that makes a shell complete all this

    Exit codes: 0 ok, 1 internal error, 2 usage, 3 model invalid or unsupported, 4 accuracy below --max-drop,
    5 memory or --max-cycles too small, 6 verification mismatch or models that differ, 7 compiler or emulator missing.
    """
