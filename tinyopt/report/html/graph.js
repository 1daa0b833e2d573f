// The graph before and after a pass, side by side: nodes, edges and labels.

const NODE = { width: 176, height: 28, chip: 35, chipHeight: 22 };
const READABLE = 0.42; // the zoom from which on text can be read
const ARROWS_MAX = 60; // beyond that only those of the chosen node are drawn
const scene = { view: null, k: 1, x: 0, y: 0, panels: [], nodes: { before: [], after: [] }, arrows: [] };
const CHIPS = { QuantizeLinear: "Q", DequantizeLinear: "DQ", Identity: "=", FlipSign: "±" };

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
