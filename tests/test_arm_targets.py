"""Arm CPUs by name: each gets the instructions that it has and no others, and the reference's bytes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import tinyopt
from tests.digits import SAMPLES, compiled_digits
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.cpus import on_cpu
from tinyopt.execution.measure import measure
from tinyopt.execution.runner import plugin_library
from tinyopt.execution.validate import validate
from tinyopt.samples import load_samples
from tinyopt.targets.arm import NAMED_CPUS
from tinyopt.toolchain import DEFAULT_COMPILER

OBJDUMP = "aarch64-linux-gnu-objdump"
PLAIN, DOTPROD, I8MM = "plain", "dotprod", "i8mm"

# by the technical reference manuals: FEAT_DotProd is an option of ARMv8.2, FEAT_I8MM of ARMv8.6 and part of ARMv9
FEATURES = {
    "cortex-a53": PLAIN,
    "cortex-a55": DOTPROD,
    "cortex-a72": PLAIN,
    "cortex-a76": DOTPROD,
    "cortex-a78": DOTPROD,
    "cortex-a510": I8MM,
    "cortex-a710": I8MM,
    "cortex-x1": DOTPROD,
    "neoverse-n1": DOTPROD,
    "neoverse-v1": I8MM,
    "apple-m1": DOTPROD,
    "raspberry-pi-3": PLAIN,
    "raspberry-pi-4": PLAIN,
    "raspberry-pi-5": DOTPROD,
}


HWCAPS = Path("/usr/aarch64-linux-gnu/include/asm/hwcap.h")  # Debian's linux-libc-dev-arm64-cross
CPU_FEATURES = Path(tinyopt.__file__).parent / "artifact" / "templates" / "cpu_features.h.j2"


@pytest.mark.skipif(not HWCAPS.is_file(), reason="the kernel's headers for aarch64 are not installed")
def test_features_are_asked_for_by_the_kernel_s_own_bits() -> None:
    bits = dict(re.findall(r"^#define (HWCAP\w+)\s+\(1 << (\d+)\)$", HWCAPS.read_text(), flags=re.MULTILINE))
    asked = re.findall(r"(AT_HWCAP2?)\) >> (\d+) & 1.*/\* (HWCAP\w+) \*/", CPU_FEATURES.read_text())
    assert [name for _, _, name in asked] == ["HWCAP_ASIMDDP", "HWCAP2_I8MM"]
    for word, bit, name in asked:
        assert word == f"AT_{name.split('_')[0]}"
        assert bit == bits[name], name


def need_tools() -> None:
    for program in ("aarch64-linux-gnu-gcc", "qemu-aarch64", OBJDUMP):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH")


def instructions_of(library: Path) -> set[str]:
    """The mnemonics in a library, and "sve" where it names one of SVE's registers."""
    text = subprocess.run([OBJDUMP, "-d", library], capture_output=True, text=True, check=True).stdout
    found = {line.split("\t")[2] for line in text.splitlines() if line.count("\t") >= 2}
    return found | ({"sve"} if re.search(r"\b[zp]\d+[./]", text) else set())


def test_every_cpu_that_the_manuals_describe_has_a_target() -> None:
    assert [target.name for target in NAMED_CPUS] == list(FEATURES)


@pytest.mark.qemu
@pytest.mark.parametrize("cpu", ["cortex-a53", "apple-m1", "cortex-a510", "neoverse-v1"])  # each kind, SVE and SVE2
def test_a_library_has_the_instructions_of_its_cpu_and_gives_the_reference_s_bytes_on_it(cpu: str) -> None:
    need_tools()
    built = load_built_model(compiled_digits(cpu))
    samples = load_samples(SAMPLES, built.graph.inputs, limit=2)
    found = validate(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    instructions = instructions_of(built.folder / "libdigits.so")
    assert ("sdot" in instructions or "smmla" in instructions) == (FEATURES[cpu] != PLAIN)
    assert "smmla" not in instructions or FEATURES[cpu] == I8MM
    assert "sve" not in instructions


@pytest.mark.qemu
@pytest.mark.parametrize(("cpu", "variant"), [("max", "i8mm"), ("cortex-a76", "dotprod"), ("raspberry-pi-4", "neon")])
def test_the_library_for_arm_picks_its_kernels_on_the_cpu_that_runs_it(cpu: str, variant: str) -> None:
    need_tools()
    built = on_cpu(load_built_model(compiled_digits("arm")), cpu)
    samples = load_samples(SAMPLES, built.graph.inputs, limit=2)
    found = validate(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    assert found.variant == variant
    assert built.layers_of(variant) != built.layers_of("neon" if variant != "neon" else "dotprod")


@pytest.mark.qemu
def test_a_library_that_no_feature_makes_faster_asks_the_cpu_for_none() -> None:
    need_tools()
    folder = compiled_digits("arm", is_quantized=False)
    assert "getauxval" not in (folder / "digits.c").read_text()
    assert not load_built_model(folder).variants


VARIANT_MAIN = '#include <stdio.h>\n#include "digits.c"\nint main(void) { puts(digits_variant()); return 0; }\n'


@pytest.mark.qemu
@pytest.mark.parametrize(("march", "variant"), [("armv8-a", "neon"), ("armv8.2-a+dotprod", "dotprod")])
def test_where_no_system_tells_features_the_compiler_s_own_are_taken(march: str, variant: str, tmp_path: Path) -> None:
    need_tools()
    folder = compiled_digits("arm")
    (tmp_path / "main.c").write_text(VARIANT_MAIN)
    flags = ["-U__linux__", f"-march={march}", f"-I{folder}", "-static", "-lm", "-o", f"{tmp_path}/main"]
    subprocess.run(["aarch64-linux-gnu-gcc", f"{tmp_path}/main.c", f"{folder}/libdigits.a", *flags], check=True)
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", "max", tmp_path / "main"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{variant}\n"


@pytest.mark.qemu
def test_a_program_has_its_first_output_after_two_inferences_and_a_million_instructions(tmp_path: Path) -> None:
    need_tools()
    built = load_built_model(compiled_digits("arm"))
    program, counts = tmp_path / "test", tmp_path / "counts.txt"
    sources = [f"{built.folder}/digits_test.c", f"{built.folder}/libdigits.a"]
    subprocess.run(["aarch64-linux-gnu-gcc", "-O2", *sources, "-static", "-lm", "-o", str(program)], check=True)
    plugin = f"{plugin_library(default_cache_dir())},out={counts}"
    command = ["qemu-aarch64", *built.target.emulator.arguments, "-plugin", plugin, str(program)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "PASS\n"
    whole_process = int(counts.read_text().split()[-3])
    (sample,) = load_samples(SAMPLES, built.graph.inputs, limit=1)
    inference = measure(built, [sample], DEFAULT_COMPILER, default_cache_dir()).instructions[0]
    assert inference < whole_process <= 2 * inference + 1_000_000


def test_only_what_qemu_user_runs_can_be_run_on_another_cpu() -> None:
    with pytest.raises(UsageError, match="host"):
        on_cpu(load_built_model(compiled_digits("host")), "cortex-a72")
