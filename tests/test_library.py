"""`tinyopt.compile`: objects in memory go the way of files, to the bytes that the command gives for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

import tinyopt
from tests.onnx_models import model_of, node
from tests.test_artifact import tree
from tests.test_cli import assert_refused
from tests.test_cli import tinyopt as command
from tinyopt.cli.compile_command import compile_command
from tinyopt.cli.recipe_option import recipe_keys
from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.library import OWN_PARAMETERS
from tinyopt.library_options import Options
from tinyopt.pass_cache import run_pass_cached
from tinyopt.pass_manager import PassContext, TargetFacts

RELU = model_of([node("Relu", "x", "y", name="<b>relu</b>")], {"x": (1, 4)}, outputs="y")
QUICK: Any = {"ranges": "minmax", "disable_pass": ["round-weights"], "target": "c"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@dataclass(frozen=True)
class AddOne(tinyopt.Pass):
    """Adds a number to the model's first constant, once."""

    name: ClassVar[str] = "add-one"
    is_costly: ClassVar[bool] = True
    amount: float = 1.0

    def run(self, graph: tinyopt.Graph, context: tinyopt.PassContext) -> bool:
        weights = graph.nodes[0].input(1)
        if weights.data[0] != 0:
            return False
        weights.constant = weights.data + np.float32(self.amount)
        context.did("one more", graph.nodes, graph.nodes)
        return True


def adding_zero() -> onnx.ModelProto:
    return model_of([node("Add", "x w")], {"x": (1, 4)}, {"w": np.zeros(4, np.float32)}, outputs="y")


def test_a_model_and_samples_in_memory_give_the_bytes_that_the_command_gives_for_files_of_them(here: Path) -> None:
    generator = np.random.default_rng(0)
    weights, samples = (generator.normal(size=shape).astype(np.float32) for shape in ((8, 3), (16, 8)))
    labelled = samples[:9], np.arange(9) % 3
    np.save("calib.npy", samples)
    np.savez("test.npz", x=labelled[0], y=labelled[1])
    model = model_of([node("MatMul", "x w")], {"x": (1, 8)}, {"w": weights})
    onnx.save(model, "dense.onnx")
    options = ("-t", "c", "--eval", "test.npz:x,y", "--ranges", "minmax", "--disable-pass", "round-weights")
    assert command("compile", "dense.onnx", "--calib", "calib.npy", *options, "-o", "by_command").code == 0
    tinyopt.compile(model, "whole", name="dense", calib=samples, eval="test.npz:x,y", **QUICK)
    tinyopt.compile(model, "each", name="dense", calib=iter(samples), eval="test.npz:x,y", **QUICK)
    first = tree(here / "by_command")
    assert tree(here / "whole") == first
    assert tree(here / "each") == first
    result = tinyopt.compile("dense.onnx", calib="calib.npy", eval=labelled, **QUICK)
    assert result.report["evaluation"]["samples"] == 9
    assert {k: v for k, v in tree(result.folder).items() if k != "recipe.lock.toml"} == {
        k: v for k, v in first.items() if k != "recipe.lock.toml"
    }
    assert command("compile", "--recipe", "whole/recipe.lock.toml", "-o", "again", "-q").code == 0
    assert tree(here / "again") == first

    assert list(result.graphs)[:2] == ["import", "fold-constants"]
    assert np.abs(result.run(samples[0]) - samples[0] @ weights).max() < 0.1
    folder = result.folder
    del result
    assert not folder.exists()


def test_a_library_for_this_machine_is_what_runs() -> None:
    result = tinyopt.compile(RELU, target="host")
    assert result.run([-1, 2, -3, 4]).tolist() == [[0, 2, 0, 4]]  # type: ignore[union-attr]
    assert result.run(x=[[-1, 2, -3, 4]]).tolist() == [[0, 2, 0, 4]]  # type: ignore[union-attr]
    (result.folder / "libmodel.so").unlink()
    assert result.run([0, 0, 0, 1]) is not None  # it is loaded once
    with pytest.raises(UsageError, match=r"'x' float32\[1, 4\]"):
        result.run([1, 2, 3])


def test_a_pass_of_ones_own_runs_and_its_lock_is_refused_without_it() -> None:
    result = tinyopt.compile(adding_zero(), "out", target="c", passes=[AddOne(2.0)])
    assert result.run(np.zeros(4)).tolist() == [[2, 2, 2, 2]]  # type: ignore[union-attr]
    assert result.graphs["add-one"] is not result.graphs["import"]
    assert [s["options"] for s in result.report["passes"] if s["name"] == "add-one"] == [{"amount": 2.0}]
    onnx.save(adding_zero(), "model.onnx")
    lock = "out/recipe.lock.toml"
    assert_refused(command("compile", "--recipe", lock, "-o", "again"), 2, "pass add-one", "here is none")
    with pytest.raises(UsageError, match="pass add-one"):
        tinyopt.compile(recipe=lock, output="again", passes=[AddOne(3.0)])
    again = tinyopt.compile(recipe=lock, output="again", passes=[AddOne(2.0)])
    assert tree(again.folder) == tree(result.folder)
    with pytest.raises(UsageError, match="another pass named 'add-one'"):
        tinyopt.compile(adding_zero(), passes=[AddOne(), AddOne()])


def test_a_pass_that_is_in_no_file_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    found: list[bool] = []
    for module in (__name__, "__no_file__"):
        step = type("AddOne", (AddOne,), {"__module__": module})()
        for _ in range(2):
            context = PassContext(TargetFacts("c", 1, False), cache_dir=tmp_path / module)
            graph = tinyopt.compile(adding_zero(), target="c").original.copy()
            run_pass_cached(step, graph, context)
        found.append((tmp_path / module).exists())
    assert found == [True, False]


def test_a_notebook_shows_names_of_a_model_as_text_and_scripts_in_a_page_of_their_own() -> None:
    shown = tinyopt.compile(RELU, target="c")._repr_html_()  # pyright: ignore[reportPrivateUsage]
    outside, _, page = shown.partition("srcdoc=")
    assert "model.onnx" in outside
    assert "activations (RAM)" in outside
    assert "<b>relu" not in shown
    assert "<script" not in shown
    assert 'sandbox="allow-scripts"' in outside
    assert "&lt;script" in page


def test_every_option_of_the_command_is_an_option_of_the_function() -> None:
    keys = {key.replace("-", "_") for key in recipe_keys(compile_command)}
    assert keys == Options.__annotations__.keys() | OWN_PARAMETERS - {"recipe"}


def endless() -> Iterator[dict[str, Any]]:
    while True:
        yield {"x": np.ones(4, np.float32)}


def test_the_first_samples_of_what_never_ends_are_taken() -> None:
    result = tinyopt.compile(adding_zero(), target="c", calib=endless(), calib_samples=3)
    assert result.report["calibration"]["samples"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prunes": 0.2}, "no option 'prunes'; the nearest is 'prune'"),
        ({"prune": 2.0}, "'--prune': 2.0 is not in the range"),
        ({"importance": "luck"}, "'luck' is not one of"),
        ({"mem": {"dtcm": "lots"}}, "--mem takes"),
        ({"set": {"quantize": {"methods": "mse"}}}, "no option 'methods'"),
        ({"calib": {"z": np.ones((2, 4))}}, "calib has arrays for z; the model's inputs: x"),
        ({"calib": np.ones((2, 5), np.float32)}, r"calib.npy has samples of shape \[5\]; input 'x' takes"),
        ({"calib": [np.ones(4), np.ones(5)]}, r"sample 1 is float64\[5\] and the first float64\[4\]"),
        ({"calib": np.array([None, {}])}, "no number"),
        ({"calib": []}, "no samples"),
        ({"passes": [AddOne]}, "instances of subclasses"),
        ({"recipe": "none.toml"}, "cannot read the recipe"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line_that_names_no_temporary_file(
    options: Any, words: str, here: Path
) -> None:
    with pytest.raises(tinyopt.TinyoptError, match=words) as refused:
        tinyopt.compile(RELU, "out", target="c", **options)
    assert "tinyopt-inputs" not in str(refused.value)
    assert list(here.iterdir()) == []


def test_a_model_in_memory_is_held_to_the_limits_of_files() -> None:
    huge = model_of([node("Relu", "x", "y")], {"x": (1, 2**20, 2**11)}, outputs="y")
    with pytest.raises(InvalidModelError, match="'x'"):
        tinyopt.compile(huge, "out")
    far = adding_zero()
    set_external_data(far.graph.initializer[0], "/etc/passwd")
    with pytest.raises(InvalidModelError, match="'w' lie in another file: give the model's path"):
        tinyopt.compile(far, "out")
