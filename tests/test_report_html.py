"""The data of report.html, its layout, and what it says of the passes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.digits import compiled_digits
from tests.report_pages import HOSTILE, chain, embedded_data, page_of
from tinyopt.api import optimize
from tinyopt.emulation import FOLDER as EMULATION
from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.report.html.build import read_page, refresh_page
from tinyopt.report.html.layout import ROW, lay_out
from tinyopt.samples import load_samples, random_samples
from tinyopt.targets import target_named


def test_a_chain_is_a_straight_line_and_a_long_one_is_set_in_columns() -> None:
    short = lay_out(range(4), [(0, 1), (1, 2), (2, 3)], 100.0)
    assert {x for x, _ in short.places.values()} == {50.0}
    assert [short.places[i][1] for i in range(4)] == [ROW * (i + 0.5) for i in range(4)]
    long = lay_out(range(100), [(i, i + 1) for i in range(99)], 100.0)
    assert len(long.columns) > 3
    assert len({round(x) for x, _ in long.places.values()}) == len(long.columns)
    assert long.height < 100 * ROW / 3


def test_an_edge_past_a_layer_gets_room_beside_it_and_no_two_vertices_share_a_place() -> None:
    layout = lay_out(range(6), [(0, 1), (1, 2), (2, 3), (0, 3), (4, 5)], 100.0)
    assert len(layout.bends[0, 3]) == 2
    assert all(x != layout.places[1][0] for x, _ in layout.bends[0, 3])
    assert len(set(layout.places.values())) == len(layout.places)


def test_cycles_and_loops_and_lone_vertices_are_laid_out_too() -> None:
    layout = lay_out([0, 1, 2, 7], [(0, 1), (1, 2), (2, 0), (1, 1)], 100.0)
    assert {0, 1, 2, 7} <= set(layout.places)
    assert lay_out([], [], 100.0).places == {}


def test_surviving_nodes_stand_at_one_place_and_fused_ones_name_their_sources() -> None:
    data = embedded_data(page_of(chain(6)))
    view = data["views"][data["stage_views"][-1]]
    nodes = [cell for cell in view["cells"] if "terminal" not in cell]
    cells = {data["nodes"][(cell.get("after") or cell["before"])[0]]["name"]: cell for cell in nodes}
    assert cells["conv"]["after"][1] == "fused"
    assert cells["relu"]["before"][1] == "merged"
    assert "after" not in cells["relu"]
    sources = [view["cells"][number] for number in cells["conv"]["sources"]]
    assert [data["nodes"][cell["before"][0]]["op"] for cell in sources] == ["Conv", "Relu"]


def test_a_page_is_the_same_whatever_the_hash_seed() -> None:
    code = "from tests.report_pages import *; print(page_of(chain(60)))"
    root = Path(__file__).resolve().parents[1]
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}:{root / 'tests'}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_hostile_names_are_nowhere_but_in_the_data_block_and_cannot_end_it() -> None:
    graph = chain(2 * len(HOSTILE), HOSTILE)
    graph.name = HOSTILE[0]
    page = page_of(graph)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "alert(1)" in page  # inside of the data, escaped
    data = embedded_data(page)
    assert data["report"]["model"]["file"] == HOSTILE[0]
    assert set(HOSTILE) <= {node["name"] for node in data["nodes"]}


def test_the_page_holds_the_report_as_it_was_written_and_instruction_counts_once_they_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(compiled_digits("cortex-m4"), folder)
    report = json.loads((folder / "report.json").read_text())
    assert read_page(folder / "report.html")["report"] == report
    assert read_page(folder / "report.html")["profile"] is None
    counts = {"layers": [{"name": layer["name"], "instructions": 5} for layer in report["layers"]]}
    refresh_page(folder, counts)
    assert read_page(folder / "report.html")["profile"] == counts
    assert json.loads((folder / "profile.json").read_text()) == counts
    assert (folder / "report.html").stat().st_size < 1_000_000
    (folder / "report.html").write_text("no page")
    with pytest.raises(InvalidModelError, match="holds no data"):
        read_page(folder / "report.html")


def test_buffers_fit_into_the_arena_and_overlap_only_where_one_takes_over_from_the_other() -> None:
    report = json.loads((compiled_digits("cortex-m4") / "report.json").read_text())
    buffers = report["buffers"]
    assert max(b["offset"] + b["bytes"] for b in buffers) <= report["after"]["arena_bytes"]
    for i, a in enumerate(buffers):
        for b in buffers[:i]:
            is_handed_over = a["first"] == b["last"] or b["first"] == a["last"]  # an output over its input
            lives = a["first"] <= b["last"] and b["first"] <= a["last"] and not is_handed_over
            assert not lives or a["offset"] + a["bytes"] <= b["offset"] or b["offset"] + b["bytes"] <= a["offset"]


def test_the_bytes_of_the_report_are_those_of_the_linked_program(tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    folder = compiled_digits("cortex-m4")
    after = json.loads((folder / "report.json").read_text())["after"]
    (tmp_path / "main.c").write_text(
        '#include "digits.h"\nstatic unsigned char arena[DIGITS_ARENA_BYTES] __attribute__((aligned(16)));\n'
        "int main(void) { return digits_run(arena); }\n"
    )
    sources = [tmp_path / "main.c", folder / "digits.c", folder / "digits_weights.c", EMULATION / "startup.c"]
    link = ["-T", EMULATION / "mps2.ld", f"-L{EMULATION}", "--specs=rdimon.specs", "-nostartfiles"]
    machine = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-O1"]
    program = tmp_path / "program.elf"
    subprocess.run(["arm-none-eabi-gcc", *machine, f"-I{folder}", *sources, *link, "-o", program], check=True)
    symbols = subprocess.run(["arm-none-eabi-nm", "-S", program], capture_output=True, text=True, check=True).stdout
    sizes = {f[3]: int(f[1], 16) for line in symbols.splitlines() if len(f := line.split()) == 4}
    constants = [size for name, size in sizes.items() if re.fullmatch(r"digits_[a-z]+_\d+", name)]
    assert sum(constants) == after["flash_constant_bytes"]
    assert sizes["arena"] == after["arena_bytes"]


MODELS = {"kws01": 1.0, "ic01": 1.0, "kws01_hybrid": 1.0, "kws01_int8_qdq": 1.0, "vww01": 1 / 255}


@pytest.mark.parametrize("model", MODELS)
def test_every_node_that_a_pass_removed_or_made_is_named_by_one_of_its_remarks(
    models_dir: Path, data_dir: Path, model: str
) -> None:
    options = CompileOptions(target="cortex-m4", prune=0.2, cluster=16)
    graph = import_model(models_dir / f"{model}.onnx", {}).graph
    known = {node.name for node in graph.nodes}
    if "int8" in model:
        samples = random_samples(graph.inputs, 2, 0)
    else:
        data = data_dir / f"{model.partition('_')[0]}.npz"
        samples = load_samples(f"{data}:calib", graph.inputs, 0.0, MODELS[model], 4)
    for step in optimize(graph, target_named("cortex-m4"), options, samples, lambda *_: None):
        now = {node.name for node in step.record.graph.nodes}
        remarks = [remark for remark in step.record.remarks if remark.kind == "did"]
        assert known - now <= {name for remark in remarks for name in remark.before}, step.record.pass_name
        assert now - known <= {name for remark in remarks for name in remark.after}, step.record.pass_name
        known = now
