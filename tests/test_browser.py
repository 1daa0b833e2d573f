"""report.html in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.digits import compiled_digits
from tests.report_pages import HOSTILE, chain, page_of
from tests.test_report_compression import network, section_of
from tinyopt.report.html.build import build_page, refresh_page
from tinyopt.report.html.pictures import picture_of
from tinyopt.targets.costs import DSP_COSTS

pytest.importorskip("selenium", reason="the browser tests need selenium: pip install selenium")

from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.keys import Keys

from tools.headless import chromium, missing_program, open_page, resize

pytestmark = pytest.mark.slow

INTERACTION_MS = 100


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    if (program := missing_program()) is not None:
        pytest.skip(f"{program} is not installed (Debian: chromium, chromium-driver)")
    with chromium() as driver:
        resize(driver, 1440, 900)
        yield driver


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled model, with instruction counts as `tinyopt profile` would write them."""
    folder = tmp_path_factory.mktemp("page") / "out"
    shutil.copytree(compiled_digits("cortex-m4"), folder)
    layers = json.loads((folder / "report.json").read_text())["layers"]
    counted = [{"name": layer["name"], "instructions": 1000 + 7 * layer["index"]} for layer in layers]
    total = sum(layer["instructions"] for layer in counted)
    whole = {"compiler": "gcc", "optimization": "O3", "instructions": total, "code_bytes": 5432, "stack_bytes": 321}
    refresh_page(folder, whole | {"layers": counted})
    return folder


def errors(driver: WebDriver) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(driver: WebDriver) -> list[str]:
    """The addresses that were asked for since the last look."""
    found: list[str] = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return found


def text(driver: WebDriver, selector: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0]).textContent", selector))


def press(driver: WebDriver, key: str) -> None:
    driver.find_element("tag name", "body").send_keys(key)


def click_node(driver: WebDriver, side: str, position: int) -> None:
    script = """
        const nodes = document.querySelectorAll(`.panel[data-side=${arguments[0]}] .node`);
        nodes[arguments[1]].dispatchEvent(new MouseEvent("click", { bubbles: true }));
    """
    driver.execute_script(script, side, position)


def test_the_page_opens_from_disk_without_a_request_and_without_an_error(browser: WebDriver, output: Path) -> None:
    for forget in (requests, errors):
        forget(browser)
    page = output / "report.html"
    open_page(browser, page)
    press(browser, "j")
    asked = [url for url in requests(browser) if not url.startswith(("about:", "data:"))]
    assert asked == [page.resolve().as_uri()]
    assert errors(browser) == []


def test_j_and_k_move_through_all_passes_and_back(browser: WebDriver, output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    open_page(browser, output / "report.html", "pass=import")
    names = ["import", *(step["name"] for step in report["passes"]), "compiled"]
    for number, name in enumerate(names, start=1):
        assert text(browser, "#position") == f"{number} of {len(names)}: {name}"
        assert text(browser, "#card h2") == name
        press(browser, "j")
    for name in reversed(names[:-1]):
        press(browser, "k")
        assert text(browser, "#card h2") == name
    press(browser, Keys.ARROW_RIGHT)
    assert text(browser, "#card h2") == names[1]
    assert errors(browser) == []


def test_a_click_on_a_node_opens_its_card_with_the_figures_of_the_report(browser: WebDriver, output: Path) -> None:
    layers = {layer["name"]: layer for layer in json.loads((output / "report.json").read_text())["layers"]}
    counts = {
        layer["name"]: layer["instructions"] for layer in json.loads((output / "profile.json").read_text())["layers"]
    }
    open_page(browser, output / "report.html", "pass=compiled")
    total = browser.execute_script("return document.querySelectorAll('.panel[data-side=after] .node').length")
    seen = 0
    for position in range(total):
        click_node(browser, "after", position)
        layer = layers.get(text(browser, "#card .name"))
        if layer is None:  # a view has no code
            continue
        seen += 1
        assert text(browser, "#card [data-figure=macs]") == f"{layer['macs']:,}"
        assert text(browser, "#card [data-figure=instructions]") == f"{counts[layer['name']]:,}"
        assert text(browser, "#card [data-figure=weight_bytes]") == f"{layer['weight_bytes']:,} B"
        end = layer["offset"] + layer["bytes"]
        assert text(browser, "#card [data-figure=offset]") == f"{layer['offset']:,} … {end:,}"
    assert seen == len(layers)
    assert errors(browser) == []


def test_search_finds_a_node_and_enter_opens_it(browser: WebDriver, output: Path) -> None:
    name = json.loads((output / "report.json").read_text())["layers"][1]["name"]
    open_page(browser, output / "report.html", "pass=compiled")
    press(browser, "/")
    browser.switch_to.active_element.send_keys(name)
    assert text(browser, "#found").endswith("found")
    assert browser.execute_script("return document.querySelectorAll('.node.found').length") > 0
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert text(browser, "#card .name") == name


def test_the_header_shows_what_the_profile_measured(browser: WebDriver, output: Path) -> None:
    open_page(browser, output / "report.html")
    measured = json.loads((output / "profile.json").read_text())
    header = text(browser, "#figures")
    for label, value in (("code", "code_bytes"), ("stack", "stack_bytes"), ("instructions", "instructions")):
        assert f"{label}{measured[value]:,}" in header


def test_an_overlay_changes_the_colours_and_back(browser: WebDriver, output: Path) -> None:
    open_page(browser, output / "report.html", "pass=compiled")
    colours = "return [...document.querySelectorAll('.node')].map((box) => getComputedStyle(box).fill)"
    choose = (
        "const s = document.getElementById('overlay'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    )
    plain = browser.execute_script(colours)
    seen: list[Any] = [plain]
    for overlay in ("instructions", "flash", "arena", "error"):
        browser.execute_script(choose, overlay)
        assert browser.execute_script(colours) not in seen, overlay
        seen.append(browser.execute_script(colours))
    browser.execute_script(choose, "")
    assert browser.execute_script(colours) == plain


def test_every_tab_draws_itself_in_light_and_dark_on_a_desk_and_on_a_phone(browser: WebDriver, output: Path) -> None:
    try:
        for width, height, scheme in ((1440, 900, "light"), (390, 844, "dark")):
            resize(browser, width, height)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            for tab in ("graph", "layers", "memory", "quantization", "verdicts"):
                open_page(browser, output / "report.html", f"tab={tab}")
                assert (
                    browser.execute_script("return document.querySelector('.view:not([hidden])').id") == f"view-{tab}"
                )
                wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{tab} is {wide} pixels wider than the {scheme} page"
        assert errors(browser) == []
    finally:
        resize(browser, 1440, 900)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_suspects_stand_in_order_and_lead_to_their_layers(browser: WebDriver, output: Path) -> None:
    section = json.loads((output / "report.json").read_text())["quantization"]
    open_page(browser, output / "report.html", "tab=quantization")
    rows = browser.find_elements("css selector", "#view-quantization tbody tr")
    names = [str(row.find_element("css selector", ".suspect-name").get_attribute("title")) for row in rows]
    assert names == section["suspects"]
    marks = browser.find_elements("css selector", "#view-quantization circle.noise-alone")
    assert len(marks) == len(section["layers"])
    place = next(i for i, name in enumerate(names) if name != "image")
    rows[place].click()
    assert names[place] in text(browser, "#card")
    assert not errors(browser)


def test_text_in_a_node_stays_inside_of_it_and_nodes_do_not_overlap(browser: WebDriver, output: Path) -> None:
    script = """
        const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1;
        const beside = (a, b) => a.right <= b.left + 1 || a.bottom <= b.top + 1;
        const apart = (a, b) => beside(a, b) || beside(b, a);
        const nodes = [...document.querySelectorAll(".panel[data-side=after] .node")];
        const boxes = nodes.map((node) => node.getBoundingClientRect());
        const labels = nodes.map((node) => node.nextElementSibling.querySelector(".label").getBoundingClientRect());
        const cut = labels.filter((label, i) => !inside(label, boxes[i]));
        const over = boxes.filter((a, i) => boxes.some((b, j) => j > i && !apart(a, b)));
        return [cut.length, over.length];
    """
    report = json.loads((output / "report.json").read_text())
    for step in report["passes"]:
        open_page(browser, output / "report.html", f"pass={step['name']}")
        assert browser.execute_script(script) == [0, 0], step["name"]


def test_names_from_the_model_are_shown_as_text_and_run_nothing(browser: WebDriver, tmp_path: Path) -> None:
    graph = chain(2 * len(HOSTILE), HOSTILE)
    graph.name = HOSTILE[0]
    page = tmp_path / "hostile.html"
    page.write_text(page_of(graph), encoding="utf-8")
    open_page(browser, page, "pass=import")
    assert text(browser, "h1") == HOSTILE[0]
    shown: list[str] = []
    for position in range(len(HOSTILE)):
        click_node(browser, "after", position)
        shown.append(text(browser, "#card .name"))
    assert shown == list(HOSTILE)
    assert browser.execute_script("return document.scripts.length") == 2
    assert errors(browser) == []  # an alert would also make the next command fail


def _page_milliseconds(browser: WebDriver) -> float:
    """What the page's thread has computed so far: processor time, for others use this machine, too."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")


def test_a_thousand_nodes_answer_within_a_tenth_of_a_second(browser: WebDriver, tmp_path: Path) -> None:
    page = tmp_path / "large.html"
    page.write_text(page_of(chain(1000)), encoding="utf-8")
    open_page(browser, page, "pass=import")
    assert browser.execute_script("return document.querySelectorAll('.panel[data-side=after] .node').length") >= 1000
    actions = """
        const canvas = document.getElementById("canvas");
        const box = canvas.getBoundingClientRect();
        const at = { clientX: box.left + 300, clientY: box.top + 200, bubbles: true, cancelable: true };
        const bubbles = true;
        const key = (name) => () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles }));
        const change = (id, value) => () => {
          const element = document.getElementById(id);
          element.value = value;
          element.dispatchEvent(new Event(id === "search" ? "input" : "change"));
        };
        const click = new MouseEvent("click", { bubbles });
        const node = (i) => () => document.querySelectorAll(".node")[i].dispatchEvent(click);
        window.actions = {
          zoom: () => canvas.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY: -200 })),
          fit: key("f"), choose: node(500), close: key("Escape"), overlay: change("overlay", "instructions"),
          plain: change("overlay", ""), search: change("search", "relu_40"), clear: change("search", ""),
          next: key("j"), back: key("k"),
        };
        return Object.keys(window.actions);
    """
    names = browser.execute_script(actions)
    times: dict[str, list[float]] = {name: [] for name in names}
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    for _ in range(5):
        for name in names:
            before = _page_milliseconds(browser)
            browser.execute_script("window.actions[arguments[0]](); document.body.getBoundingClientRect()", name)
            times[name].append(_page_milliseconds(browser) - before)
    browser.execute_cdp_cmd("Performance.disable", {})
    print({name: [round(value, 1) for value in values] for name, values in times.items()})
    assert {name: values for name, values in times.items() if min(values) > INTERACTION_MS} == {}
    assert errors(browser) == []


def test_the_compression_tab_draws_a_bar_for_each_layer_filled_as_far_as_its_channels_stay(
    browser: WebDriver, output: Path, tmp_path: Path
) -> None:
    graph = network(HOSTILE[0])
    report = {"model": {"file": "m"}, "passes": [], "compression": section_of(graph)}
    page = tmp_path / "pruned.html"
    page.write_text(build_page(report, picture_of(graph, DSP_COSTS), []), encoding="utf-8")
    errors(browser)
    open_page(browser, page, "tab=compression")
    heights = browser.execute_script(
        "return ['before', 'after'].map((kind) => [...document.querySelectorAll(`rect.channels-${kind}`)]"
        ".map((bar) => Number(bar.getAttribute('height'))))"
    )
    before, after = heights
    assert [round(b / a, 3) for a, b in zip(before, after, strict=True)] == [0.5, 0.5, 1.0]
    assert "11 of 19" in text(browser, "#view-compression h3")
    assert HOSTILE[0] in text(browser, "#view-compression tbody")
    assert errors(browser) == []
    open_page(browser, output / "report.html")
    assert "Compression" not in text(browser, "#tabs")
