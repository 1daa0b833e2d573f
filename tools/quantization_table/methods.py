"""The rows of the table: what is switched on in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyopt.options import CompileOptions
from tinyopt.passes.quantization.ranges import METHODS as RANGE_METHODS
from tinyopt.passes.quantize import AUTO

EQUALIZE, ROUND, CORRECT = ADD_ONS = ("equalize-layers", "round-weights", "correct-biases")

DEFAULT = "default"
Settings = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Method:
    """One row: the passes that are left out, and the options of the others."""

    name: str
    group: str
    disabled: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict[str, Mapping[str, str]])
    is_quick: bool = False

    def options(self) -> CompileOptions:
        return CompileOptions(disabled_passes=self.disabled, settings=self.settings)


def methods() -> list[Method]:
    """All rows that the compiler's own passes give, in the order of the table."""
    return [*_ranges(), *_step_by_step(), *_one_alone(), *_without_one(), *_four_bits()]


def _ranges() -> list[Method]:
    """Ranges and nearest integers, nothing else; logits as narrow as everything."""
    group = "Ranges alone"
    found = [
        _method(name, group, (), {"method": name, "wide_logits": "false"}, name in ("minmax", AUTO))
        for name in (*RANGE_METHODS, AUTO)
    ]
    return [*found, _method("auto, one scale per tensor", group, (), {"wide_logits": "false", "per_channel": "false"})]


def _step_by_step() -> list[Method]:
    group = "Step by step"
    return [
        _method("auto, int16 logits", group, (), {}),
        _method("+ equalize-layers", group, (EQUALIZE,), {}),
        _method("+ round-weights", group, (EQUALIZE, ROUND), {}),
        Method("+ correct-biases, analytic", group, settings={CORRECT: {"method": "analytic"}}),
        Method(DEFAULT, group, is_quick=True),
    ]


def _one_alone() -> list[Method]:
    group = "One alone, over auto with int8 logits"
    narrow = {"wide_logits": "false"}
    analytic = Method(
        "correct-biases, analytic", group, (EQUALIZE, ROUND), {"quantize": narrow, CORRECT: {"method": "analytic"}}
    )
    return [*(_method(name, group, (name,), narrow) for name in ADD_ONS), analytic]


def _without_one() -> list[Method]:
    group = "Default without one"
    return [
        *(Method(f"without {name}", group, (name,)) for name in ADD_ONS),
        _method("without int16 logits", group, ADD_ONS, {"wide_logits": "false"}),
        _method("minmax in place of auto", group, ADD_ONS, {"method": "minmax"}),
    ]


def _four_bits() -> list[Method]:
    group = "4-bit weights"
    four = {"weight_bits": "4"}
    return [
        _method("nearest integers", group, (), four),
        _method("round-weights alone", group, (ROUND,), four),
        _method("all, without round-weights", group, (EQUALIZE, CORRECT), four),
        _method("all", group, ADD_ONS, four),
    ]


def _method(
    name: str, group: str, add_ons: tuple[str, ...], quantize: Mapping[str, str], is_quick: bool = False
) -> Method:
    """With these of the add-ons alone."""
    disabled = tuple(other for other in ADD_ONS if other not in add_ons)
    return Method(name, group, disabled, {"quantize": quantize}, is_quick)
