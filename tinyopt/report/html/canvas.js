// The two panels on one canvas: their size, and one pan and zoom for both.

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
