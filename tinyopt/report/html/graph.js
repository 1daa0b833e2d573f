// The graph before and after a pass, side by side under one pan and zoom, with arrows from old nodes to new ones.

const NODE = { width: 176, height: 28, chip: 35, chipHeight: 22 };
const READABLE = 0.42; // the zoom from which on text can be read
const ARROWS_MAX = 60; // beyond that only those of the chosen node are drawn
const scene = { view: null, k: 1, x: 0, y: 0, panels: [], nodes: { before: [], after: [] }, arrows: [] };
const CHIPS = { QuantizeLinear: "Q", DequantizeLinear: "DQ", Identity: "=", FlipSign: "±" };

function prepareCanvas() {
  const canvas = byId("canvas");
  const marker = (id) =>
    svg("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto-start-reverse" }, svg("path", { d: "M0 0 8 4 0 8z" }));
  canvas.append(svg("defs", {}, marker("head"), marker("flow")));
  for (const side of ["before", "after"]) {
    const world = svg("g", { class: "world" });
    const panel = svg("svg", { class: "panel", "data-side": side }, world);
    canvas.append(panel);
    scene.panels.push({ side, panel, world });
  }
  scene.overlay = svg("g", { class: "arrows" });
  scene.divider = svg("line", { class: "divider" });
  canvas.prepend(scene.overlay); // arrows run behind the nodes, whose text they would cross
  canvas.append(scene.divider);
  new ResizeObserver(() => resize()).observe(canvas);
  listenToPointers(canvas);
  resize();
}

// where the panels are: side by side, or one above the other on a phone
function panelBoxes() {
  const { width, height } = scene.size;
  if (width >= 640) return [{ x: 0, y: 0, width: width / 2, height }, { x: width / 2, y: 0, width: width / 2, height }];
  return [{ x: 0, y: 0, width, height: height / 2 }, { x: 0, y: height / 2, width, height: height / 2 }];
}

function resize() {
  const box = byId("canvas").getBoundingClientRect();
  if (!box.width || !box.height) return;
  const isFirst = !scene.size;
  scene.size = { width: box.width, height: box.height };
  scene.boxes = panelBoxes();
  scene.panels.forEach(({ panel }, i) => fill(panel, scene.boxes[i], []));
  const second = scene.boxes[1];
  fill(scene.divider, second.x ? { x1: second.x, y1: 0, x2: second.x, y2: box.height } : { x1: 0, y1: second.y, x2: box.width, y2: second.y }, []);
  fill(byId("label-after"), { style: `left:${second.x}px;top:${second.y}px` }, []);
  if (isFirst || !scene.isMoved) fit();
  else moveTo(scene.x, scene.y, scene.k);
}

function drawGraph(stage) {
  const isSame = scene.view === stage.view && scene.isDiff === (stage.has_own_view && stage.index > 0);
  const hasMoved = scene.view !== stage.view;
  scene.stage = stage;
  scene.view = stage.view;
  scene.arrows = []; // the old ones point into the drawing before
  const isDiff = stage.has_own_view && stage.index > 0;
  scene.isDiff = isDiff;
  for (const { side, world } of isSame ? [] : scene.panels) {
    scene.nodes[side] = [];
    world.replaceChildren(...edges(stage, side, isDiff), ...nodes(stage, side, isDiff));
  }
  labelPanels(stage);
  if (hasMoved && scene.size) fit();
  else labelVisible();
  drawArrows();
  applyOverlay();
  applyMarks();
}

function labelPanels(stage) {
  const count = (side) => stage.view.cells.filter((cell) => cellSide(stage, cell, side)).length;
  const label = (title, name, number) => [html("b", {}, title), html("span", {}, name), html("span", { class: "quiet" }, `${whole(number)} nodes`)];
  const previous = stages[Math.max(0, stage.index - 1)].name;
  byId("label-before").replaceChildren(...label("Before", previous, count("before")));
  byId("label-after").replaceChildren(...label("After", stage.name, count("after")));
}

function edges(stage, side, isDiff) {
  const view = stage.view;
  const key = `lines of ${isDiff ? side : "after"} ${isDiff}`; // a view is drawn again and again
  view[key] = view[key] || edgeLines(stage, side, isDiff);
  return Object.entries(view[key]).map(([kind, d]) => svg("path", { class: `edge ${kind}`, d }));
}

function edgeLines(stage, side, isDiff) {
  const routes = stage.view.edges[isDiff ? side : "after"];
  const isNew = newEdges(stage, side, isDiff);
  const paths = { plain: [], fresh: [] };
  for (const route of routes) paths[isNew(route) ? "fresh" : "plain"].push(pathOf(route, stage.view.cells));
  return { plain: paths.plain.join(""), fresh: paths.fresh.join("") };
}

// edges that only this side has are drawn stronger
function newEdges(stage, side, isDiff) {
  if (!isDiff) return () => false;
  const other = new Set(stage.view.edges[side === "before" ? "after" : "before"].map((route) => `${route[0]} ${route[1]}`));
  return (route) => !other.has(`${route[0]} ${route[1]}`);
}

function pathOf(route, cells) {
  const points = [];
  for (let i = 2; i < route.length; i += 2) points.push([route[i], route[i + 1]]);
  const [first, last] = [points[0], points[points.length - 1]];
  if (cells[route[0]].is_satellite) return `M${first[0] + NODE.chip / 2} ${first[1]}H${last[0] - NODE.width / 2}`;
  points[0] = [first[0], first[1] + 12];
  points[points.length - 1] = [last[0], last[1] - 14];
  const isGoingDown = points.every((point, i) => i === 0 || point[1] > points[i - 1][1]);
  return isGoingDown && points.some((point) => point[0] !== points[0][0]) ? swung(points) : rounded(points, 9);
}

// a curve through points that leaves and reaches each of them vertically
function swung(points) {
  let path = `M${points[0]}`;
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    const middle = (a[1] + b[1]) / 2;
    path += a[0] === b[0] ? `L${b}` : `C${a[0]} ${middle} ${b[0]} ${middle} ${b}`;
  }
  return path;
}

// a line through points whose corners are rounded
function rounded(points, radius) {
  let path = `M${points[0]}`;
  for (let i = 1; i < points.length - 1; i++) {
    const [a, b, c] = [points[i - 1], points[i], points[i + 1]];
    const cut = (p, q) => {
      const length = Math.hypot(q[0] - p[0], q[1] - p[1]) || 1;
      const share = Math.min(radius, length / 2) / length;
      return [q[0] + (p[0] - q[0]) * share, q[1] + (p[1] - q[1]) * share];
    };
    path += `L${cut(a, b)}Q${b} ${cut(c, b)}`;
  }
  return `${path}L${points[points.length - 1]}`;
}

function nodes(stage, side, isDiff) {
  const found = [];
  const ghosts = [];
  stage.view.cells.forEach((cell, index) => {
    if (cell.terminal) return void found.push(terminal(cell));
    const own = cellSide(stage, cell, side);
    if (own) {
      const element = nodeElement(cell, index, data.nodes[own[0]], own[1]);
      scene.nodes[side].push({ element, index, node: data.nodes[own[0]], status: own[1], isLabelled: false });
      found.push(element);
    } else if (isDiff) {
      ghosts.push(ghost(cell));
    }
  });
  return [svg("path", { class: "ghost", d: ghosts.join("") }), ...found];
}

function terminal(cell) {
  const [name, type] = cell.terminal.split("\n").slice(-2).length === 2 ? splitLast(cell.terminal) : [cell.terminal, ""];
  return svg(
    "g",
    { class: "terminal", transform: `translate(${cell.x} ${cell.y})` },
    svg("title", {}, cell.terminal),
    svg("rect", { x: -NODE.width / 2, y: -11, width: NODE.width, height: 22, rx: 11 }),
    svg("text", { class: "label", y: 4 }, fitted(type || name, "500 11px", NODE.width - 16)),
  );
}

// the type is on the last line; a name may have lines of its own
function splitLast(text) {
  const at = text.lastIndexOf("\n");
  return [text.slice(0, at), text.slice(at + 1)];
}

function ghost(cell) {
  const small = cell.is_satellite || isChip(cell);
  const [width, height] = small ? [NODE.chip, NODE.chipHeight] : [NODE.width, NODE.height];
  return `M${cell.x - width / 2} ${cell.y - height / 2}h${width}v${height}h${-width}z`;
}

function isChip(cell) {
  const own = cell.before || cell.after;
  return Boolean(own && CHIPS[data.nodes[own[0]].op]);
}

const patterns = new Map(); // a copy is made faster than an element

// the box alone; its label follows it in a group of its own, so that a thousand nodes are only a thousand elements
function nodeElement(cell, index, node, status) {
  const small = Boolean(CHIPS[node.op]);
  const key = `${small} ${status}`;
  const [width, height] = small ? [NODE.chip, NODE.chipHeight] : [NODE.width, NODE.height];
  if (!patterns.has(key)) patterns.set(key, svg("rect", { class: `node s-${status}`, width, height, rx: 6 }));
  const box = patterns.get(key).cloneNode(false);
  box.setAttribute("data-cell", index);
  box.setAttribute("x", cell.x - width / 2);
  box.setAttribute("y", cell.y - height / 2);
  return box;
}

// labels are made when they first come to be read: a thousand at once would take longer than a blink
function labelVisible() {
  if (scene.k < READABLE || !scene.boxes) return;
  const [box, margin] = [scene.boxes[0], NODE.width * scene.k];
  for (const side of ["before", "after"]) {
    for (const item of scene.nodes[side]) {
      if (item.isLabelled) continue;
      const cell = scene.view.cells[item.index];
      const [x, y] = [cell.x * scene.k + scene.x, cell.y * scene.k + scene.y];
      if (x < -margin || y < -margin || x > box.width + margin || y > box.height + margin) continue;
      item.isLabelled = true;
      label(item, cell);
    }
  }
}

function label({ element, node, status }, cell) {
  const group = svg("g", { class: `mark s-${status}`, transform: `translate(${cell.x} ${cell.y})` });
  const small = CHIPS[node.op];
  const [width, height] = small ? [NODE.chip, NODE.chipHeight] : [NODE.width, NODE.height];
  const sign = status === "fused" ? `${cell.sources.length}→1` : STATUS[status][0];
  if (small) group.append(svg("text", { class: "label chip", y: 4 }, `${sign}${small}`));
  else group.append(nodeLabel(node, width), ...(sign ? [badge(sign, width, height)] : []));
  element.after(group);
}

function nodeLabel(node, width) {
  const text = svg("text", { class: "label wide", x: -width / 2 + 9, y: 4.5 });
  const shape = node.gives.length ? node.gives[0].type.split(" ").slice(1).join(" ").replace(/^1×/, "") : "";
  const room = width - 18;
  const op = fitted(node.op, "600 12px", room);
  let used = textWidth(op, "600 12px");
  text.append(svg("tspan", { class: "op" }, op));
  if (node.detail && used + 5 + textWidth(node.detail, "450 11px") <= room) {
    text.append(svg("tspan", { class: "detail", dx: 5 }, node.detail));
    used += 5 + textWidth(node.detail, "450 11px");
  }
  if (used + 7 + textWidth(shape, "450 10px") <= room) text.append(svg("tspan", { class: "shape", x: width / 2 - 8, "text-anchor": "end" }, shape));
  return text;
}

const ruler = document.createElement("canvas").getContext("2d");
const widths = new Map(); // measuring is slow, and most nodes say the same

function textWidth(text, font) {
  const key = `${font} ${text}`;
  if (!widths.has(key)) {
    ruler.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
    widths.set(key, ruler.measureText(text).width);
  }
  return widths.get(key);
}

// one line, shortened where it is wider than `room`
function fitted(text, font, room) {
  let line = text.replace(/\s+/g, " ");
  if (textWidth(line, font) <= room) return line;
  while (line.length > 1 && textWidth(`${line}…`, font) > room) line = line.slice(0, -1);
  return `${line}…`;
}

function badge(sign, width, height) {
  const size = sign.length > 1 ? 10 + textWidth(sign, "700 11px") : 16;
  return svg(
    "g",
    { class: "badge", transform: `translate(${width / 2 - 6} ${-height / 2})` },
    svg("rect", { x: -size / 2, y: -8, width: size, height: 16, rx: 8 }),
    svg("text", { y: 4 }, sign),
  );
}

// --- pan and zoom

function moveTo(x, y, k) {
  Object.assign(scene, { x, y, k });
  for (const { world } of scene.panels) world.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
  byId("canvas").classList.toggle("far", k < READABLE); // labels that nobody could read cost time to paint
  labelVisible();
  placeArrows();
}

function fit() {
  if (!scene.size || !scene.view) return;
  const box = scene.boxes[0];
  const [top, bottom] = [38, 34]; // the panel's label, the legend
  const k = Math.min((box.width - 32) / scene.view.width, (box.height - top - bottom) / scene.view.height, 1.35);
  scene.isMoved = false;
  moveTo((box.width - scene.view.width * k) / 2, top + (box.height - top - bottom - scene.view.height * k) / 2, k);
}

function zoomAt(point, factor) {
  const k = Math.min(4, Math.max(0.03, scene.k * factor));
  const box = scene.boxes.find((b) => point[0] < b.x + b.width && point[1] < b.y + b.height) || scene.boxes[1];
  const [px, py] = [point[0] - box.x, point[1] - box.y];
  scene.isMoved = true;
  moveTo(px - ((px - scene.x) * k) / scene.k, py - ((py - scene.y) * k) / scene.k, k);
}

function centre(cell) {
  const box = scene.boxes[0];
  scene.isMoved = true;
  const k = Math.max(scene.k, 0.9);
  moveTo(box.width / 2 - cell.x * k, box.height / 2 - cell.y * k, k);
}

function isOnScreen(cell) {
  const [x, y, box] = [cell.x * scene.k + scene.x, cell.y * scene.k + scene.y, scene.boxes[0]];
  return x > 40 && y > 40 && x < box.width - 40 && y < box.height - 20;
}

function listenToPointers(canvas) {
  const pointers = new Map();
  let travelled = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(at(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    if (!pointers.size) travelled = 0;
    pointers.set(event.pointerId, at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return hover(event);
    const [old, now] = [pointers.get(event.pointerId), at(event)];
    travelled += Math.hypot(now[0] - old[0], now[1] - old[1]);
    if (travelled > 4 && pointers.size === 1 && !canvas.hasPointerCapture(event.pointerId)) canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, now);
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      zoomAt([(now[0] + other[0]) / 2, (now[1] + other[1]) / 2], spread(now) / (spread(old) || 1));
    } else if (travelled > 4) {
      scene.isMoved = true;
      moveTo(scene.x + now[0] - old[0], scene.y + now[1] - old[1], scene.k);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => {
    if (travelled > 4) return;
    const element = event.target.closest(".node");
    choose(element ? { cell: Number(element.dataset.cell), side: element.closest(".panel").dataset.side } : null);
  });
}

function hover(event) {
  const element = event && event.target.closest ? event.target.closest(".node") : null;
  const cell = element ? Number(element.dataset.cell) : null;
  if (cell === state.hovered) return;
  state.hovered = cell;
  markArrows();
}

// --- arrows

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

// --- colours and marks

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
