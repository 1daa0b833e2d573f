// The strip on top: one tile for each pass, passes without effect folded, a slider to play through.

function drawStrip() {
  const tiles = byId("tiles");
  const most = Object.fromEntries(METRICS.map(({ key }) => [key, Math.max(...stages.map((s) => (s.after || {})[key] || 0))]));
  let folded = null;
  for (const stage of stages) {
    if (stage.is_changed) {
      folded = null;
      tiles.append(tile(stage, most));
    } else {
      if (!folded) tiles.append((folded = foldedTile()));
      folded.append(foldedLine(stage));
    }
  }
  const slider = byId("slider");
  slider.max = stages.length - 1;
  slider.addEventListener("input", () => showStage(Number(slider.value)));
  byId("play").addEventListener("click", togglePlay);
}

function tile(stage, most) {
  const counts = stage.nodes;
  return html(
    "button",
    { class: "tile", "data-stage": stage.index, role: "option", onclick: () => showStage(stage.index), title: stage.name },
    html("span", { class: "tile-name" }, stage.name),
    html("span", { class: "tile-counts" }, counts ? signs(counts) : tileNote(stage)),
    stage.after ? METRICS.map((metric) => bar(metric, stage, most[metric.key])) : null,
    stage.after && stage.after.macs !== undefined ? driftBar(stage) : null,
  );
}

function tileNote(stage) {
  const count = stage.after && stage.after.nodes;
  return html("span", { class: "quiet" }, count === undefined || count === null ? "" : `${whole(count)} nodes`);
}

function signs(counts) {
  const changed = counts.changed - Math.min(counts.fused, counts.changed);
  return [["removed", "−", counts.removed], ["added", "+", counts.added], ["changed", "~", changed], ["fused", "⊃", counts.fused]]
    .filter(([, , count]) => count)
    .map(([status, sign, count]) => html("span", { class: `count s-${status}`, title: `${count} nodes: ${STATUS[status][1]}` }, `${sign}${count}`));
}

// the exact figure takes the place of the estimate where the program is compiled
function figure(stage, key) {
  if (!isFinal(stage)) return { value: stage.after[key], exact: !key.startsWith("estimated") };
  if (key === "weight_bytes") return { value: stage.after.flash_constant_bytes, exact: true, label: "constants" };
  if (key === "estimated_arena_bytes") return { value: stage.after.arena_bytes, exact: true };
  if (key === "estimated_instructions" && data.profile) return { value: totalInstructions(), exact: true };
  return { value: stage.after[key], exact: !key.startsWith("estimated") };
}

function bar({ key, label, unit }, stage, most) {
  const { value, exact, label: own } = figure(stage, key);
  if (value === undefined) return null;
  const before = stage.before ? figure(stages[stage.index - 1], key).value : value;
  const width = (number) => `${most ? Math.max(1, (100 * number) / most) : 0}%`;
  const name = own || (exact ? label.replace(" ≈", "") : label);
  return html(
    "span",
    { class: "bar", title: `${name}: ${whole(value)} ${unit}${value === before ? "" : `, before ${whole(before)}`}` },
    html("span", { class: "bar-before", style: `width:${width(before)}` }),
    html("span", { class: value < before ? "bar-now less" : value > before ? "bar-now more" : "bar-now", style: `width:${width(value)}` }),
    html("span", { class: "quiet" }, name.replace(" ≈", "")),
    html("span", { class: "bar-value" }, `${exact ? "" : "≈ "}${short(value)}`),
  );
}

function driftBar(stage) {
  const drift = stage.drift;
  const text = drift ? decibels(drift) : "–";
  // 60 dB is as good as exact to the eye, 0 dB is noise as loud as the signal
  const width = drift && drift.snr_db !== null ? Math.min(100, Math.max(2, 100 * (1 - drift.snr_db / 60))) : 0;
  return html(
    "span",
    { class: "bar", title: drift ? `outputs moved by at most ${drift.max_abs.toPrecision(3)}; signal to noise ${text}` : "not measured" },
    html("span", { class: "bar-before", style: "width:100%" }),
    width ? html("span", { class: "bar-now drift", style: `width:${width}%` }) : null,
    html("span", { class: "quiet" }, "drift"),
    html("span", { class: "bar-value" }, text),
  );
}

function foldedTile() {
  return html("div", { class: "tile folded" }, html("span", { class: "tile-name quiet" }, "without effect"));
}

function foldedLine(stage) {
  const reason = stage.remarks.map((remark) => remark.message).join("; ");
  return html("button", { class: "folded-line", "data-stage": stage.index, role: "option", title: reason, onclick: () => showStage(stage.index) }, stage.name);
}

function markStage(index) {
  for (const element of byId("tiles").querySelectorAll("[data-stage]")) {
    const isChosen = Number(element.dataset.stage) === index;
    element.classList.toggle("chosen", isChosen);
    element.setAttribute("aria-selected", isChosen);
    if (isChosen) {
      const tiles = byId("tiles");
      const left = element.offsetLeft - tiles.offsetLeft;
      if (left < tiles.scrollLeft || left + element.offsetWidth > tiles.scrollLeft + tiles.clientWidth) {
        tiles.scrollLeft = left - tiles.clientWidth / 2 + element.offsetWidth / 2;
      }
    }
  }
  byId("slider").value = index;
  byId("position").textContent = `${index + 1} of ${stages.length}: ${stages[index].name}`;
}

let playing = null;

function togglePlay() {
  const button = byId("play");
  if (playing) {
    clearInterval(playing);
    playing = null;
  } else {
    if (state.stage === stages.length - 1) showStage(0);
    playing = setInterval(() => (state.stage < stages.length - 1 ? showStage(state.stage + 1) : togglePlay()), 1400);
  }
  button.textContent = playing ? "❚❚" : "▶";
  button.setAttribute("aria-label", playing ? "Pause" : "Play");
}
