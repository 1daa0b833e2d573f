// The memory film: arena addresses by time. Before planning every buffer has a place of its own; after it they share.

const FILM = { width: 640, height: 430, left: 62, right: 12, top: 26, bottom: 40 };

function drawMemory() {
  const buffers = report.buffers || [];
  const regions = report.regions || [];
  let end = 0;
  const apart = buffers.map((buffer) => {
    const at = end;
    end += Math.ceil(buffer.bytes / 16) * 16;
    return { ...buffer, at };
  });
  const planned = regions.length
    ? regions.map((region, number) => ({ title: `After planning: ${region.name}, ${whole(region.bytes)} of ${whole(region.capacity)} B`, bytes: region.bytes, number }))
    : [{ title: "After planning", bytes: report.after.arena_bytes, number: 0 }];
  const films = planned.map(({ title, bytes, number }) => {
    const inside = buffers.filter((buffer) => (buffer.region || 0) === number).map((buffer) => ({ ...buffer, at: buffer.offset }));
    return html("div", { class: "panel-box" }, html("h4", {}, title), film(inside, bytes, bytes));
  });
  const peak = report.after.arena_bytes;
  const places = regions.length ? `${regions.length} memory regions` : "One arena";
  byId("view-memory").replaceChildren(
    html("h3", {}, `${places}: ${whole(end)} B if every buffer had its own place, ${whole(peak)} B as planned (${percentChange(end, peak)}); no plan can be below ${whole(report.after.arena_lower_bound_bytes)} B`),
    html("div", { class: "columns even" }, html("div", { class: "panel-box" }, html("h4", {}, "Before planning"), film(apart, end, null)), ...films),
    html("p", { class: "film-key" }, html("span", { class: "key" }, html("i", { class: "tensor" }), "tensor"), html("span", { class: "key" }, html("i", { class: "scratch" }), "a kernel's working memory"), html("span", { class: "key" }, html("i", { class: "peak" }), "the layer at the peak")),
    html("div", { class: "scroll" }, bufferTable(buffers, regions)),
  );
}

function film(buffers, top, peak) {
  const last = Math.max(1, ...(report.buffers || []).map((buffer) => buffer.last));
  const x = (step) => FILM.left + (step / (last + 1)) * (FILM.width - FILM.left - FILM.right);
  const y = (address) => FILM.height - FILM.bottom - (address / (top || 1)) * (FILM.height - FILM.top - FILM.bottom);
  const chart = svg("svg", { class: "chart film", viewBox: `0 0 ${FILM.width} ${FILM.height}` });
  for (const address of ticks(top)) {
    chart.append(svg("line", { class: "grid", x1: FILM.left, x2: FILM.width - FILM.right, y1: y(address), y2: y(address) }));
    chart.append(svg("text", { x: FILM.left - 7, y: y(address) + 4, "text-anchor": "end" }, whole(address)));
  }
  const busiest = busiestStep(buffers, last);
  for (const buffer of buffers) chart.append(bufferMark(buffer, x, y));
  if (peak !== null) {
    chart.append(svg("rect", { class: "peak-step", x: x(busiest), y: FILM.top, width: x(busiest + 1) - x(busiest), height: FILM.height - FILM.top - FILM.bottom }));
    chart.append(svg("line", { class: "peak-line", x1: FILM.left, x2: FILM.width - FILM.right, y1: y(peak), y2: y(peak) }));
    chart.append(svg("text", { class: "peak-text", x: FILM.width - FILM.right, y: y(peak) - 7, "text-anchor": "end" }, `peak ${whole(peak)} B at ${stepName(busiest)}`));
  }
  const every = Math.ceil(26 / ((FILM.width - FILM.left - FILM.right) / (last + 1)));
  for (let step = 0; step <= last; step += every) {
    chart.append(svg("text", { x: (x(step) + x(step + 1)) / 2, y: FILM.height - FILM.bottom + 15, "text-anchor": "middle" }, step === 0 ? "in" : step === last ? "out" : String(step - 1)));
  }
  chart.append(svg("text", { class: "axis-title", x: (FILM.left + FILM.width) / 2, y: FILM.height - 6, "text-anchor": "middle" }, "layer that runs"));
  return chart;
}

function bufferMark(buffer, x, y) {
  const isScratch = buffer.name.startsWith("scratch of ");
  const box = { x: x(buffer.first) + 0.75, y: y(buffer.at + buffer.bytes), width: Math.max(1.5, x(buffer.last + 1) - x(buffer.first) - 1.5), height: Math.max(1, y(buffer.at) - y(buffer.at + buffer.bytes) - 0.75) };
  const label = whole(buffer.bytes);
  const [needed, line] = [label.length * 6.4 + 6, 13];
  const isUpright = box.width > line && box.height > needed && box.width <= needed;
  const hasRoom = isUpright || (box.height > line && box.width > needed);
  const [x0, y0] = [box.x + box.width / 2, box.y + box.height / 2];
  return svg(
    "g",
    { class: isScratch ? "buffer scratch" : "buffer" },
    svg("title", {}, `${buffer.name}\n${whole(buffer.bytes)} B at ${whole(buffer.at)}, ${stepName(buffer.first)} to ${stepName(buffer.last)}`),
    svg("rect", { ...box, rx: 2 }),
    hasRoom ? svg("text", { transform: `translate(${x0} ${y0})${isUpright ? " rotate(-90)" : ""}`, y: 4, "text-anchor": "middle" }, label) : null,
  );
}

function stepName(step) {
  if (step === 0) return "the input";
  const layer = layers[step - 1];
  return layer ? `layer ${layer.index} (${layer.op})` : "the output";
}

function busiestStep(buffers, last) {
  const alive = Array.from({ length: last + 1 }, (_, step) => bytesInUse(buffers.filter((b) => b.first <= step && step <= b.last)));
  return alive.indexOf(Math.max(...alive));
}

// an output may overlap an input that is read for the last time: such bytes count once
function bytesInUse(buffers) {
  let [end, used] = [0, 0];
  for (const buffer of [...buffers].sort((a, b) => a.at - b.at)) {
    used += Math.max(0, buffer.at + buffer.bytes - Math.max(end, buffer.at));
    end = Math.max(end, buffer.at + buffer.bytes);
  }
  return used;
}

// round numbers up to `top`, not more than six
function ticks(top) {
  const raw = top / 5 || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= raw);
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, i) => i * step);
}

function bufferTable(buffers, regions) {
  const head = ["buffer", "bytes", ...(regions.length ? ["region"] : []), "offset", "from", "to"];
  const numeric = new Set(["bytes", "offset"]);
  const body = buffers.map((b) => {
    const region = regions.length ? [html("td", {}, regions[b.region].name)] : [];
    return html("tr", {}, html("td", { class: "from", dir: "auto" }, b.name), html("td", { class: "number" }, whole(b.bytes)), ...region, html("td", { class: "number" }, whole(b.offset)), html("td", {}, stepName(b.first)), html("td", {}, stepName(b.last)));
  });
  return html("table", {}, html("thead", {}, html("tr", {}, head.map((title) => html("th", { class: numeric.has(title) ? "number" : "" }, title)))), html("tbody", {}, body));
}
