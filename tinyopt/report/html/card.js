// The card on the right: the chosen pass, or the chosen node.

function drawCard() {
  const card = byId("card");
  const stage = stages[state.stage];
  card.replaceChildren(...(state.chosen ? nodeCard(stage, state.chosen) : passCard(stage)).flat(Infinity).filter(Boolean));
  card.classList.toggle("is-node", Boolean(state.chosen));
  card.scrollTop = 0;
}

function row(label, ...value) {
  return html("div", { class: "row" }, html("span", { class: "row-label" }, label), html("span", { class: "row-value" }, ...value));
}

function section(title, ...content) {
  const parts = content.flat(Infinity).filter(Boolean);
  return parts.length ? html("section", {}, html("h3", {}, title), ...parts) : null;
}

// --- a pass

function passCard(stage) {
  const options = Object.entries(stage.options || {}).map(([key, value]) => `${key} = ${value}`).join(", ");
  return [
    html("h2", {}, stage.name),
    options ? html("p", { class: "quiet mono" }, options) : null,
    html("p", {}, passSentence(stage)),
    stage.nodes ? html("p", { class: "sign-line" }, signsInWords(stage.nodes)) : null,
    section("Costs", costRows(stage)),
    section("What it did", remarkList(stage, "did")),
    section("What it did not, and why", remarkList(stage, "declined")),
    section("Notes", remarkList(stage, "note")),
    stage.index ? null : section("Notes", ((report.model || {}).notes || []).map((note) => html("p", { class: "remark" }, note))),
  ];
}

function passSentence(stage) {
  if (!stage.index) return "The graph as it came.";
  if (isFinal(stage)) return "Kernels are chosen, the arena is planned, and the code is compiled: these figures are exact.";
  return stage.is_changed ? "" : "Without effect here.";
}

function signsInWords(counts) {
  const changed = counts.changed - Math.min(counts.fused, counts.changed);
  return [["removed", counts.removed], ["added", counts.added], ["changed", changed], ["fused", counts.fused]]
    .filter(([, count]) => count)
    .map(([status, count]) => html("span", { class: `key s-${status}` }, html("i", {}, STATUS[status][0]), `${count} ${STATUS[status][1]}`));
}

function costRows(stage) {
  if (!stage.after) return [];
  const rows = [["nodes", "nodes"], ...METRICS.map(({ key, label }) => [key, label])].map(([key, label]) => {
    const now = key === "nodes" ? { value: stage.after.nodes, exact: true } : figure(stage, key);
    if (now.value === undefined || now.value === null) return null;
    const before = stage.before ? (key === "nodes" ? stage.before.nodes : figure(stages[stage.index - 1], key).value) : null;
    const change = before === null || before === now.value ? "" : percentChange(before, now.value);
    const name = now.label || (now.exact ? label.replace(" ≈", "") : label.replace(" ≈", ", estimated"));
    return row(name, html("b", {}, whole(now.value)), change ? html("span", { class: now.value < before ? "less" : "more" }, ` ${change}`) : null);
  });
  if (stage.drift) {
    rows.push(row("outputs moved by at most", html("b", {}, stage.drift.max_abs.toPrecision(3))), row("signal to noise", html("b", {}, decibels(stage.drift))));
  }
  if (isFinal(stage)) rows.push(...finalRows(stage.after));
  return rows;
}

function finalRows(after) {
  return [
    after.flash_code_bytes === null ? null : row("flash: code", html("b", {}, whole(after.flash_code_bytes))),
    after.flash_bytes === null ? null : row("flash: all", html("b", {}, whole(after.flash_bytes))),
    row("arena, lower bound", html("b", {}, whole(after.arena_lower_bound_bytes))),
  ];
}

function remarkList(stage, kind) {
  return stage.remarks.filter((remark) => remark.kind === kind).map((remark) => remarkLine(remark, stage));
}

function remarkLine(remark, stage) {
  const cells = cellsByName(stage.view);
  const name = [...remark.after, ...remark.before].find((candidate) => cells.has(candidate));
  const cell = cells.get(name);
  if (cell === undefined) return html("p", { class: "remark" }, remark.message);
  return html("button", { class: "remark linked", onclick: () => choose({ cell, side: stage.view.cells[cell].after ? "after" : "before" }, true) }, remark.message);
}

// made once for each view: remarks may name a thousand nodes
function cellsByName(view) {
  if (!view.byName) {
    view.byName = new Map();
    view.cells.forEach((cell, index) => ["before", "after"].forEach((side) => cell[side] && view.byName.set(nodeNameOf(cell, side), index)));
  }
  return view.byName;
}

function nodeNameOf(cell, side) {
  return cell[side] ? data.nodes[cell[side][0]].name : null;
}

// --- a node

function nodeCard(stage, { cell: index, side }) {
  const cell = stage.view.cells[index];
  const own = cellSide(stage, cell, side);
  const node = data.nodes[own[0]];
  const other = cell[side === "after" ? "before" : "after"];
  const twin = other && other[0] !== own[0] ? data.nodes[other[0]] : null;
  const layer = layerOf.get(node.name);
  return [
    html("button", { class: "close", title: "Close (esc)", "aria-label": "Close", onclick: () => choose(null) }, "×"),
    html("h2", {}, node.op, node.detail ? html("small", {}, ` ${node.detail}`) : null),
    html("p", { class: "mono name", dir: "auto" }, node.name),
    own[1] === "same" ? null : html("p", { class: "sign-line" }, html("span", { class: `key s-${own[1]}` }, html("i", {}, STATUS[own[1]][0]), `${STATUS[own[1]][1]} by ${stage.name}`)),
    section("Comes from", sourceList(stage, cell)),
    section("Values", node.reads.map((value) => valueRow("reads", value)), node.gives.map((value) => valueRow("gives", value))),
    section("Costs", nodeCosts(node, layer)),
    layer && layer.error ? section("Error against float", errorRows(layer.error)) : null,
    cell.kept !== undefined && twin ? section("Channels", channelStrip(cell.kept, { channels: channelCount(cell, stage) })) : null,
    section("Weights", weightParts(side === "after" ? twin : node, side === "after" ? node : twin)),
    section("Attributes", attributeRows(node, twin, side)),
    layer ? section("Kernel", kernelRows(layer)) : null,
    layer && layer.c ? section("C", cRows(layer.c)) : null,
    section("Passes", historyRows(node.name)),
    section("ONNX nodes", node.origins.map((origin) => html("p", { class: "mono name", dir: "auto" }, origin))),
  ];
}

function channelCount(cell) {
  const type = data.nodes[cell.before[0]].gives[0].type.split(" ")[1].split("×").map(Number);
  const after = data.nodes[cell.after[0]].gives[0].type.split(" ")[1].split("×").map(Number);
  const axis = type.findIndex((size, i) => i > 0 && size !== after[i]);
  return type[axis < 0 ? type.length - 1 : axis];
}

function sourceList(stage, cell) {
  return (cell.sources || []).map((source) => {
    const old = data.nodes[stage.view.cells[source].before[0]];
    return html("button", { class: "remark linked", onclick: () => choose({ cell: source, side: "before" }, true) }, html("b", {}, old.op), ` ${old.name}`);
  });
}

function valueRow(label, value) {
  const scale = value.scale === null || value.scale === undefined ? "" : `scale ${value.scale.toPrecision(6)}, zero point ${value.zero_point}`;
  return html("div", { class: "value" }, html("span", { class: "row-label" }, label), html("span", { class: "mono", dir: "auto" }, value.name), html("span", { class: "type" }, value.type), scale ? html("span", { class: "quiet" }, scale) : null);
}

function nodeCosts(node, layer) {
  const counted = profileOf.get(node.name);
  const macs = layer ? layer.macs : node.macs;
  const rows = [row("MACs", html("b", { "data-figure": "macs" }, whole(macs)))];
  if (counted) rows.push(row("instructions", html("b", { "data-figure": "instructions" }, whole(counted.instructions))));
  else if (node.estimated_instructions !== null && node.estimated_instructions !== undefined) rows.push(row("instructions, estimated", html("b", {}, whole(node.estimated_instructions))));
  if (counted && macs) rows.push(row("instructions per MAC", html("b", {}, (counted.instructions / macs).toFixed(3))));
  if (layer) {
    rows.push(row("constants in flash, compiled", html("b", { "data-figure": "weight_bytes" }, `${whole(layer.weight_bytes)} B`)));
    rows.push(row("output in the arena", html("b", { "data-figure": "offset" }, `${whole(layer.offset)} … ${whole(layer.offset + layer.bytes)}`)));
  }
  rows.push(row("constants here", html("b", {}, `${whole(node.weight_bytes)} B`)));
  return rows;
}

function errorRows(error) {
  return [row("signal to noise", html("b", {}, error.snr_db === null ? "exact" : `${error.snr_db.toFixed(1)} dB`)), row("largest", html("b", {}, `${error.max_error_steps.toFixed(2)} steps`))];
}

function weightParts(before, after) {
  const parts = [];
  const isSame = Boolean(before && after) && JSON.stringify(before.weights) === JSON.stringify(after.weights);
  for (const [title, node] of [["before", before], ["after", after]]) {
    if (!node || !node.weights || (title === "before" && isSame)) continue;
    const kind = node.weights.codebook ? `${node.weights.codebook.length} values, ${node.weights.index_bits} bits each` : `${node.weights.low} … ${node.weights.high}`;
    parts.push(
      html("div", { class: "weights" }, html("p", {}, isSame ? html("b", {}, "as before: ") : before && after ? html("b", {}, `${title}: `) : null, `${node.weights.type}, ${whole(node.weights.bytes)} B`), html("p", { class: "quiet" }, `${kind}; ${((node.zeros || 0) * 100).toFixed(1)} % zeros`), weightsChart(node.weights)),
    );
  }
  return parts;
}

function attributeRows(node, twin, side) {
  const [before, after] = side === "after" ? [twin, node] : [node, twin];
  return Object.entries(node.attributes).map(([key, value]) => {
    const isChanged = before && after && key in before.attributes && key in after.attributes && before.attributes[key] !== after.attributes[key];
    return row(key, html("b", {}, isChanged ? `${before.attributes[key]} → ${after.attributes[key]}` : value));
  });
}

function kernelRows(layer) {
  const others = (report.variants || []).slice(1).map((variant) => html("p", { class: "mono quiet" }, `${variant.layers[layer.index].kernel} (${variant.name})`));
  return [html("p", { class: "mono" }, layer.kernel), ...others, ...layer.refusals.map((reason) => html("p", { class: "remark" }, `a faster kernel did not take it: ${reason}`))];
}

function cRows(c) {
  return [
    c.kernel ? html("p", { class: "quiet" }, `kernel: ${c.file}, line ${c.kernel_line}`) : null,
    c.kernel ? html("pre", {}, c.kernel) : null,
    html("p", { class: "quiet" }, `call: ${c.file}, line ${c.call_line}`),
    html("pre", {}, c.call),
  ];
}

function historyRows(name) {
  return historyOf(name).map(({ stage, remarks, did }) =>
    html("button", { class: "remark linked", onclick: () => showStage(stage.index) }, html("b", {}, `${did ? "" : "not "}${stage.name}`), ` ${remarks[0].message}`),
  );
}
