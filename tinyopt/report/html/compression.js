// What pruning took of each layer, and how far the outputs came back: bars before and after, the ladder, every layer.

const RUNG_DB = { bad: 10, poor: 20, top: 40 }; // 40 dB: the same answers, nearly always

function drawCompression() {
  const section = report.compression;
  const kept = sum(section.layers.map((layer) => layer.channels.after));
  const all = sum(section.layers.map((layer) => layer.channels.before));
  const totals = [["MACs", section.macs], ["instructions ≈", section.instructions]].map(([label, pair]) => `${label} ${whole(pair.before)} → ${whole(pair.after)} (${percentChange(pair.before, pair.after)})`);
  byId("view-compression").replaceChildren(
    html("h3", {}, `Pruned: ${whole(kept)} of ${whole(all)} channels stay; ${totals.join("; ")}`),
    html("div", { class: "panel-box" }, keptChart(section.layers)),
    html("p", { class: "film-key" }, html("span", { class: "key" }, html("i", { class: "channels-before" }), "output channels before"), html("span", { class: "key" }, html("i", { class: "channels-after" }), "channels that stay")),
    section.ladder.length ? html("div", { class: "panel-box ladder" }, ladder(section)) : null,
    html("div", { class: "scroll" }, prunedTable(section)),
    ...blockedGroups(section.groups),
  );
}

// a bar for each layer in running order: outlined as it was, filled as far as its channels stay
function keptChart(pruned) {
  const size = { width: 1180, height: 280, left: 46, right: 10, top: 14, bottom: 40 };
  const most = Math.max(1, ...pruned.map((layer) => layer.channels.before));
  const room = size.height - size.top - size.bottom;
  const y = (count) => size.top + (1 - count / most) * room;
  const pitch = (size.width - size.left - size.right) / pruned.length;
  const width = Math.max(1, Math.min(46, pitch * 0.72));
  const chart = svg("svg", { class: "chart kept-bars", viewBox: `0 0 ${size.width} ${size.height}` });
  for (const count of ticks(most)) {
    chart.append(svg("line", { class: "grid", x1: size.left, x2: size.width - size.right, y1: y(count), y2: y(count) }));
    chart.append(svg("text", { x: size.left - 6, y: y(count) + 4, "text-anchor": "end" }, whole(count)));
  }
  const every = Math.ceil(18 / pitch);
  pruned.forEach((layer, i) => {
    const x = size.left + (i + 0.5) * pitch;
    const { before, after } = layer.channels;
    const bar = (kind, count) => svg("rect", { class: kind, x: x - width / 2, y: y(count), width, height: Math.max(count ? 1.5 : 0, (count / most) * room) });
    chart.append(
      svg(
        "g",
        { class: "kept-layer", onclick: () => showPruned(layer) },
        svg("title", {}, `${layer.op} ${layer.name}: ${after ? `${whole(after)} of ${whole(before)} channels stay` : "removed whole"}`),
        svg("rect", { class: "catch", x: x - pitch / 2, y: size.top, width: pitch, height: room }),
        bar("channels-after", after),
        bar("channels-before", before),
        pitch > 26 && after < before ? svg("text", { x, y: y(before) - 3, "text-anchor": "middle" }, after ? `−${whole(before - after)}` : "gone") : null,
        i % every === 0 ? svg("text", { x, y: size.height - size.bottom + 16, "text-anchor": "middle" }, String(i)) : null,
      ),
    );
  });
  chart.append(svg("text", { class: "axis-title", x: (size.left + size.width) / 2, y: size.height - 6, "text-anchor": "middle" }, "layers with weights in running order; output channels"));
  return chart;
}

function ladder(section) {
  const rungs = section.ladder.map((rung) => {
    const share = rung.snr_db === null ? 1 : Math.min(1, Math.max(0.01, rung.snr_db / RUNG_DB.top));
    const quality = rung.snr_db === null || rung.snr_db >= RUNG_DB.poor ? "" : rung.snr_db >= RUNG_DB.bad ? " poor" : " bad";
    const differing = rung.differing === null ? "" : `${whole(rung.differing)} of ${whole(section.samples)} answers differ`;
    return [html("span", {}, rung.pass), html("span", { class: "ratio-track" }, html("span", { class: `rung-bar${quality}`, style: `width:${100 * share}%` })), html("span", { class: "number" }, ratioText(rung.snr_db)), html("span", { class: "quiet" }, differing)];
  });
  return [html("h4", {}, `Outputs after each pass, beside those before pruning, over ${whole(section.samples)} calibration samples`), html("div", { class: "rungs" }, rungs), evaluated()];
}

function evaluated() {
  const found = report.evaluation;
  return found ? html("p", {}, `top-1 on ${whole(found.samples)} labelled samples: ${(100 * found.float_top1).toFixed(2)} % as it came, ${(100 * found.compiled_top1).toFixed(2)} % compiled`) : null;
}

function prunedTable(section) {
  const figures = [["MACs", "macs"], ["instructions ≈", "instructions"], ["parameters", "parameters"]];
  const areClustered = layers.some((layer) => layer.clusters);
  const columns = ["#", "layer", "hangs with", "channels", "", ...figures.flatMap(([title]) => [title, ""]), "flash B", ...(areClustered ? ["values"] : [])];
  const isText = (i) => i === 1 || i === 2 || i === 4;
  const body = section.layers.map((layer, number) => {
    const compiled = layers.find((candidate) => candidate.name === layer.name);
    const { before, after } = layer.channels;
    const cells = [
      String(number),
      [html("b", {}, layer.op), ` ${layer.name}`],
      layer.groups.map((group) => `group ${group}`).join(", "),
      after ? `${whole(after)} of ${whole(before)}` : `0 of ${whole(before)}: removed`,
      html("span", { class: "share-track" }, html("span", { class: "share-bar", style: `width:${(100 * after) / before}%` })),
      ...figures.flatMap(([, key]) => [whole(layer[key].after), layer[key].before === layer[key].after ? "" : percentChange(layer[key].before, layer[key].after)]),
      compiled ? whole(compiled.weight_bytes) : "",
      ...(areClustered ? [compiled && compiled.clusters ? whole(compiled.clusters.count) : ""] : []),
    ];
    return html("tr", { onclick: () => showPruned(layer) }, cells.map((cell, i) => html("td", { class: isText(i) ? (i === 1 ? "suspect-name" : "") : "number", title: i === 1 ? layer.name : null, dir: i === 1 ? "auto" : null }, cell)));
  });
  const head = columns.map((title, i) => html("th", { class: isText(i) ? "" : "number" }, title));
  return html("table", {}, html("thead", {}, html("tr", {}, head)), html("tbody", {}, body));
}

function blockedGroups(groups) {
  const blocked = groups.map((group, number) => ({ group, number })).filter(({ group }) => group.blocked);
  if (!blocked.length) return [];
  return [html("h3", {}, "Channels that cannot be removed"), ...blocked.map(({ group, number }) => html("p", { class: "remark k-declined" }, html("i", {}, "–"), `group ${number}, ${whole(group.channels.before)} channels of ${group.label}: ${group.blocked}`))];
}

// the compiled layer of that name; one that was removed whole is shown where it was
function showPruned(layer) {
  const compiled = layers.find((candidate) => candidate.name === layer.name);
  if (compiled) return showLayer(compiled);
  showTab("graph");
  const stage = stages.find((candidate) => candidate.name === "prune-channels");
  if (!stage) return undefined;
  showStage(stage.index);
  const cell = scene.view.cells.findIndex((candidate) => nodeNameOf(candidate, "before") === layer.name);
  return cell >= 0 ? choose({ cell, side: "before" }, true) : undefined;
}
