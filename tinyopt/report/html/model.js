// The data block, and what follows from it. A stage is the import, a pass, or the compiled program at the end.

const data = JSON.parse(byId("data").textContent);
const report = data.report;
const layers = report.layers || [];
const layerOf = new Map(layers.map((layer) => [layer.name, layer]));
const profileOf = new Map((data.profile ? data.profile.layers : []).map((layer) => [layer.name, layer]));
const stages = makeStages();

// sign and word for each status: the colour alone never says it
const STATUS = {
  same: ["", "unchanged"],
  changed: ["~", "changed in place"],
  removed: ["−", "removed"],
  added: ["+", "added"],
  merged: ["⊂", "merged into another"],
  fused: ["⊃", "made of several"],
};

const METRICS = [
  { key: "weight_bytes", label: "weights", unit: "B" },
  { key: "estimated_arena_bytes", label: "arena ≈", unit: "B" },
  { key: "macs", label: "MACs", unit: "" },
  { key: "estimated_instructions", label: "instr. ≈", unit: "" },
];

function makeStages() {
  const found = [{ name: data.first_name || "import", is_changed: true, remarks: [], after: report.before, nodes: null, drift: null }];
  for (const step of report.passes) found.push({ ...step });
  if (data.stage_views.length > found.length) {
    const exact = { ...report.after };
    found.push({ name: "compiled", is_changed: true, is_final: true, remarks: [], after: exact, nodes: null, drift: null });
  }
  let view = 0;
  found.forEach((stage, index) => {
    stage.index = index;
    stage.has_own_view = data.stage_views[index] !== null;
    if (stage.has_own_view) view = data.stage_views[index];
    stage.view = data.views[view];
    stage.before = index ? found[index - 1].after : null;
  });
  return found;
}

// the status of a cell in a panel; where the pass changed nothing both panels show the graph that is
function cellSide(stage, cell, side) {
  if (stage.has_own_view && stage.index) return cell[side] || null;
  return cell.after ? [cell.after[0], "same"] : null;
}

function isFinal(stage) {
  return Boolean(stage.is_final);
}

function totalInstructions() {
  return data.profile ? data.profile.instructions : null;
}

// what an overlay colours by: the figure of one node in one stage, or null where there is none
const OVERLAYS = {
  instructions: {
    label: () => (data.profile ? "instructions (counted)" : "instructions (estimated)"),
    of: (node) => {
      const counted = profileOf.get(node.name);
      return counted ? counted.instructions : node.estimated_instructions;
    },
  },
  flash: {
    label: () => "flash: bytes of constants",
    of: (node, stage) => (isFinal(stage) && layerOf.has(node.name) ? layerOf.get(node.name).weight_bytes : node.weight_bytes),
  },
  arena: { label: () => "arena: bytes of the output", of: (node) => sum(node.gives.map((value) => value.bytes)) },
  error: {
    label: () => "error against float, in steps",
    of: (node) => (layerOf.get(node.name)?.error ? layerOf.get(node.name).error.max_error_steps : null),
  },
  sparsity: { label: () => "sparsity: share of zero weights", of: (node) => node.zeros },
};

function sum(numbers) {
  return numbers.reduce((total, number) => total + (number || 0), 0);
}

// every pass that says something about a node of this name, or changed it
function historyOf(name) {
  const found = [];
  for (const stage of stages) {
    const remarks = stage.remarks.filter((remark) => remark.before.includes(name) || remark.after.includes(name));
    const did = remarks.filter((remark) => remark.kind === "did");
    if (remarks.length) found.push({ stage, remarks, did: did.length > 0 });
  }
  return found;
}
