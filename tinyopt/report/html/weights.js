// Weights as drawings: histograms, codebooks, and the strip of channels that a pass removed.

const CHART = { width: 292, height: 74 };

function weightsChart(weights) {
  if (weights.codebook) return codebookChart(weights);
  if (!weights.bins.length) return html("p", { class: "quiet" }, `all values between ${weights.low} and ${weights.high}`);
  const most = Math.max(...weights.bins, 1);
  const width = CHART.width / weights.bins.length;
  const bars = weights.bins.map((count, i) => {
    const height = (count / most) * CHART.height;
    return svg("rect", { x: i * width + 0.5, y: CHART.height - height, width: width - 1, height }, svg("title", {}, `${whole(count)} values`));
  });
  return chartWithAxis(bars, weights.from, weights.to);
}

function codebookChart(weights) {
  const most = Math.max(...weights.uses, 1);
  const [low, high] = [Math.min(...weights.codebook), Math.max(...weights.codebook)];
  const place = (level) => 3 + ((level - low) / (high - low || 1)) * (CHART.width - 6);
  const stems = weights.codebook.flatMap((level, i) => {
    const y = CHART.height - 4 - (weights.uses[i] / most) * (CHART.height - 10);
    return [
      svg("line", { class: "stem", x1: place(level), x2: place(level), y1: CHART.height, y2: y }),
      svg("circle", { cx: place(level), cy: y, r: 3 }, svg("title", {}, `${level}: ${whole(weights.uses[i])} weights`)),
    ];
  });
  return chartWithAxis(stems, low, high);
}

function chartWithAxis(marks, low, high) {
  const number = (value) => Number(value.toPrecision(4)).toString().replace("-", "−");
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${CHART.width} ${CHART.height + 16}` },
    ...marks,
    svg("line", { class: "axis", x1: 0, x2: CHART.width, y1: CHART.height, y2: CHART.height }),
    svg("text", { x: 0, y: CHART.height + 13 }, number(low)),
    svg("text", { x: CHART.width, y: CHART.height + 13, "text-anchor": "end" }, number(high)),
  );
}

function channelsOf(node) {
  const type = node.gives.length ? node.gives[0].type.split(" ")[1] : "";
  return type ? type.split("×").map(Number) : [];
}

// one cell for each channel that there was; `kept` lists those that stay, or counts them where it cannot be told which
function channelStrip(kept, before) {
  const count = before.channels;
  const isListed = Array.isArray(kept);
  const stays = isListed ? new Set(kept) : null;
  const left = isListed ? kept.length : kept;
  const columns = Math.min(count, 32);
  const size = CHART.width / columns;
  const cells = Array.from({ length: count }, (_, i) => {
    const isKept = stays ? stays.has(i) : i < left;
    const [x, y] = [(i % columns) * size, Math.floor(i / columns) * size];
    return svg(
      "g",
      { class: isKept ? "channel kept" : "channel gone", transform: `translate(${x} ${y})` },
      svg("rect", { x: 0.75, y: 0.75, width: size - 1.5, height: size - 1.5, rx: 1.5 }, svg("title", {}, `channel ${i}: ${isKept ? "kept" : "removed"}`)),
      isKept ? null : svg("path", { d: `M${size * 0.3} ${size * 0.3}L${size * 0.7} ${size * 0.7}M${size * 0.7} ${size * 0.3}L${size * 0.3} ${size * 0.7}` }),
    );
  });
  const rows = Math.ceil(count / columns);
  return [
    html("p", {}, `${left} of ${count} channels stay${isListed ? "" : " (how many, not which)"}`),
    svg("svg", { class: "chart channels", viewBox: `0 0 ${CHART.width} ${rows * size}` }, ...cells),
  ];
}
