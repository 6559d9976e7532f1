"use strict";
// Charts over steps: one line per metric and run, or per method with the range of its seeds as a band.
const LIGHT = ["#1f5fae", "#d1661f", "#2c8a57", "#a8327d", "#6b55b8", "#8c6a12", "#128a94", "#b8402f", "#555d66", "#5d8a12"];
const DARK = ["#7fb2f0", "#f2a25c", "#6fcf97", "#e57fc0", "#ab9bf0", "#d9b95a", "#5fd0d8", "#f0897a", "#aab2bb", "#b3d960"];

const PANELS = [
  ["Accuracy", [["eval/accuracy", "held out"], ["accuracy/mean", "rollouts"]]],
  ["Reward", [["reward/mean", "mean"], ["reward/group_std", "spread in a group"]]],
  ["Relative perplexity (first step = 1)", [["perplexity/planning_relative", "planning"], ["perplexity/execution_relative", "execution"]]],
  ["Token entropy, nats", [["entropy/planning", "planning"], ["entropy/execution", "execution"]]],
  ["Semantic entropy of planning, bits", [["planning/semantic_entropy", "grams"], ["planning/semantic_entropy_functions", "functions"], ["planning/conditional_entropy", "conditional"]]],
  ["Response length, tokens", [["response/length", "all"], ["response/length_right", "right"], ["response/length_not_right", "not right"]]],
  ["Planning density", [["planning/density", "all grams"], ["planning/density_multiword", "several words"]]],
  ["Planning density by function", ["deduction", "branching", "backtracing", "framing", "unlabelled"].map((f) => ["planning/density_" + f, f])],
  ["Advantage mass by class", [["advantage/planning_mass", "planning"], ["advantage/execution_mass", "execution"]]],
  ["Planning's share of the advantage", [["advantage/planning_share", "share"], ["advantage/bonus", "bonus"]]],
  ["Group outcomes", [["group/all_right", "all right"], ["group/mixed", "mixed"], ["group/all_wrong", "all wrong"]]],
  ["pass@k of rollouts", [1, 2, 4, 8, 16, 32, 64].map((k) => ["accuracy/pass_at_" + k, "k = " + k])],
  ["Clipped share of tokens", [["loss/clipped_low", "low"], ["loss/clipped_high", "high"]]],
  ["Engine against trainer, log-prob gap", [["engine/logprob_gap", "mean"], ["engine/logprob_gap_max", "largest"]]],
  ["Alpha", [["hicra/alpha", "alpha"]]],
  ["KL", [["loss/kl", "to the reference"], ["hicra/kl", "of a step"]]],
  ["Gradient norm", [["optimizer/grad_norm", "before clipping"]]],
  ["Truncated responses", [["response/truncated", "share"]]],
  ["Truncated responses left out of the loss", [["rollout/masked_truncated", "count"]]],
  ["Error kinds, judged rollouts", [["errors/planning", "planning"], ["errors/execution", "execution"]]],
  ["Seconds of a step", [["time/step", "step"], ["time/rollout", "rollout"], ["time/forward", "forward"], ["time/backward", "backward"]]],
  ["Speed of the update, TFLOP/s of the model", [["speed/update_tflops", "a process"]]],
  ["Most memory held, GiB", [["memory/peak_gib", "so far"], ["memory/rollout_gib", "rollout"], ["memory/forward_gib", "forward"], ["memory/backward_gib", "backward"]]],
];

/** A panel for each term of the reward whose distribution the runs tell. */
function termPanels(runs) {
  const names = runs.flatMap((run) => Object.keys(run.metrics)).map((name) => (name.match(/^reward\/part_(.+)_median$/) || [])[1]);
  return [...new Set(names.filter((name) => name))].map((name) => ["Reward term " + name, [["reward/part_" + name, "mean"],
    ...["min", "q25", "median", "q75", "max"].map((what) => ["reward/part_" + name + "_" + what, what])]]);
}

function smooth(values, weight) {
  let mean = null;
  return values.map((value) => {
    if (value == null) return null;
    mean = mean == null ? value : weight * mean + (1 - weight) * value;
    return mean;
  });
}

function palette() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? DARK : LIGHT;
}

/** The lines of one panel: [{label, steps -> value, band?}], a line for each run or method that has the metric. */
function lines(metrics, runs, weight) {
  const methods = new Map();
  for (const run of runs) methods.set(run.method, [...(methods.get(run.method) || []), run]);
  const many = runs.length > 1;
  const found = [];
  for (const [method, own] of methods) {
    metrics.forEach(([metric, label], style) => {
      const curves = own.filter((run) => run.metrics[metric]).map((run) => {
        const values = smooth(run.metrics[metric], weight);
        return { raw: run.metrics[metric], at: new Map(run.metrics.step.map((step, i) => [step, values[i]])), steps: run.metrics.step };
      });
      if (!curves.length || !curves.some((curve) => curve.raw.some((v) => v != null))) return;
      const seeds = curves.length > 1 ? " (" + curves.length + " seeds)" : "";
      found.push({ label: many ? method + (metrics.length > 1 ? ", " + label : "") + seeds : label, curves, style, method });
    });
  }
  return found;
}

function across(curves, step) {
  const values = curves.map((curve) => curve.at.get(step)).filter((v) => v != null);
  if (!values.length) return [null, null, null];
  return [values.reduce((a, b) => a + b, 0) / values.length, Math.min(...values), Math.max(...values)];
}

function drawPanel(place, [title, metrics], runs, options) {
  const found = lines(metrics, runs, options.weight);
  if (!found.length) return null;
  const colours = palette(), many = runs.length > 1, methods = [...new Set(runs.map((run) => run.method))];
  const steps = [...new Set(found.flatMap((line) => line.curves.flatMap((curve) => curve.steps)))].sort((a, b) => a - b);
  const data = [steps], series = [{ label: "step" }], bands = [];
  const shown = (value) => (options.log && value != null && value <= 0 ? null : value);
  found.forEach((line, index) => {
    const stroke = colours[(many ? methods.indexOf(line.method) : index) % colours.length];
    const points = steps.map((step) => across(line.curves, step));
    const count = points.filter(([mean]) => mean != null).length;
    data.push(points.map(([mean]) => shown(mean)));
    series.push({
      label: line.label, stroke, width: 2, spanGaps: true, dash: many && line.style ? [6, 3 * line.style] : undefined,
      points: { show: count < 12, size: 6, fill: stroke }, value: (_, v) => (v == null ? "–" : format(v)),
    });
    if (line.curves.length > 1) {
      const at = series.length;
      for (const k of [2, 1]) {
        data.push(points.map((point) => shown(point[k])));
        series.push({ label: "", stroke: "transparent", width: 0, points: { show: false }, spanGaps: true, class: "edge" });
      }
      bands.push({ series: [at, at + 1], fill: stroke + "2e" });
    }
  });
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--soft");
  const rule = getComputedStyle(document.documentElement).getPropertyValue("--line");
  const axis = { stroke: ink, grid: { stroke: rule, width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const heading = make("h3", {}, title), box = make("div", { class: "panel chart", role: "figure", "aria-label": describe(title, found) }, heading);
  place.append(box);
  const chart = new uPlot({
    width: box.clientWidth - 34, height: 210, series, bands,
    scales: { x: { time: false }, y: options.log ? { distr: 3 } : { range: heights } },
    axes: [{ ...axis, size: 28 }, { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : format(tick))) }],
    cursor: { sync: { key: "steps" }, drag: { x: true, y: false } },
    legend: { live: true },
  }, data, box);
  for (const row of box.querySelectorAll(".u-legend .edge")) row.hidden = true, row.style.display = "none";
  return { chart, box };
}

/** What the axis shows of values from `low` to `high`: of nothing but zeros, which uPlot would show up to 100, up to 1. */
function heights(_, low, high) {
  if (low == null) return [null, null];
  return low === 0 && high === 0 ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true);
}

/** What a screen reader says of a chart: first and last value of every line. */
function describe(title, found) {
  const ends = found.map((line) => {
    const values = line.curves[0].raw.filter((v) => v != null);
    return line.label + " from " + format(values[0]) + " to " + format(values[values.length - 1]);
  });
  return title + ": " + ends.join("; ");
}

function format(value) {
  const size = Math.abs(value);
  if (value !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(size >= 100 ? 4 : 3)));
}
