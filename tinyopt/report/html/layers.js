// Where time and memory go: the costliest layers, instructions per MAC against the target's ideal, and every layer.

function instructionsOf(layer) {
  const counted = profileOf.get(layer.name);
  return counted ? counted.instructions : layer.estimated_instructions;
}

const LAYER_METRICS = {
  instructions: { label: () => OVERLAYS.instructions.label(), of: instructionsOf },
  flash: { label: () => "constants in flash, bytes", of: (layer) => layer.weight_bytes },
  arena: { label: () => "output in the arena, bytes", of: (layer) => layer.bytes },
  error: { label: () => "error against float, steps", of: (layer) => (layer.error ? layer.error.max_error_steps : null) },
  MACs: { label: () => "MACs", of: (layer) => layer.macs },
};
let chosenMetric = "instructions";

function drawLayers() {
  const view = byId("view-layers");
  const note = data.profile
    ? `Instructions are counted under QEMU, exactly; ${data.profile.compiler}, -${data.profile.optimization}${data.profile.variant ? `; the kernels for ${data.profile.variant}` : ""}.`
    : "Instructions are estimated from MACs and outputs; `tinyopt profile` counts them and writes them here.";
  view.replaceChildren(
    html("div", { class: "columns" }, html("div", { class: "panel-box" }, topTen()), html("div", { class: "panel-box wide" }, perMac())),
    html("p", { class: "quiet" }, note),
    html("div", { class: "scroll" }, layerTable()),
  );
}

function topTen() {
  const metric = LAYER_METRICS[chosenMetric];
  const ranked = layers.map((layer) => ({ layer, value: metric.of(layer) })).filter(({ value }) => value).sort((a, b) => b.value - a.value);
  const total = sum(ranked.map(({ value }) => value));
  const most = ranked.length ? ranked[0].value : 1;
  const isShare = chosenMetric !== "error";
  return [
    html("h3", {}, "The ten largest by ", metricSelect()),
    ...ranked.slice(0, 10).map(({ layer, value }) =>
      html(
        "button",
        { class: "top", onclick: () => showLayer(layer), title: layer.name },
        html("span", { class: "top-name" }, html("b", {}, layer.op), html("span", { class: "quiet" }, ` ${layer.index} ${layer.name}`)),
        html("span", { class: "top-value" }, isShare ? whole(value) : value.toFixed(2), isShare ? html("span", { class: "quiet" }, ` ${((100 * value) / total).toFixed(1)} %`) : null),
        html("span", { class: "top-track" }, html("span", { class: "top-bar", style: `width:${(100 * value) / most}%` })),
      ),
    ),
  ];
}

function metricSelect() {
  const select = html("select", { "aria-label": "Figure", onchange: (event) => { chosenMetric = event.target.value; drawLayers(); } });
  for (const [key, { label }] of Object.entries(LAYER_METRICS)) select.append(html("option", { value: key, selected: key === chosenMetric }, label()));
  return select;
}

function showLayer(layer) {
  showTab("graph");
  showStage(stages.length - 1);
  const cell = scene.view.cells.findIndex((candidate) => nodeNameOf(candidate, "after") === layer.name);
  if (cell >= 0) choose({ cell, side: "after" }, true);
}

// each layer a stem from the target's ideal up to what it takes; the axis is logarithmic
function perMac() {
  const shown = layers.filter((layer) => layer.macs > 0 && instructionsOf(layer) > 0);
  const title = html("h3", {}, `Instructions per MAC by layer, against the ideal of ${report.target ? report.target.name : "the target"}`);
  if (!shown.length) return [title, html("p", { class: "quiet" }, "no layer multiplies")];
  const size = { width: 860, height: 300, left: 46, right: 10, top: 14, bottom: 40 };
  const values = shown.flatMap((layer) => [instructionsOf(layer) / layer.macs, layer.ideal_instructions_per_mac]);
  const [low, high] = [Math.floor(Math.log2(Math.min(...values)) - 0.2), Math.ceil(Math.log2(Math.max(...values)) + 0.2)];
  const y = (value) => size.top + ((high - Math.log2(value)) / (high - low)) * (size.height - size.top - size.bottom);
  const pitch = (size.width - size.left - size.right) / shown.length;
  const chart = svg("svg", { class: "chart roof", viewBox: `0 0 ${size.width} ${size.height}` });
  const step = Math.ceil((high - low) / 8);
  for (let power = low; power <= high; power += step) {
    chart.append(svg("line", { class: "grid", x1: size.left, x2: size.width - size.right, y1: y(2 ** power), y2: y(2 ** power) }));
    chart.append(svg("text", { x: size.left - 6, y: y(2 ** power) + 4, "text-anchor": "end" }, power < 0 ? `1/${2 ** -power}` : String(2 ** power)));
  }
  const every = Math.ceil(18 / pitch); // so many labels as have room
  shown.forEach((layer, i) => {
    const x = size.left + (i + 0.5) * pitch;
    const [value, ideal] = [instructionsOf(layer) / layer.macs, layer.ideal_instructions_per_mac];
    const radius = 2.5 + 6 * Math.sqrt(layer.macs / Math.max(...shown.map((other) => other.macs)));
    const text = `${layer.index} ${layer.op} ${layer.name}: ${value.toFixed(3)} instructions per MAC (ideal ${ideal}), ${whole(layer.macs)} MACs, kernel ${layer.kernel}`;
    chart.append(
      svg(
        "g",
        { class: "lollipop", onclick: () => showLayer(layer) },
        svg("title", {}, text),
        svg("rect", { class: "catch", x: x - pitch / 2, y: size.top, width: pitch, height: size.height - size.top - size.bottom }),
        svg("line", { class: "stem", x1: x, x2: x, y1: y(ideal), y2: y(value) }),
        svg("line", { class: "ideal", x1: x - pitch * 0.45, x2: x + pitch * 0.45, y1: y(ideal), y2: y(ideal) }),
        svg("circle", { cx: x, cy: y(value), r: Math.min(radius, pitch * 0.6) }),
        i % every === 0 ? svg("text", { x, y: size.height - size.bottom + 16, "text-anchor": "middle" }, String(layer.index)) : null,
      ),
    );
  });
  chart.append(svg("text", { class: "axis-title", x: (size.left + size.width) / 2, y: size.height - 6, "text-anchor": "middle" }, "layer in running order; size of the dot: MACs; bar: the ideal"));
  return [title, chart];
}

// what sharing few values wins in flash, and costs in instructions where that is modelled
function clusterText(clusters) {
  if (!clusters) return "";
  if (!clusters.is_decoded) return `${clusters.count} values, int8 kept`;
  const factor = clusters.instructions ? `, ×${(clusters.instructions / clusters.int8_instructions).toFixed(2)} instructions` : "";
  return `${clusters.count} values: −${whole(clusters.saved_bytes)} B${factor}`;
}

function layerTable() {
  const total = sum(layers.map(instructionsOf));
  const areClustered = layers.some((layer) => layer.clusters);
  const head = ["#", "operator", "kernel", "output", "MACs", data.profile ? "instructions" : "instructions ≈", "per MAC", "share", "flash B", "arena at", "SNR", "from", ...(areClustered ? ["clustered weights"] : [])];
  const body = layers.map((layer) => {
    const instructions = instructionsOf(layer);
    const cells = [
      layer.index, layer.op, layer.kernel, `${layer.dtype} ${layer.shape.join("×")}`, whole(layer.macs), whole(instructions),
      layer.macs ? (instructions / layer.macs).toFixed(3) : "", total ? `${((100 * instructions) / total).toFixed(1)} %` : "",
      whole(layer.weight_bytes), whole(layer.offset), layer.error ? decibels(layer.error) : "", layer.origins.join(", "),
      ...(areClustered ? [clusterText(layer.clusters)] : []),
    ];
    return html("tr", { onclick: () => showLayer(layer) }, cells.map((cell, i) => html("td", { class: [0, 4, 5, 6, 7, 8, 9, 10].includes(i) ? "number" : i === 11 ? "from" : "", dir: i === 11 ? "auto" : null }, String(cell))));
  });
  return html("table", {}, html("thead", {}, html("tr", {}, head.map((title, i) => html("th", { class: [0, 4, 5, 6, 7, 8, 9, 10].includes(i) ? "number" : "" }, title)))), html("tbody", {}, body));
}
