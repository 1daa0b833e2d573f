// The page as a whole: what is chosen, the header, the tools, the keyboard.

const state = { stage: 0, chosen: null, hovered: null, overlay: "", op: "", search: "", onlyChanged: false, arrows: true, tab: "graph" };

const TABS = {
  graph: { label: "Graph", has: () => true, draw: () => {} },
  layers: { label: "Layers", has: () => layers.length > 0, draw: drawLayers },
  compression: { label: "Compression", has: () => Boolean(report.compression), draw: drawCompression },
  memory: { label: "Memory", has: () => (report.buffers || []).length > 0, draw: drawMemory },
  quantization: { label: "Quantization", has: () => Boolean(report.quantization), draw: drawQuantization },
  verdicts: { label: "Verdicts", has: () => true, draw: drawVerdicts },
};

function start() {
  drawHead();
  drawTabs();
  drawTools();
  drawStrip();
  prepareCanvas();
  document.addEventListener("keydown", onKey);
  const wanted = new URLSearchParams(location.hash.slice(1));
  const tab = TABS[wanted.get("tab")];
  showTab(tab && tab.has() ? wanted.get("tab") : "graph");
  const named = stages.findIndex((stage) => stage.name === wanted.get("pass"));
  showStage(named >= 0 ? named : (stages.find((stage) => stage.is_changed && stage.index) || stages[0]).index);
  const node = wanted.get("node");
  if (node) search(node, true);
}

function showStage(index) {
  const name = state.chosen ? nodeNameOf(stages[state.stage].view.cells[state.chosen.cell], state.chosen.side) : null;
  state.stage = Math.min(stages.length - 1, Math.max(0, index));
  const stage = stages[state.stage];
  state.chosen = name === null ? null : cellNamed(stage, name);
  state.hovered = null;
  markStage(state.stage);
  fillOps(stage);
  drawGraph(stage);
  drawCard();
}

// the chosen node stays chosen from pass to pass as long as it is there
function cellNamed(stage, name) {
  for (const side of ["after", "before"]) {
    const cell = stage.view.cells.findIndex((candidate) => nodeNameOf(candidate, side) === name && cellSide(stage, candidate, side));
    if (cell >= 0) return { cell, side };
  }
  return null;
}

function choose(chosen, isFarAway = false) {
  state.chosen = chosen;
  applyMarks();
  markArrows();
  drawCard();
  document.body.classList.toggle("has-node", Boolean(chosen));
  if (chosen && (isFarAway || innerWidth < 640)) {
    const cell = scene.view.cells[chosen.cell];
    if (!scene.size || !isOnScreen(cell)) centre(cell);
  }
}

function showTab(name) {
  state.tab = name;
  for (const key of Object.keys(TABS)) {
    byId(`view-${key}`).hidden = key !== name;
    const tab = byId("tabs").querySelector(`[data-tab="${key}"]`);
    if (tab) tab.setAttribute("aria-selected", key === name);
  }
  document.body.dataset.tab = name;
  TABS[name].draw();
}

// --- the header

function drawHead() {
  const model = report.model || { file: "" };
  document.title = `${model.file} – tinyopt report`;
  byId("title").append(html("h1", { dir: "auto" }, model.file), report.target ? html("span", { class: "quiet" }, `for ${report.target.name}: ${report.target.description}`) : "");
  const { before, after, calibration } = report;
  if (calibration) byId("title").append(html("span", { class: "quiet" }, `calibrated on ${whole(calibration.samples)} samples of ${calibration.is_random ? "noise" : calibration.source}`));
  if (!before || !after) return;
  const figures = byId("figures");
  figures.append(kpi("weights", after.weight_bytes, before.weight_bytes, " B"), kpi("MACs", after.macs, before.macs, ""));
  if (after.flash_bytes !== null && after.flash_bytes !== undefined) figures.append(kpi("flash", after.flash_bytes, null, " B"));
  if (data.profile) figures.append(kpi("code", data.profile.code_bytes, null, " B"));
  if (after.arena_bytes !== undefined) figures.append(kpi("arena", after.arena_bytes, null, " B"));
  if (data.profile) figures.append(kpi("stack", data.profile.stack_bytes, null, " B"));
  const counted = totalInstructions();
  if (counted !== null) figures.append(kpi("instructions", counted, null, ""));
  else if (after.estimated_instructions !== undefined) figures.append(kpi("instructions ≈", after.estimated_instructions, null, ""));
  if (report.evaluation) figures.append(accuracy(report.evaluation));
}

function kpi(label, value, before, unit) {
  const change = before === null ? "" : percentChange(before, value);
  return html("div", { class: "kpi", title: before === null ? label : `${label}: ${whole(before)} → ${whole(value)}${unit}` }, html("span", { class: "kpi-label" }, label), html("span", { class: "kpi-value" }, whole(value), unit), change ? html("span", { class: value <= before ? "less" : "more" }, change) : null);
}

function accuracy(evaluation) {
  const change = 100 * (evaluation.compiled_top1 - evaluation.float_top1);
  const points = `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(2)} points`;
  return html("div", { class: "kpi" }, html("span", { class: "kpi-label" }, "top-1"), html("span", { class: "kpi-value" }, `${(100 * evaluation.compiled_top1).toFixed(2)} %`), html("span", { class: change < 0 ? "more" : "less" }, points));
}

function drawTabs() {
  for (const [key, tab] of Object.entries(TABS)) {
    if (tab.has()) byId("tabs").append(html("button", { role: "tab", "data-tab": key, onclick: () => showTab(key) }, tab.label));
  }
}

// --- the tools above the graph

function drawTools() {
  const box = (key, label, then) => html("label", {}, html("input", { type: "checkbox", id: key, checked: state[key], onchange: (event) => { state[key] = event.target.checked; then(); } }), label);
  const colours = html("select", { id: "overlay", "aria-label": "Colour by", onchange: (event) => { state.overlay = event.target.value; applyOverlay(); } }, html("option", { value: "" }, "what changed"));
  for (const [key, { label }] of Object.entries(OVERLAYS)) colours.append(html("option", { value: key }, label()));
  byId("tools").append(
    html("input", { id: "search", type: "search", placeholder: "Search nodes", "aria-label": "Search nodes by name, operator or ONNX name", oninput: (event) => search(event.target.value, false), onkeydown: onSearchKey }),
    html("span", { id: "found", class: "quiet", "aria-live": "polite" }),
    html("select", { id: "op", "aria-label": "Operator", onchange: (event) => { state.op = event.target.value; applyMarks(); } }),
    html("label", { class: "select-label" }, "colour by ", colours),
    box("onlyChanged", "only changed", applyMarks),
    box("arrows", "arrows", markArrows),
    html("button", { onclick: fit, title: "Fit (f)" }, "Fit"),
  );
}

function fillOps(stage) {
  const ops = new Map();
  for (const cell of stage.view.cells) {
    const own = cellSide(stage, cell, "after") || cellSide(stage, cell, "before");
    if (own) ops.set(data.nodes[own[0]].op, (ops.get(data.nodes[own[0]].op) || 0) + 1);
  }
  if (!ops.has(state.op)) state.op = "";
  const options = [...ops].sort().map(([op, count]) => html("option", { value: op, selected: op === state.op }, `${op} (${count})`));
  byId("op").replaceChildren(html("option", { value: "" }, "all operators"), ...options);
}

function search(text, isFinished) {
  state.search = text.trim();
  byId("search").value = text;
  applyMarks();
  const wanted = state.search.toLowerCase();
  const hits = wanted ? [...scene.nodes.after, ...scene.nodes.before].filter(({ node }) => nameMatches(node, wanted)) : [];
  const cells = [...new Set(hits.map(({ index }) => index))];
  byId("found").textContent = wanted ? `${cells.length} found` : "";
  const best = hits.find(({ node }) => node.name.toLowerCase() === wanted) || hits[0];
  if (isFinished && best) choose({ cell: best.index, side: best.element.closest(".panel").dataset.side }, true);
}

function onSearchKey(event) {
  event.stopPropagation();
  if (event.key === "Enter") search(event.target.value, true);
  if (event.key === "Escape") {
    search("", false);
    event.target.blur();
  }
}

// --- verdicts

function drawVerdicts() {
  byId("view-verdicts").replaceChildren(
    html("h3", {}, "Verdicts"),
    ...verdicts().map(({ isGood, text }) => html("p", { class: isGood ? "verdict good" : "verdict bad" }, html("i", {}, isGood ? "✓" : "✗"), text)),
    html("h3", {}, "What each pass says"),
    ...stages.filter((stage) => stage.remarks.length).map((stage) => html("section", {}, html("h4", {}, stage.name), stage.remarks.map((remark) => html("p", { class: `remark k-${remark.kind}` }, html("i", {}, { did: "✓", declined: "–", note: "i" }[remark.kind]), remark.message)))),
  );
}

function verdicts() {
  const found = [];
  const { after, before, evaluation, gate } = report;
  if (gate) found.push({ isGood: gate.lost_points === null || gate.lost_points <= gate.limit_points, text: `accuracy gate: ${gate.text}` });
  if (evaluation) {
    const lost = 100 * (evaluation.float_top1 - evaluation.compiled_top1);
    found.push({ isGood: lost <= 1, text: `top-1 on ${whole(evaluation.samples)} samples: ${(100 * evaluation.float_top1).toFixed(2)} % as it came, ${(100 * evaluation.compiled_top1).toFixed(2)} % compiled (${evaluation.source}); agreement ${(100 * evaluation.agreement).toFixed(2)} %; green where at most one point is lost` });
  }
  if (after && before && after.weight_bytes !== undefined) found.push({ isGood: after.weight_bytes <= before.weight_bytes, text: `weights: ${whole(before.weight_bytes)} → ${whole(after.weight_bytes)} B (${percentChange(before.weight_bytes, after.weight_bytes)})` });
  if (after && after.arena_bytes !== undefined) {
    const gap = after.arena_bytes - after.arena_lower_bound_bytes;
    found.push({ isGood: gap === 0, text: gap ? `the arena is ${whole(gap)} B above the lower bound of ${whole(after.arena_lower_bound_bytes)} B` : `the arena of ${whole(after.arena_bytes)} B is as small as this order of layers permits` });
  }
  return found;
}

// --- the keyboard

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const actions = {
    j: () => showStage(state.stage + 1),
    ArrowRight: () => showStage(state.stage + 1),
    ArrowDown: () => showStage(state.stage + 1),
    k: () => showStage(state.stage - 1),
    ArrowLeft: () => showStage(state.stage - 1),
    ArrowUp: () => showStage(state.stage - 1),
    f: fit,
    "/": () => byId("search").focus(),
    " ": togglePlay,
    Escape: () => choose(null),
  };
  const isSlider = event.target.id === "slider" && event.key.startsWith("Arrow");
  const isButton = event.target.tagName === "BUTTON" && event.key === " ";
  if (!actions[event.key] || isSlider || isButton) return;
  event.preventDefault();
  actions[event.key]();
}
