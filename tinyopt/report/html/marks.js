// What is put over the graph: arrows from old nodes to new ones, the colours of an overlay, found and chosen nodes.

function drawArrows() {
  scene.arrows = [];
  const all = [];
  if (scene.stage.has_own_view && scene.stage.index) {
    scene.view.cells.forEach((cell, target) => (cell.sources || []).forEach((source) => all.push({ source, target })));
  }
  scene.allArrows = all;
  markArrows();
}

// all of them faintly where they are few; those of the hovered and the chosen node strongly
function markArrows() {
  const near = (arrow, cell) => cell !== null && (arrow.source === cell || arrow.target === cell || siblings(cell).has(arrow.target));
  const picked = state.chosen ? state.chosen.cell : null;
  const strong = scene.allArrows.filter((arrow) => near(arrow, state.hovered) || near(arrow, picked));
  const isSideBySide = scene.boxes && scene.boxes[1].x > 0; // one above the other they would cross everything
  const shown = isSideBySide && scene.allArrows.length <= ARROWS_MAX && state.arrows ? scene.allArrows : strong;
  scene.arrows = shown.map((arrow) => ({ ...arrow, path: svg("path", { class: strong.includes(arrow) ? "arrow strong" : "arrow", "marker-end": "url(#head)" }) }));
  scene.overlay.replaceChildren(...scene.arrows.map((arrow) => arrow.path));
  placeArrows();
}

function siblings(cell) {
  return new Set(scene.allArrows.filter((arrow) => arrow.source === cell).map((arrow) => arrow.target));
}

function placeArrows() {
  if (!scene.boxes) return;
  const [first, second] = scene.boxes;
  const inside = (x, y, box) => x > box.x && x < box.x + box.width && y > box.y + 28 && y < box.y + box.height;
  for (const { source, target, path } of scene.arrows) {
    const [a, b] = [scene.view.cells[source], scene.view.cells[target]];
    const half = (cell) => ((isChip(cell) ? NODE.chip : NODE.width) / 2) * scene.k;
    const from = [first.x + scene.x + a.x * scene.k + half(a), first.y + scene.y + a.y * scene.k];
    const to = [second.x + scene.x + b.x * scene.k - half(b) - 2, second.y + scene.y + b.y * scene.k];
    const bow = Math.max(40, Math.abs(to[0] - from[0]) * 0.42);
    path.setAttribute("d", `M${from}C${from[0] + bow} ${from[1]} ${to[0] - bow} ${to[1]} ${to}`);
    path.style.display = inside(...from, first) && inside(...to, second) ? "" : "none";
  }
}

function applyOverlay() {
  const overlay = OVERLAYS[state.overlay];
  byId("canvas").classList.toggle("overlaid", Boolean(overlay));
  const every = [...scene.nodes.before, ...scene.nodes.after];
  if (!overlay && !scene.isOverlaid) return drawLegend(overlay, 0);
  scene.isOverlaid = Boolean(overlay);
  const values = overlay ? every.map(({ node }) => overlay.of(node, scene.stage)) : [];
  const most = Math.max(0, ...values.filter((value) => value !== null));
  every.forEach(({ element }, i) => {
    const value = overlay ? values[i] : null;
    const share = value === null || !most ? null : value / most;
    element.style.setProperty("--heat", share === null ? "" : heat(share));
    element.classList.toggle("hot", share !== null);
    element.classList.toggle("dark-text", share !== null && share > 0.5);
  });
  drawLegend(overlay, most);
}

// dark blue to yellow (cividis): even to the colour-blind eye, and in grey
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];

function heat(share) {
  const place = Math.sqrt(Math.min(1, Math.max(0, share))) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(place));
  const mix = CIVIDIS[low].map((c, i) => Math.round(c + (CIVIDIS[low + 1][i] - c) * (place - low)));
  return `rgb(${mix})`;
}

function drawLegend(overlay, most) {
  const legend = byId("legend");
  if (overlay) {
    const steps = [0, 0.05, 0.2, 0.45, 0.7, 1].map((share) => html("span", { class: "swatch", style: `background:${heat(share)}` }));
    legend.replaceChildren(html("span", {}, overlay.label()), html("span", { class: "quiet" }, "0"), ...steps, html("span", { class: "quiet" }, short(most)));
    return;
  }
  const present = new Set([...scene.nodes.before, ...scene.nodes.after].map(({ status }) => status));
  const keys = Object.keys(STATUS).filter((status) => status !== "same" && present.has(status));
  legend.replaceChildren(...keys.map((status) => html("span", { class: `key s-${status}` }, html("i", {}, STATUS[status][0]), STATUS[status][1])));
}

function applyMarks() {
  const isNeeded = state.search || state.op || state.onlyChanged || state.chosen;
  if (!isNeeded && !scene.isMarked) return;
  scene.isMarked = Boolean(isNeeded);
  const wanted = state.search.toLowerCase();
  for (const side of ["before", "after"]) {
    for (const { element, index, node, status } of scene.nodes[side]) {
      const isFound = !wanted || nameMatches(node, wanted);
      const isOff = (state.onlyChanged && status === "same") || (state.op && node.op !== state.op) || !isFound;
      element.classList.toggle("off", Boolean(isOff));
      element.classList.toggle("found", Boolean(wanted) && isFound);
      element.classList.toggle("chosen", Boolean(state.chosen) && state.chosen.cell === index);
    }
  }
}

function nameMatches(node, wanted) {
  return [node.name, node.op, ...node.origins].some((text) => text.toLowerCase().includes(wanted));
}
