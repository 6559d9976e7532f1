"use strict";
// The rollout browser. Every text of a model or of data becomes a text node, never markup.
const browser = { found: [], at: 0, chosen: null, heat: "planning" };
const HEATS = { planning: "planning tokens", advantages: "advantage", gap: "log-prob gap (trainer − engine)", logprobs: "log-prob in the engine", entropy: "entropy" };
const GAP = 0.05;  // nats; float32 stays far below, bfloat16 comes near

const FILTERS = {
  any: () => true,
  planning: (c) => c.planning.length > 0,
  none: (c) => c.planning.length === 0,
  gap: (c) => (c.gap || []).some((v) => Math.abs(v) > GAP),
  truncated: (c) => c.truncated,
  planning_error: (c) => c.error && c.error.kind === "planning",
  execution_error: (c) => c.error && c.error.kind === "execution",
};

function startBrowser(place, data) {
  if (!data.groups.length) {
    place.append(make("p", {}, "This run has no rollouts to show."));
    return;
  }
  const distinct = (values) => [...new Set(values)];
  const steps = distinct(data.groups.map((g) => g.step)), tasks = distinct(data.groups.map((g) => g.task));
  const verdicts = distinct(data.groups.flatMap((g) => g.completions.map((c) => c.verdict || "not scored")));
  const completions = data.groups.flatMap((g) => g.completions), recorded = (name) => completions.some((c) => c[name] != null);
  const all = (items, name) => [["", name], ...items.map((item) => [String(item), String(item)])];
  place.append(
    make("p", { class: "note" }, sampled(data)),
    make("div", { class: "controls" },
      pick("filter-step", "Step", all(steps, "all steps")), pick("filter-task", "Task", all(tasks, "all tasks")),
      pick("filter-verdict", "Has a response that is", all(verdicts, "of any verdict")),
      pick("filter-trait", "and", [["any", "anything"], ["planning", "has planning tokens"], ["none", "has no planning token"],
        ["gap", `engine and trainer apart by over ${GAP}`, recorded("gap")], ["truncated", "truncated"],
        ["planning_error", "a planning error", recorded("error")], ["execution_error", "an execution error", recorded("error")]]),
      pick("filter-heat", "Show", Object.entries(HEATS).map(([heat, name]) => [heat, name, heat === "planning" || recorded(heat)])),
      make("button", { class: "plain", id: "previous", onclick: () => move(-1) }, "← previous"),
      make("button", { class: "plain", id: "next", onclick: () => move(1) }, "next →"),
      make("span", { id: "place", "aria-live": "polite" })),
    make("div", { id: "group" }));
  for (const name of ["step", "task", "verdict", "trait"]) byId("filter-" + name).onchange = () => { filter(data); show(data); };
  byId("filter-heat").onchange = () => { browser.heat = byId("filter-heat").value; show(data); };
  document.addEventListener("keydown", (event) => {
    if (place.hidden || event.ctrlKey || event.metaKey || event.altKey || /SELECT|INPUT|TEXTAREA/.test(event.target.tagName)) return;
    if (event.target.getAttribute && event.target.getAttribute("role") === "tab" && /Arrow/.test(event.key)) return;
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
    if (by) { event.preventDefault(); move(by); }
  });
  filter(data);
  show(data);
}

function sampled(data) {
  const shown = data.groups.length.toLocaleString("en"), total = data.groups_total.toLocaleString("en");
  const which = data.groups.length < data.groups_total ? `A random sample: ${shown} of ${total} groups, so that the page stays small.` : `All ${total} groups.`;
  return which + " Keys: → or j next, ← or k previous.";
}

function filter(data) {
  const [step, task, verdict, trait] = ["step", "task", "verdict", "trait"].map((name) => byId("filter-" + name).value);
  browser.found = data.groups.filter((g) =>
    (!step || String(g.step) === step) && (!task || g.task === task) &&
    g.completions.some((c) => (!verdict || (c.verdict || "not scored") === verdict) && FILTERS[trait](c)));
  browser.at = 0;
  browser.chosen = null;
}

function move(by) {
  const to = browser.at + by;
  if (to < 0 || to >= browser.found.length) return;
  browser.at = to;
  browser.chosen = null;
  show(report);
  history.replaceState(null, "", linkTo(browser.found[to]));
}

function linkTo(group, n) {
  const copy = group.copy ? "/" + group.copy : "";  // of a problem that came twice in a step
  return "#rollouts/" + group.step + "/" + encodeURIComponent(group.prompt) + (n == null ? copy && "/" : "/" + n) + copy;
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }  // a link that was cut off
}

/** Open the sample that a link names; false if the page does not hold it. */
function openSample(data, [step, prompt, n, copy]) {
  if (!byId("filter-trait")) return false;
  for (const name of ["step", "task", "verdict"]) byId("filter-" + name).value = "";
  byId("filter-trait").value = "any";
  filter(data);
  const wanted = decoded(prompt || "");
  const at = browser.found.findIndex((g) => String(g.step) === step && g.prompt === wanted && g.copy === Number(copy || 0));
  if (at >= 0) { browser.at = at; browser.chosen = n ? Number(n) : null; }
  show(data);
  if (at < 0) byId("group").replaceChildren(make("p", { class: "note" }, "The sample of this link, step " + step + ", " + wanted + ", is not among the groups on this page."));
  const chosen = document.querySelector(".response.chosen");
  if (chosen) chosen.scrollIntoView({ block: "nearest" });
  return at >= 0;
}

function show(data) {
  const group = browser.found[browser.at], place = byId("group");
  byId("previous").disabled = browser.at === 0;
  byId("next").disabled = browser.at >= browser.found.length - 1;
  byId("place").textContent = browser.found.length ? `${browser.at + 1} of ${browser.found.length} groups` : "no group matches";
  if (!group) { place.replaceChildren(); return; }
  const pictures = group.images.map((reference, i) => data.pictures[reference]
    ? make("img", { src: data.pictures[reference], alt: `image ${i + 1} of the problem, ${reference}` })
    : make("p", { class: "note" }, `${reference}: not shown, ${data.absent[reference] || "not found"}`));
  const question = group.question.replaceAll("<image>\n", "").replaceAll("<image>", " [image] ");
  place.replaceChildren(
    make("div", { class: "panel problem" },
      make("div", { class: "pictures" }, ...pictures),
      make("div", { class: "question" }, make("p", { class: "note" }, `step ${group.step} · ${group.task} · ${group.prompt} · ${group.kept ? "trained on" : "left out: no signal"}`),
        make("div", { id: "question" }, question), make("p", {}, "gold answer: ", make("b", { id: "gold" }, String(group.gold ?? "unknown"))))),
    legend(group),
    make("div", { class: "responses" }, ...group.completions.map((c) => response(group, c))));
}

function legend(group) {
  if (browser.heat === "planning") {
    const names = ["deduction", "branching", "backtracing", "framing", "unlabelled"];
    return make("div", { class: "key" }, "planning tokens by function:", ...names.map((name) => make("span", { class: "token planning " + name }, name)));
  }
  const scale = heatScale(group, browser.heat);
  const signed = browser.heat === "entropy" ? "the bluer the higher, full colour at " : "blue above zero, red below, full colour at ±";
  const most = browser.heat === "gap" && scale != null ? `, the largest here ${format(largest(group, "gap"))}` : "";
  const said = scale == null ? group.kept ? "this run did not record it" : "not known: a group without signal never reaches the trainer's model" :
    `${signed}${format(scale)}${most}; planning tokens are underlined`;
  return make("div", { class: "key" }, HEATS[browser.heat] + ": " + said);
}

function largest(group, heat) {
  const values = group.completions.flatMap((c) => c[heat] || []).map(Math.abs);
  return values.length ? values.reduce((a, b) => Math.max(a, b), 0) : null;
}

function heatScale(group, heat) {
  const most = largest(group, heat);
  return most != null && heat === "gap" ? Math.max(most, GAP) : most;  // rounding errors are no disagreement, and stay pale
}

function response(group, c) {
  const verdict = c.verdict || "not scored";
  const link = make("a", { href: linkTo(group, c.n), "aria-label": `link to response ${c.n}` }, "#" + c.n);
  const parts = Object.entries(c.parts || {}).map(([name, value]) => `${name} ${format(value)}`).join(", ");
  return make("article", { class: `panel response ${verdict}` + (browser.chosen === c.n ? " chosen" : "") },
    make("header", {}, link, make("span", { class: "badge " + verdict }, verdict), make("span", {}, "answer: ", make("b", {}, c.extracted ?? "none")),
      make("span", { class: "note" }, `${c.why || ""} · ${c.length} tokens${c.truncated ? " · truncated" : ""}`)),
    make("div", { class: "text" + (browser.heat === "planning" ? "" : " heat") }, ...tokens(group, c)),
    make("p", { class: "note" }, `advantage ${c.advantage == null ? "none" : format(c.advantage)} · reward ${c.total == null ? "none" : format(c.total)} (${parts})` +
      (c.error ? ` · ${c.error.kind} error: ${c.error.why}` : "")));
}

function tokens(group, c) {
  if (!c.split) return [c.text];
  const marked = new Set(c.planning.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i)));
  const functions = new Map();
  for (const [, name, start, end] of c.grams) for (let i = start; i < end; i++) if (!functions.has(i)) functions.set(i, name);
  const heat = browser.heat === "planning" ? null : c[browser.heat], scale = heat && heatScale(group, browser.heat);
  const characters = Array.from(c.text);  // ends count code points, as Python does
  let start = 0;
  return c.ends.map((end, i) => {
    const text = characters.slice(start, end).join("");
    start = Math.max(start, end);
    const classes = ["token"];
    if (marked.has(i)) classes.push("planning", functions.get(i) || "unlabelled");
    const span = make(marked.has(i) ? "mark" : "span", { class: classes.join(" "), "data-token": i }, text);
    if (heat) {
      const value = heat[i], share = scale ? Math.min(1, Math.abs(value) / scale) : 0;
      span.style.background = `rgb(var(--${value < 0 ? "down" : "up"}) / ${(0.75 * share).toFixed(3)})`;
      span.title = `${HEATS[browser.heat]} ${format(value)}`;
    } else if (marked.has(i)) span.title = functions.get(i) || "planning";
    return span;
  });
}
