"""The text report, report.csv and the diff of the passes: what they say, and that names from a model stay names."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tests.digits import MODEL, compiled_digits
from tests.graph_builder import GraphBuilder, context_for, graph_of
from tinyopt.ir import Value
from tinyopt.pass_manager import run_pass
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.report.changes import ChangePrinter, changed_lines
from tinyopt.report.csv import ENCODING, layers_csv
from tinyopt.report.gate import accuracy_gate
from tinyopt.report.sources import layer_sources
from tinyopt.report.text import plain_text, renderable


def report_of_digits() -> dict[str, Any]:
    report: dict[str, Any] = json.loads((compiled_digits("c") / "report.json").read_text())
    return report


def lines_of(report: dict[str, Any]) -> list[str]:
    return plain_text(report).splitlines()


def shown(what: RenderableType, width: int, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, force_terminal=colour)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def conv_relu(build: GraphBuilder) -> Value:
    x = build.input("x", (1, 2, 4, 4))
    return build("Relu", build("Conv", x, build.random((3, 2, 1, 1)), name="stem"), name="act")


def test_the_csv_has_one_line_for_each_layer_with_the_reports_figures() -> None:
    report = report_of_digits()
    text = (compiled_digits("c") / "report.csv").read_bytes().decode(ENCODING)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(report["layers"])
    for row, layer in zip(rows, report["layers"], strict=True):
        found = (row["name"], int(row["macs"]), int(row["weight_bytes"]), int(row["arena_offset"]), row["kernel"])
        assert found == (layer["name"], layer["macs"], layer["weight_bytes"], layer["offset"], layer["kernel"])


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "＝1", "\r=1"])
def test_no_name_becomes_a_formula_in_a_spreadsheet(name: str) -> None:
    report = report_of_digits()
    report["layers"] = [report["layers"][0] | {"name": name, "origins": [name]}]
    (row,) = csv.DictReader(io.StringIO(layers_csv(report), newline=""))
    assert row["name"] == row["origins"] == "'" + name


def test_commas_quotes_and_line_ends_in_names_stay_in_their_cell() -> None:
    report = report_of_digits()
    name = 'a,"b"\nc; مرحبا 🙂'
    report["layers"] = [report["layers"][0] | {"name": name}]
    (row,) = csv.DictReader(io.StringIO(layers_csv(report), newline=""))
    assert row["name"] == name


def test_the_report_states_hash_boundary_costs_with_their_change_and_memory() -> None:
    report = report_of_digits()
    lines = plain_text(report).splitlines()
    before, after = report["before"], report["after"]
    texts = {line.split("  ")[0]: line for line in lines}
    assert report["model"]["sha256"] in texts["model hash"]
    (x,) = report["inputs"]
    assert f"scale {x['scale']:.7g}, zero point {x['zero_point']}" in texts["input 1/1"] or x["scale"] is None
    weights = after["flash_constant_bytes"]
    assert f"{weights:,} B" in texts["weights (flash)"]
    assert f"{weights - before['weight_bytes']:+,}" in texts["weights (flash)"]
    assert f"{after['arena_bytes']:,} B" in texts["activations (RAM)"]
    assert max(map(len, lines)) <= 120


def test_the_report_says_where_the_calibration_samples_came_from() -> None:
    report = report_of_digits()
    assert any(line.split() == "calibration 20 samples of digits.npz:calib".split() for line in lines_of(report))
    report["calibration"] |= {"is_random": True, "source": "random"}
    assert any(line.split() == "calibration 20 samples of noise".split() for line in lines_of(report))


def test_the_report_says_what_the_accuracy_gate_allowed_and_what_was_lost() -> None:
    report = report_of_digits()
    assert accuracy_gate(report, None) is None
    (step,) = [step for step in report["passes"] if step["name"] == "limit-drop"]
    step["remarks"] = [{"kind": "note", "message": "0.20 points lost in int8"}]
    said = accuracy_gate(report, 0.5)
    assert said == {"limit_points": 0.5, "lost_points": None, "text": "0.20 points lost in int8"}
    report["evaluation"] = {"float_top1": 0.75, "compiled_top1": 0.5, "samples": 8, "agreement": 1, "source": "it"}
    report["gate"] = gate = accuracy_gate(report, 30.0)
    assert gate is not None
    assert gate["lost_points"] == 25.0
    lost = "25.00 points lost, allowed are 30.00 points"
    assert lines_of(report)[-1] == f"accuracy gate: {lost}: top-1 of the compiled model on 8 labelled samples"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_number_of_the_layer_table_is_cut(width: int) -> None:
    report = report_of_digits()
    text = shown(renderable(report), width)
    for layer in report["layers"]:
        assert f"{layer['macs']:,}" in text
        assert f"{layer['weight_bytes']:,}" in text


def test_names_do_not_steer_the_terminal() -> None:
    report = report_of_digits()
    report["layers"][0]["origins"] = ["\x1b[31m\nred"]
    report["inputs"][0]["name"] = "[bold]\x07"
    text = plain_text(report)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "'[bold]?'" in text


def test_sources_count_every_original_node_and_constant_once() -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x, shared = build.input("x", (1, 2, 4, 4)), build.random((2, 2, 1, 1))
        first = build("Conv", x, shared, name="first")
        return [build("Relu", first, name="left"), build("Conv", first, shared, name="second")]

    graph = graph_of(body)
    layers = [graph.nodes[1], graph.nodes[2]]
    layers[0].origins, layers[1].origins = ("first", "left"), ("first", "second")
    sources = layer_sources(graph_of(body), layers)
    assert [source["operators"] for source in sources] == [["Conv", "Relu"], ["Conv"]]
    assert [source["weight_bytes"] for source in sources] == [16, 0]
    assert [source["macs"] for source in sources] == [64, 64]


def test_the_sources_of_digits_sum_up_to_the_original() -> None:
    report = report_of_digits()
    assert sum(layer["source"]["weight_bytes"] for layer in report["layers"]) == report["before"]["weight_bytes"]


def test_the_diff_of_a_pass_shows_the_lines_that_changed_and_no_others() -> None:
    graph = graph_of(conv_relu)
    printer = ChangePrinter(graph.copy())
    lines = [str(line) for line in printer.after(1, run_pass(FuseOperators(), graph, context_for()))]
    assert lines[0] == "*** 01 fuse-operators: 2 -> 1 nodes"
    assert [line[0] for line in lines[1:]] == ["@", " ", "-", "-", "+", " "]
    assert "clamp_low = 0" in next(line for line in lines if line.startswith("+"))
    again = [str(line) for line in printer.after(2, run_pass(FuseOperators(), graph, context_for()))]
    assert len(again) == 1
    assert again[0].startswith("*** 02 fuse-operators: no change: ")


def test_both_forms_of_a_line_stand_together_and_what_differs_is_bold() -> None:
    before = ["%a: f32[1] = Relu(%x)", "%b: f32[1] = Relu(%a)", "%c: f32[1] = Relu(%b)"]
    after = ["%a: f32[2] = Relu(%x)", "%b: f32[2] = Relu(%a)", "%c: f32[1] = Relu(%b)"]
    lines = list(changed_lines(before, after))
    assert [str(line)[:3] for line in lines] == ["@@ ", "-%a", "+%a", "-%b", "+%b", " %c"]
    (span,) = lines[2].spans
    assert (str(lines[2])[span.start : span.end], span.style) == ("2", "bold")


def test_colours_are_left_out_where_the_user_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [line for line in changed_lines(["%a: f32[1] = Relu(%x)"], []) if str(line).startswith("-")]
    assert "\x1b[31m" in shown(line, 100, colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in shown(line, 100, colour=True)


def test_the_diff_of_passes_and_json_cannot_share_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinyopt.cli", "compile", str(MODEL), "-o", str(tmp_path / "out")]
    done = subprocess.run([*command, "--print-changed", "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --print-changed and --json")
    assert not (tmp_path / "out").exists()


def test_what_the_passes_changed_is_printed_also_where_a_later_one_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tinyopt.cli", "compile", str(MODEL), "-t", "c", "-o", str(tmp_path / "out")]
    failing = [*command, "--print-changed", "--set", "prune-channels.ratio=7"]
    done = subprocess.run(failing, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    headings = [line for line in done.stdout.splitlines() if line.startswith("*** ")]
    assert headings[0].startswith("*** 01 fold-constants: ")
    assert any("nhwc-layout" in line for line in headings)
    assert not any("prune-channels" in line for line in headings)
    assert "\x1b" not in done.stdout  # a pipe has no colours
