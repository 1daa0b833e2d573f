// What quantization broke: signal to noise along the model, and the layers in the order to look at.

const QUANTIZATION_TOP_DB = 70; // bars are full here: more than eleven bits

function drawQuantization() {
  const { layers: errors, suspects, snr_db, samples } = report.quantization;
  const byName = new Map(errors.map((layer) => [layer.name, layer]));
  byId("view-quantization").replaceChildren(
    html("h3", {}, `What quantization broke: ${ratioText(snr_db)} at the model's outputs, over ${whole(samples)} samples`),
    html("div", { class: "panel-box" }, noiseChart(errors, suspects)),
    html("p", { class: "film-key" }, html("span", { class: "key" }, html("i", { class: "noise-alone" }), "alone: exact inputs"), html("span", { class: "key" }, html("i", { class: "noise-channels" }), "alone, every channel counting alike"), html("span", { class: "key" }, html("i", { class: "noise-all" }), "accumulated: everything is quantized")),
    html("div", { class: "scroll" }, suspectTable(suspects.map((name) => byName.get(name)))),
    html("p", { class: "quiet" }, "Signal to noise against the float model, in dB: 6 dB are one bit. `tinyopt debug-quant` also measures what each layer costs at the model's outputs, and sorts by that."),
  );
}

function ratioText(ratio) {
  return ratio === null || ratio === undefined ? "exact" : `${ratio.toFixed(1)} dB`;
}

// three marks for each layer in running order; the accumulated ones joined by a line
function noiseChart(errors, suspects) {
  const size = { width: 1180, height: 300, left: 40, right: 10, top: 14, bottom: 40 };
  const seen = errors.flatMap((layer) => [layer.snr_alone_db, layer.snr_accumulated_db, layer.snr_channels_db]).filter((ratio) => ratio !== null);
  const low = Math.max(-20, Math.min(0, Math.floor(Math.min(...seen, 0) / 10) * 10));
  const high = Math.max(40, Math.ceil(Math.max(...seen, 0) / 10) * 10);
  const y = (ratio) => size.top + ((high - Math.max(low, ratio === null ? high : ratio)) / (high - low)) * (size.height - size.top - size.bottom);
  const pitch = (size.width - size.left - size.right) / errors.length;
  const x = (place) => size.left + (place + 0.5) * pitch;
  const chart = svg("svg", { class: "chart noise", viewBox: `0 0 ${size.width} ${size.height}` });
  for (let ratio = low; ratio <= high; ratio += 10) {
    chart.append(svg("line", { class: "grid", x1: size.left, x2: size.width - size.right, y1: y(ratio), y2: y(ratio) }));
    chart.append(svg("text", { x: size.left - 6, y: y(ratio) + 4, "text-anchor": "end" }, String(ratio)));
  }
  chart.append(svg("polyline", { class: "noise-all", points: errors.map((layer, i) => `${x(i)},${y(layer.snr_accumulated_db)}`).join(" ") }));
  const every = Math.ceil(18 / pitch);
  errors.forEach((layer, i) => {
    const place = suspects.indexOf(layer.name);
    const text = `${layer.op} ${layer.name}: alone ${ratioText(layer.snr_alone_db)}, by channels ${ratioText(layer.snr_channels_db)}, accumulated ${ratioText(layer.snr_accumulated_db)}; suspect ${place + 1}: ${layer.advice}`;
    chart.append(
      svg(
        "g",
        { class: "noise-layer", onclick: () => showSuspect(layer) },
        svg("title", {}, text),
        svg("rect", { class: "catch", x: x(i) - pitch / 2, y: size.top, width: pitch, height: size.height - size.top - size.bottom }),
        svg("line", { class: "stem", x1: x(i), x2: x(i), y1: y(layer.snr_alone_db), y2: y(layer.snr_channels_db) }),
        svg("circle", { class: "noise-alone", cx: x(i), cy: y(layer.snr_alone_db), r: 4 }),
        svg("circle", { class: "noise-channels", cx: x(i), cy: y(layer.snr_channels_db), r: 3 }),
        i % every === 0 ? svg("text", { class: place < 3 ? "suspect" : "", x: x(i), y: size.height - size.bottom + 16, "text-anchor": "middle" }, i === 0 && layer.op === "Input" ? "in" : String(i)) : null,
      ),
    );
  });
  chart.append(svg("text", { class: "axis-title", x: (size.left + size.width) / 2, y: size.height - 6, "text-anchor": "middle" }, "graph inputs and layers in running order; the first three suspects are bold; dB"));
  return chart;
}

function suspectTable(rows) {
  const isMeasured = rows.some((layer) => layer.is_measured_at_outputs);
  const ratios = [["alone", "snr_alone_db"], ["channels", "snr_channels_db"], ["accumulated", "snr_accumulated_db"], ...(isMeasured ? [["at outputs", "snr_model_db"]] : [])];
  const head = html("tr", {}, ["#", "layer", "output"].map((title) => html("th", { class: title === "#" ? "number" : "" }, title)), ratios.map(([title]) => html("th", {}, title)), ["saturated", "range", "worst channel"].map((title) => html("th", { class: "number" }, title)), html("th", {}, "what to do"));
  const body = rows.map((layer, i) => {
    const worst = layer.worst_channels[0];
    return html(
      "tr",
      { onclick: () => showSuspect(layer) },
      html("td", { class: "number" }, String(i + 1)),
      html("td", { class: "suspect-name", title: layer.name }, html("b", {}, layer.op), ` ${layer.name}`),
      html("td", {}, layer.output),
      ratios.map(([, key]) => html("td", {}, ratioBar(layer[key]))),
      html("td", { class: "number" }, layer.saturated ? `${(100 * layer.saturated).toFixed(3)} %` : ""),
      html("td", { class: "number" }, layer.output === "float32" ? "" : `${(100 * layer.range_used).toFixed(0)} %`),
      html("td", { class: "number" }, worst ? `${worst.index}: ${ratioText(worst.snr_db)}` : ""),
      html("td", { class: "from" }, layer.advice),
    );
  });
  return html("table", {}, html("thead", {}, head), html("tbody", {}, body));
}

function ratioBar(ratio) {
  const share = ratio === null || ratio === undefined ? 1 : Math.min(1, Math.max(0, ratio / QUANTIZATION_TOP_DB));
  const quality = ratio === null || ratio === undefined || ratio >= 35 ? "" : ratio >= 20 ? " poor" : " bad";
  return html("span", { class: `ratio${quality}` }, html("span", { class: "ratio-text" }, ratio === null || ratio === undefined ? "exact" : ratio.toFixed(1)), html("span", { class: "ratio-track" }, html("span", { class: "ratio-bar", style: `width:${100 * share}%` })));
}

// the compiled layer of that name, where it is one
function showSuspect(error) {
  const layer = layers.find((candidate) => candidate.name === error.name);
  if (layer) showLayer(layer);
}
