"""Running passes: their options, their order, their remarks, and what happens where one is wrong."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, graph_of
from tinyopt.errors import TinyoptError, UsageError, VerifierError
from tinyopt.ir import Graph, Node, Quantization, TensorType, Value
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Pass, PassContext, run_pass, with_options
from tinyopt.pipeline import DEFAULT_PASSES, build_pipeline, measure_drift, run_pipeline
from tinyopt.samples import random_samples


@dataclass(frozen=True)
class Tweak(Pass):
    """A pass of another package, with an option of every kind."""

    name: ClassVar[str] = "tweak"
    amount: float = 1.0
    count: int = 2
    is_eager: bool = False
    method: str = "plain"
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not graph.nodes or graph.nodes[-1].op == "Neg":
            return False
        for node in graph.nodes:
            for value in node.inputs:
                if value is not None and value.constant is not None and value.dtype == "float32":
                    value.constant = value.constant + np.float32(self.amount)
        context.did("tweaked")
        return True


@dataclass(frozen=True)
class Breaking(Pass):
    """Does something to the graph and says nothing."""

    name: ClassVar[str] = "breaking"
    damage: Callable[[Graph], object] = field(default=lambda _graph: None)

    def run(self, graph: Graph, context: PassContext) -> bool:
        self.damage(graph)
        return False


def small_graph() -> Graph:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 4))
        return build("Relu", build("Add", x, build.random((1, 4)), name="sum"), name="last")

    return graph_of(body)


def test_options_are_read_from_text_by_the_type_of_their_default() -> None:
    texts = {"amount": "2.5", "count": "7", "is_eager": "true", "method": "x", "keep": "stem,head"}
    assert with_options(Tweak(), texts) == Tweak(2.5, 7, True, "x", ("stem", "head"))
    assert with_options(Tweak(is_eager=True), {"is_eager": "False"}) == Tweak()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amonut": "1"}, "pass 'tweak' has no option 'amonut'; its options: amount, count, is_eager, method, keep"),
        ({"amount": "much"}, "tweak.amount takes a float, not 'much'"),
        ({"count": "1.5"}, "tweak.count takes a int, not '1.5'"),
        ({"is_eager": "perhaps"}, "tweak.is_eager takes a bool, not 'perhaps'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_possible(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_options(Tweak(), options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [
        CompileOptions(settings={"prun": {"ratio": "0.1"}}),
        CompileOptions(disabled_passes=("prun",)),
        CompileOptions(settings={"prune-channels": {"ration": "0.1"}}),
        CompileOptions(settings={"prune-channels": {"ratio": "nan"}}),
        CompileOptions(settings={"prune-channels": {"ratio": "7"}}),
        CompileOptions(settings={"cluster-weights": {"clusters": "1"}}),
        CompileOptions(settings={"quantize": {"method": "magic"}}),
        CompileOptions(settings={"quantize": {"percentile": "-3"}}),
        CompileOptions(settings={"lower-integer": {"boundary": "int9"}}),
    ],
    ids=lambda options: str(options.settings or options.disabled_passes),
)
def test_unknown_passes_options_and_impossible_values_are_usage_errors(options: CompileOptions) -> None:
    graph = small_graph()
    samples = random_samples(graph.inputs, 2, 0)
    with pytest.raises(UsageError):
        run_pipeline(graph, build_pipeline(options, "float"), context_for(samples), samples)


def test_disabled_passes_are_left_out_and_the_others_keep_their_order() -> None:
    options = CompileOptions(disabled_passes=("simplify", "quantize"), recover="distill")
    steps = build_pipeline(options, "float")
    assert [type(step) for step in steps] == [
        step for step in DEFAULT_PASSES if step.name not in ("simplify", "quantize", "convert-to-float16")
    ]


@pytest.mark.parametrize(
    ("recover", "passes"),
    [
        ("none", []),
        ("normalization", ["reestimate-normalization"]),
        ("refit", ["refit-weights", "reestimate-normalization"]),
        ("distill", ["refit-weights", "reestimate-normalization", "distill"]),
    ],
)
def test_recovery_runs_the_passes_up_to_the_one_that_is_named(recover: str, passes: list[str]) -> None:
    names = [step.name for step in build_pipeline(CompileOptions(recover=recover), "float")]  # type: ignore[arg-type]
    assert [name for name in names if name in ("refit-weights", "reestimate-normalization", "distill")] == passes


def test_options_with_a_place_of_their_own_reach_their_passes_and_set_beats_them() -> None:
    options = CompileOptions(prune=0.3, cluster=16, settings={"cluster-weights": {"clusters": "8"}})
    steps = {step.name: step for step in build_pipeline(options, "int8")}
    found = [getattr(steps[name], key) for name, key in (("prune-channels", "ratio"), ("cluster-weights", "clusters"))]
    assert found == [0.3, 8]
    assert getattr(steps["lower-integer"], "boundary") == "int8"  # noqa: B009 - the step is known as a Pass only


class EntryPoint:
    """Stands in for what another package registers."""

    value = "other_package:Tweak"

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self._loaded = name, loaded

    def load(self) -> Any:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        return list(entries) if group == "tinyopt.passes" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_a_pass_of_another_package_runs_before_clustering_and_leaves_remarks(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, EntryPoint("tweak", Tweak))
    steps = build_pipeline(CompileOptions(settings={"tweak": {"amount": "3"}}), "float")
    names = [step.name for step in steps]
    assert names.index("tweak") + 1 == names.index("cluster-weights")
    graph = small_graph()
    results = run_pipeline(graph, steps, context_for(), random_samples(graph.inputs, 2, 0))
    (record,) = (result.record for result in results if result.record.pass_name == "tweak")
    assert [remark.message for remark in record.remarks] == ["tweaked"]
    assert record.options["amount"] == 3.0


def test_passes_of_other_packages_run_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    first = type("First", (Tweak,), {"name": "first"})
    install(monkeypatch, EntryPoint("z", Tweak), EntryPoint("a", first))
    names = [step.name for step in build_pipeline(CompileOptions(), "float")]
    assert names.index("first") < names.index("tweak")


@pytest.mark.parametrize(
    ("loaded", "word"),
    [
        (ImportError("no module named torch"), "cannot be loaded: no module named torch"),
        (int, "is not a subclass"),
        (type("Nameless", (Pass,), {"run": lambda *_: False}), "with a name"),
        (type("Twin", (Tweak,), {"name": "quantize"}), "built-in name: 'quantize'"),
        (type("Abstract", (Pass,), {"name": "abstract"}), "needs a default for each of its options"),
    ],
)
def test_what_other_packages_did_wrong_is_said(loaded: Any, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, EntryPoint("bad", loaded))
    with pytest.raises(UsageError, match=word):
        build_pipeline(CompileOptions(), "float")


def break_order(graph: Graph) -> None:
    graph.nodes.reverse()


def break_type(graph: Graph) -> None:
    graph.nodes[0].output.type = TensorType("float32", (1, 5))


def break_constant(graph: Graph) -> None:
    graph.nodes[0].input(1).constant = np.zeros((1, 4), np.int8)


def break_node_name(graph: Graph) -> None:
    graph.nodes[1].name = graph.nodes[0].name


def break_value_name(graph: Graph) -> None:
    graph.nodes[1].output.name = "x"


def break_operator(graph: Graph) -> None:
    graph.nodes[0].op = "Plus"


def break_attributes(graph: Graph) -> None:
    graph.nodes[0] = Node("Concat", "sum", graph.nodes[0].inputs, graph.nodes[0].outputs)


def break_production(graph: Graph) -> None:
    graph.nodes.append(Node("Relu", "again", [graph.inputs[0]], [graph.nodes[1].output]))


def break_constant_output(graph: Graph) -> None:
    graph.nodes[1].output.constant = np.zeros((1, 4), np.float32)


def break_scales(graph: Graph) -> None:
    graph.nodes[0].output.quantization = Quantization.per_channel([1.0, 1.0], [0, 0], axis=1)


def break_removal(graph: Graph) -> None:
    graph.remove([graph.nodes[1]])


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (break_order, "Relu 'last' reads 'sum_out' before it is produced"),
        (break_type, "Add 'sum' gives"),
        (break_constant, "constant 'w' of Add 'sum' is"),
        (break_node_name, "two nodes are named 'sum'"),
        (break_value_name, "two values are named 'x'"),
        (break_operator, "Plus 'sum' is no known operator"),
        (break_attributes, "Concat 'sum' has impossible inputs or attributes"),
        (break_production, "Relu 'again' produces 'last_out', which is there already"),
        (break_constant_output, "Relu 'last' produces 'last_out', which is a constant"),
        (break_scales, "'sum_out' of shape [1, 4] has 2 scales along axis 1"),
        (break_removal, "graph output 'last_out' is produced by no node"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_caught_and_named(damage: Callable[[Graph], object], what: str) -> None:
    with pytest.raises(VerifierError) as caught:
        run_pass(Breaking(damage), small_graph(), context_for())
    assert str(caught.value).startswith(f"after breaking: {what}")


def test_a_pass_that_fails_is_named() -> None:
    def divide(graph: Graph) -> float:
        return 1 / (len(graph.nodes) - 2)

    with pytest.raises(TinyoptError, match="pass 'breaking' failed, please report it: ZeroDivisionError"):
        run_pass(Breaking(divide), small_graph(), context_for())


def test_a_pass_that_found_nothing_says_so() -> None:
    (remark,) = run_pass(Breaking(), small_graph(), context_for()).remarks
    assert (remark.kind, remark.message) == ("note", "nothing here matches")


def test_every_pass_of_the_default_pipeline_leaves_a_remark() -> None:
    graph = small_graph()
    steps = build_pipeline(CompileOptions(), "float")
    for result in run_pipeline(graph, steps, context_for(), random_samples(graph.inputs, 1, 0)):
        assert result.record.remarks, result.record.pass_name


def test_a_record_keeps_the_graph_as_its_pass_left_it() -> None:
    graph = small_graph()
    record = run_pass(Breaking(), graph, context_for())
    graph.remove([graph.nodes[1]])
    assert len(record.graph.nodes) == 2


def test_drift_is_measured_against_the_graph_before_the_pass() -> None:
    graph = small_graph()
    samples = [{"x": np.full((1, 4), 10, np.float32)}]  # so large that Relu passes everything on
    steps = [Tweak(amount=0.5), Breaking(), type("Second", (Tweak,), {"name": "second"})(amount=0.25)]
    drifts = [result.drift for result in run_pipeline(graph, steps, context_for(), samples)]
    assert drifts[1] is None
    assert [drift.max_abs for drift in drifts if drift] == pytest.approx([0.5, 0.25])


def test_the_ratio_of_signal_to_noise_is_in_decibels() -> None:
    drift = measure_drift([[np.array([3.0, 4.0])]], [[np.array([3.0, 4.5])]])
    assert drift.max_abs == 0.5
    assert drift.snr_db == pytest.approx(20.0)  # 25 against 0.25
    assert measure_drift([[np.zeros(1)]], [[np.zeros(1)]]).snr_db == np.inf
