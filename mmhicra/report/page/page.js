"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const drawn = [];

/** An element; attributes beginning with "on" are listeners, children that are no nodes become text. */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element[key] = value; else element.setAttribute(key, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

function pick(id, label, choices) {
  return make("label", { for: id }, label, make("select", { id }, ...choices.map(([value, text, there = true]) =>
    make("option", there ? { value } : { value, disabled: "" }, there ? text : text + ": not recorded"))));
}

function table(headings, rows) {
  const cell = (kind) => (value) => make(kind, typeof value === "number" || (value && value.number) ? { class: "number" } : {}, value && value.number ? value.number : value);
  const head = headings.map((h) => make("th", { scope: "col", ...(h.endsWith("#") ? { class: "number" } : {}) }, h.replace("#", "")));
  const named = headings.some((h) => h) ? [make("thead", {}, make("tr", {}, ...head))] : [];
  return make("div", { class: "scroll" }, make("table", {}, ...named,
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell("td")))))));
}

const percent = (value) => (100 * value).toFixed(1) + " %";

function overview(place) {
  const held = report.summary.held_out || {}, last = (name) => (report.runs[0].metrics[name] || []).filter((v) => v != null).at(-1);
  const cards = [];
  const card = (value, label) => value != null && cards.push(make("div", { class: "card" }, make("b", {}, value), make("span", {}, label)));
  if (held.before) card(percent(held.before.mean), `held out, before (${percent(held.before.low)} to ${percent(held.before.high)})`);
  if (held.after) card(percent(held.after.mean), `held out, after (${percent(held.after.low)} to ${percent(held.after.high)})`);
  if (held.change) card((held.change.mean >= 0 ? "+" : "−") + Math.abs(100 * held.change.mean).toFixed(1), "points, paired by problem");
  if (last("accuracy/mean") != null) card(percent(last("accuracy/mean")), "rollouts right, last step");
  if (last("step")) card(last("step"), "steps");
  if (last("memory/peak_gib") != null) card(last("memory/peak_gib").toFixed(1) + " GiB", "most memory held");
  place.append(make("div", { class: "cards" }, ...cards), make("h2", {}, "What was trained"));
  const two = make("div", { class: "two" }, make("div", { class: "panel" }, table(["", ""], report.facts)));
  if (held.by_task_before && held.by_task_after) {
    const rows = Object.entries(held.by_task_after).map(([task, after]) => {
      const before = held.by_task_before[task];
      return [task, { number: before ? percent(before.mean) : "–" }, { number: percent(after.mean) }, { number: before ? (100 * (after.mean - before.mean)).toFixed(1) : "–" }];
    });
    two.append(make("div", { class: "panel" }, make("h3", {}, "Held-out accuracy by task"), table(["task", "before#", "after#", "points#"], rows)));
  }
  place.append(two);
  if (report.runs.length > 1) place.append(make("h2", {}, "Methods side by side"), methods());
  if (report.spent.length) place.append(make("h2", {}, "Where time and memory went"), spent(report.spent));
  if (report.summary.versions) place.append(make("h2", {}, "Versions"), make("div", { class: "panel" }, table(["", ""], Object.entries(report.summary.versions))));
  if (report.config) place.append(make("h2", {}, "Configuration"), make("details", { class: "panel" }, make("summary", {}, "as resolved, config.yaml"), make("pre", {}, report.config)));
}

/** Held-out accuracy of every method, over its runs. */
function methods() {
  const rows = [...new Set(report.runs.map((run) => run.method))].map((method) => {
    const own = report.runs.filter((run) => run.method === method), ends = own.map((run) => run.held_out || {}).filter((h) => h.before && h.after);
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length, after = ends.map((h) => h.after.mean);
    const cells = ends.length ? [percent(mean(ends.map((h) => h.before.mean))), percent(mean(after)), `${percent(Math.min(...after))} to ${percent(Math.max(...after))}`] : ["–", "–", "–"];
    return [method, { number: `${ends.length} of ${own.length}` }, ...cells.map((number) => ({ number }))];
  });
  return make("div", { class: "panel" }, table(["method", "runs finished and evaluated#", "held out, before#", "after#", "lowest to highest#"], rows));
}

function spent(phases) {
  const total = phases.reduce((a, [, s]) => a + s, 0), colours = palette(), colour = (i) => colours[i % colours.length];
  const bar = make("div", { class: "bar", "aria-hidden": "true" }, ...phases.map(([, s], i) => {
    const part = make("i");
    part.style.width = (100 * s) / total + "%";
    part.style.background = colour(i);
    return part;
  }));
  const rows = phases.map(([name, s, gib], i) => [make("span", {}, swatch(colour(i)), name.replaceAll("_", " ")), { number: s.toFixed(1) + " s" }, { number: percent(s / total) },
    { number: gib == null ? "–" : gib.toFixed(2) + " GiB" }]);
  const note = phases.some(([, , gib]) => gib != null) ? "Memory: the most held while the phase ran, all that was held before included; torch's on a GPU, else the process's." :
    "Memory by phase was not recorded: by an older version, or on a system that does not tell it.";
  return make("div", { class: "panel" }, bar, table(["phase", "seconds#", "share#", "most memory#"], rows), make("p", { class: "note" }, note));
}

function swatch(colour) {
  const box = make("i", { class: "swatch", "aria-hidden": "true" });
  box.style.background = colour;
  return box;
}

function dynamics(place) {
  const smoothing = make("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: 0, id: "smoothing" });
  const log = make("input", { type: "checkbox", id: "log" });
  const grid = make("div", { class: "charts", id: "charts" });
  place.append(make("div", { class: "controls" }, make("label", { for: "smoothing" }, "Smoothing", smoothing),
    make("label", { class: "check", for: "log" }, log, "log axis"),
    make("span", { class: "note" }, "Hover for values; drag to zoom, double-click to see all; click a name to hide its line." +
      (report.runs.length > 1 ? " Bands reach from the lowest to the highest seed." : ""))), grid);
  const draw = () => {
    for (const { chart } of drawn.splice(0)) chart.destroy();
    grid.replaceChildren();
    for (const panel of [...PANELS, ...termPanels(report.runs)]) {
      const it = drawPanel(grid, panel, report.runs, { weight: Number(smoothing.value), log: log.checked });
      if (it) drawn.push(it);
    }
    if (!drawn.length) grid.append(make("p", {}, "No step is finished: there are no curves."));
  };
  smoothing.oninput = log.onchange = draw;
  addEventListener("resize", () => { if (!place.hidden) for (const { chart, box } of drawn) chart.setSize({ width: box.clientWidth - 34, height: 210 }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!place.hidden) draw(); });
  return () => { if (!drawn.length) draw(); };
}

function sampleRows(entries) {
  return entries.map((e) => [make("a", { href: linkTo(e, e.completion) }, `step ${e.step} #${e.completion}`), { number: String(e.tokens) }, e.extracted ?? "none", make("span", { class: "excerpt" }, e.text)]);
}

function audit(place) {
  const a = report.audit;
  if (!a.count) { place.append(make("p", {}, "There are no rollouts, so there are no rewards to look at.")); return; }
  place.append(make("p", { class: "note" }, `Counted over all ${a.count.toLocaleString("en")} rollouts. Links open a sample if the page holds it.`));
  place.append(make("h2", {}, "Verdicts and their reasons"), make("div", { class: "panel" }, table(["verdict", "why", "rollouts#", "share#"],
    a.reasons.map(([verdict, why, n]) => [make("span", { class: "badge " + verdict }, verdict), why, n, { number: percent(n / a.count) }]))));
  unusable(place, a);
  official(place, a.official);
  const headings = ["sample", "tokens#", "answer", "response"];
  place.append(make("h2", {}, "Suspicious patterns"));
  if (!a.suspicious.length) place.append(make("p", { class: "note" }, "None: no repeated text, no wordy answers, no contradicting boxes, no bare right answers."));
  for (const s of a.suspicious) place.append(make("details", { class: "panel" }, make("summary", {}, `${s.pattern}: ${s.count} (${percent(s.count / a.count)})`), table(headings, sampleRows(s.examples))));
  for (const [title, entries] of [["Longest right responses", a.longest], ["Shortest right responses", a.shortest]]) {
    place.append(make("h2", {}, title), entries.length ? make("div", { class: "panel" }, table(headings, sampleRows(entries))) : make("p", { class: "note" }, "No response was right."));
  }
}

/** Golds that nothing can be compared with, rolled out or refused before the run, and the other rows that were refused. */
function unusable(place, a) {
  const ofGold = ({ kind }) => /gold|answer/i.test(kind), rolledOut = a.golds.map((g) => [g.prompt, String(g.gold), g.why]);
  place.append(make("h2", {}, "Golds that could not be parsed"));
  if (rolledOut.length) place.append(make("div", { class: "panel" }, table(["problem", "gold", "why"], rolledOut)));
  if (!rolledOut.length && !report.refused.some(ofGold)) place.append(make("p", { class: "note" }, "None."));
  place.append(...report.refused.filter(ofGold).map(refusedRows));
  const others = report.refused.filter((r) => !ofGold(r));
  if (others.length) place.append(make("h2", {}, "Other rows refused before the run"), ...others.map(refusedRows));
}

function refusedRows({ kind, count, rows }) {
  const shown = rows.length < count ? `, the first ${rows.length} listed` : "";
  return make("details", { class: "panel" }, make("summary", {}, `refused before the run: ${kind}: ${count.toLocaleString("en")}${shown}`), table(["row", "problem", "reason", "question"], rows));
}

/** Where MathVision's official rules and the reward's verifier part. */
function official(place, o) {
  place.append(make("h2", {}, "Official against robust scoring"));
  if (!o.scored) { place.append(make("p", { class: "note" }, "No rollout has a verdict to compare.")); return; }
  const n = (value) => value.toLocaleString("en");
  place.append(make("p", { class: "note" }, `By MathVision's official rules ${n(o.official_right)} of ${n(o.scored)} rollouts are right (${percent(o.official_right / o.scored)}), by the reward ` +
    `${n(o.robust_right)} (${percent(o.robust_right / o.scored)}). Right for the reward only: ${n(o.only_robust)}; for the official rules only: ${n(o.only_official)}.` +
    (o.cases > o.listed.length ? ` The ${o.listed.length} most frequent of ${n(o.cases)} cases:` : "")));
  if (o.listed.length) place.append(make("div", { class: "panel" }, table(["sample", "gold", "reward read", "reward says", "official rules read", "official rules say", "rollouts#"], o.listed.map((c) => [
    make("a", { href: linkTo(c, c.completion) }, `step ${c.step} #${c.completion}`), c.gold, c.extracted ?? "none", make("span", { class: "badge " + c.verdict }, c.verdict),
    make("span", { class: "excerpt" }, c.official), c.official_right ? make("span", { class: "badge right" }, "right") : make("span", { class: "badge wrong" }, "wrong"), c.count]))));
}

function spark(values) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), line = document.createElementNS(ns, "polyline");
  const top = Math.max(...values.map((v) => v || 0)) || 1, step = values.length > 1 ? 106 / (values.length - 1) : 0;
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 110 24");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `from ${format(values[0] || 0)} to ${format(values.at(-1) || 0)} per response`);
  line.setAttribute("points", values.map((v, i) => (2 + i * step).toFixed(1) + "," + (22 - (20 * (v || 0)) / top).toFixed(1)).join(" "));
  line.setAttribute("fill", "none");
  line.setAttribute("stroke", "currentColor");
  line.setAttribute("stroke-width", "1.6");
  svg.append(line);
  return svg;
}

function grams(place) {
  const g = report.grams;
  if (!g.rows.length) { place.append(make("p", {}, "No Strategic Gram was recorded in this run's rollouts.")); return; }
  place.append(make("p", { class: "note" }, `${g.rows.length} grams occurred. Right and wrong: the share of the ${g.right.toLocaleString("en")} right and of the ${g.wrong.toLocaleString("en")} other responses that hold the gram. Over time: occurrences per response, a point for ${g.width} step${g.width > 1 ? "s" : ""}.`));
  const share = (n, of) => ({ number: of ? percent(n / of) : "–" });
  place.append(make("div", { class: "panel" }, table(["gram", "function", "hits#", "right#", "wrong#", "over time", "example"], g.rows.map((row) => [
    make("b", {}, row.text), make("span", { class: "token planning " + row.function }, row.function), row.hits, share(row.right, g.right), share(row.wrong, g.wrong), spark(row.times),
    make("a", { href: linkTo(row.example, row.example.completion), class: "excerpt" }, "…" + row.example.before, make("mark", { class: "token planning " + row.function }, row.example.hit), row.example.after + "…")]))));
}

const NAMES = ["overview", "dynamics", "rollouts", "audit", "grams"];
const opened = {};

/** Show the section, and the sample, that the address names. */
function route() {
  const [name, ...rest] = location.hash.slice(1).split("/"), section = NAMES.includes(name) ? name : "overview";
  for (const other of NAMES) {
    byId("section-" + other).hidden = other !== section;
    byId("tab-" + other).setAttribute("aria-selected", other === section);
    byId("tab-" + other).tabIndex = other === section ? 0 : -1;
  }
  byId("tab-" + section).scrollIntoView({ block: "nearest", inline: "nearest" });  // on a phone the tabs are wider than the screen
  if (opened[section]) opened[section]();
  if (section === "rollouts" && rest.length) openSample(report, rest);
}

function start() {
  document.title = report.name + " · mmhicra report";
  byId("name").textContent = report.runs.length > 1 ? `${report.name} and ${report.runs.length - 1} more` : report.name;
  byId("verdict").textContent = report.verdict;
  if (report.missing.length) {
    byId("missing").hidden = false;
    byId("missing").querySelector("summary").textContent = `Not on this page (${report.missing.length})`;
    byId("missing").querySelector("ul").append(...report.missing.map((sentence) => make("li", {}, sentence)));
  }
  overview(byId("section-overview"));
  opened.dynamics = dynamics(byId("section-dynamics"));
  startBrowser(byId("section-rollouts"), report);
  audit(byId("section-audit"));
  grams(byId("section-grams"));
  NAMES.forEach((name, i) => {
    byId("tab-" + name).onclick = () => { location.hash = name; };
    byId("tab-" + name).onkeydown = (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1 + NAMES.length, Home: 0, End: NAMES.length - 1 }[event.key];
      if (to != null) { event.preventDefault(); const next = NAMES[to % NAMES.length]; location.hash = next; byId("tab-" + next).focus(); }
    };
  });
  addEventListener("hashchange", route);
  route();
  byId("newer").querySelector("button").onclick = () => location.reload();
  if (location.protocol.startsWith("http")) follow();
}

/** Served by --serve: look now and then, and reload when the run has moved on; the address keeps the place. */
async function follow() {
  let seen = null;
  setInterval(async () => {
    const answer = await fetch("/stamp").catch(() => null);
    if (!answer || !answer.ok) return;
    const stamp = await answer.text();
    if (seen != null && stamp !== seen) {
      // Who reads a sample or a list is not torn away from it.
      if (["overview", "dynamics"].some((name) => !byId("section-" + name).hidden)) location.reload();
      byId("newer").hidden = false;
    } else seen = stamp;
  }, 3000);
}

start();
