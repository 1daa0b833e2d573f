"""Passes, the pipeline that runs them, and the remarks that they leave."""

from __future__ import annotations

import abc
import dataclasses
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import TinyoptError, UsageError
from tinyopt.ir import Graph, Node
from tinyopt.samples import Sample
from tinyopt.verify import verify

ENTRY_POINT_GROUP = "tinyopt.passes"


@dataclass(frozen=True)
class Remark:
    """One thing that a pass did, or could have done and did not, with the reason.

    before, after: the names of the nodes that were replaced and of those that stand in their place.
    """

    kind: Literal["did", "declined", "note"]
    message: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetFacts:
    """What passes may know of the machine: plain values, so that no pass depends on a target."""

    name: str
    channel_multiple: int  # pruned layers keep a multiple of this many channels: the kernels' lane width
    is_integer_preferred: bool  # integers are worth it even where a float unit exists
    has_winograd: bool = False  # float convolutions of 3 x 3 may be computed in tiles, with roundings of their own
    has_float16: bool = False  # vectors of float16, and kernels that use them


@dataclass(frozen=True, eq=False)
class LabelledSamples:
    """Samples and the number of the class of each."""

    samples: Sequence[Sample]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Unpruned:
    """The float graph before channels were removed: what recovery brings the outputs back to.

    graph: its layers have the names that they have in the graph at hand. kept: for each layer that lost output channels
    those that stay, ascending, by the layer's name. A layer that is not in the graph at hand was removed whole.
    """

    graph: Graph
    kept: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class TargetCosts:
    """What a float graph will take on the target, with the kernels that it will get, before it is quantized.

    label: tells the estimates of two targets, of two compilers, and of int8 and float apart. instructions: of one node;
    its values need types but no constants. flash_bytes: the library's code and constants. ram_bytes: the arena.
    flash_note: what flash_bytes leaves out and why; empty where it counts everything.
    """

    label: str
    instructions: Callable[[Node], float]
    flash_bytes: Callable[[Graph], int]
    ram_bytes: Callable[[Graph], int]
    flash_note: str = ""


@dataclass
class PassContext:
    """What a pass is given besides the graph, and where it leaves its remarks."""

    facts: TargetFacts
    samples: Sequence[Sample] = ()  # calibration samples; empty where the user gave none
    seed: int = 0
    remarks: list[Remark] = field(default_factory=list[Remark])
    on_progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    arena_bytes: Callable[[Graph], int] | None = None  # what a graph's activations would take on the target, planned
    original: Graph | None = None  # the model as it came, which accuracy is compared with
    evaluation: LabelledSamples | None = None  # what the user gave to measure accuracy on
    cache_dir: Path | None = None  # for what is slow to observe; None for no cache
    labels: NDArray[np.int64] | None = None  # the class of each calibration sample, where the user gave them
    costs: TargetCosts | None = None  # what float graphs will take on the target
    unpruned: Unpruned | None = None  # what pruning found; None where no layer or channel was removed
    unclustered: Graph | None = None  # a copy of what cluster-weights found; None where nothing was clustered
    float_graph: Graph | None = None  # a copy of what quantize found, whose nodes keep their names; None before it ran
    digests: dict[Graph, bytes] = field(default_factory=dict[Graph, bytes])  # of copies, which stay as they are

    def did(self, message: str, before: Iterable[Node] = (), after: Iterable[Node] = ()) -> None:
        """Say what was changed, and which nodes took the place of which."""
        self._say("did", message, before, after)

    def declined(self, message: str, nodes: Iterable[Node] = ()) -> None:
        """Say what could have been done and was not, and why."""
        self._say("declined", message, nodes, ())

    def note(self, message: str, nodes: Iterable[Node] = ()) -> None:
        """Say what the user should know."""
        self._say("note", message, nodes, ())

    def _say(
        self, kind: Literal["did", "declined", "note"], message: str, before: Iterable[Node], after: Iterable[Node]
    ) -> None:
        self.remarks.append(Remark(kind, message, tuple(n.name for n in before), tuple(n.name for n in after)))


@dataclass(frozen=True)
class Pass(abc.ABC):
    """One graph transformation. Subclasses are frozen dataclasses whose fields are the pass's options.

    The docstring of a subclass has the headings What, Before -> After, Exactness, Refuses when, Source: the command
    line's help and the documentation are printed from it.
    """

    name: ClassVar[str]  # in kebab case, as the command line spells it
    # Whether results are worth keeping on disk. They must follow from the graph, the options, the calibration samples
    # with their labels, `context.unpruned`, `context.unclustered` and `context.float_graph` alone.
    is_costly: ClassVar[bool] = False
    # Whether results follow from `context.facts`, `context.costs` and `context.original` as well.
    is_for_target: ClassVar[bool] = False

    @abc.abstractmethod
    def run(self, graph: Graph, context: PassContext) -> bool:
        """Change `graph` in place; return whether anything changed. Running it twice changes nothing more."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did in one compilation."""

    pass_name: str
    options: dict[str, Any]
    is_changed: bool
    seconds: float
    remarks: tuple[Remark, ...]
    graph: Graph  # as the pass left it


def run_pass(step: Pass, graph: Graph, context: PassContext, before: Graph | None = None) -> PassRecord:
    """Run one pass on `graph` in place, verify what it left, and record it.

    before: a copy of `graph`, if there is one: what the record holds where the pass changes nothing.
    Raises VerifierError where the pass broke the graph, TinyoptError that names the pass where it failed.
    """
    context.remarks = []
    started = time.perf_counter()
    try:
        is_changed = step.run(graph, context)
    except TinyoptError:
        raise
    except Exception as error:
        raise TinyoptError(f"pass '{step.name}' failed, please report it: {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - started
    verify(graph, after=step.name)
    if not is_changed and not context.remarks:
        context.note("nothing here matches")
    return PassRecord(
        step.name,
        dataclasses.asdict(step),
        is_changed,
        seconds,
        tuple(context.remarks),
        graph.copy() if is_changed or before is None else before,  # later passes go on changing the graph itself
    )


def installed_passes() -> dict[str, type[Pass]]:
    """Passes that other packages registered under the entry point group `tinyopt.passes`, by name.

    Raises UsageError where an entry point cannot be loaded or is not a pass, or where two passes have one name.
    """
    found: dict[str, type[Pass]] = {}
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
        except Exception as error:
            raise UsageError(f"pass '{entry.name}' ({entry.value}) cannot be loaded: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Pass) and hasattr(loaded, "name")):
            raise UsageError(
                f"entry point '{entry.name}' ({entry.value}) is not a subclass of tinyopt.Pass with a name"
            )
        if loaded.name in found:
            raise UsageError(f"entry point '{entry.name}' ({entry.value}) is a second pass named '{loaded.name}'")
        found[loaded.name] = loaded
    return found


def pass_module(step: Pass) -> bytes | None:
    """The source file that a pass is in; None where it is in none, as in a notebook."""
    file = getattr(sys.modules.get(type(step).__module__), "__file__", None)
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else None


def with_options(step: Pass, options: Mapping[str, str]) -> Pass:
    """`step` with some options replaced, given as text from the command line.

    Raises UsageError for an unknown option or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(step)}
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise UsageError(f"pass '{step.name}' has no option '{key}'; its options: {known}")
        values[key] = _parse_option(step.name, key, text, getattr(step, key))
    return dataclasses.replace(step, **values)


def _parse_option(pass_name: str, key: str, text: str, present: Any) -> Any:
    """`text` as a value of the present value's type."""
    try:
        if isinstance(present, bool):
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if isinstance(present, tuple):
            return tuple(item for item in text.split(",") if item)
        return type(present)(text)
    except (ValueError, KeyError):
        kind = type(present).__name__
        raise UsageError(f"{pass_name}.{key} takes a {kind}, not '{text}'") from None
