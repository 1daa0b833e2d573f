// Elements and numbers. Text from the model only ever becomes a text node or an attribute: never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

const grouped = new Intl.NumberFormat("en-US");

function whole(number) {
  return number === null || number === undefined ? "–" : grouped.format(Math.round(number));
}

// 2,664,792 -> 2.66 M: for tiles and axes; cards and tables show every digit
function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= limit) return `${(number / limit).toPrecision(3)} ${unit}`;
  }
  return Number.isInteger(number) ? String(number) : number.toPrecision(3);
}

function percentChange(before, after) {
  if (!before) return "";
  const change = (100 * (after - before)) / before;
  return `${change > 0 ? "+" : change < 0 ? "−" : "±"}${Math.abs(change).toFixed(1)} %`;
}

function decibels(drift) {
  return drift.snr_db === null ? "exact" : `${drift.snr_db.toFixed(1)} dB`;
}
