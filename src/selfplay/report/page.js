"use strict";

function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// --- Curves: one button a choice of the horizontal axis --------------------------------------------------------------

for (const button of document.querySelectorAll("[data-axis]")) {
  button.addEventListener("click", () => {
    const section = button.closest("section");
    section.dataset.shown = button.dataset.axis;
    for (const other of section.querySelectorAll("button[data-axis]")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}

// --- What a link leads to is not covered by the bar that stays on top ---------------------------------------------------

const bar = document.querySelector(".bar");
new ResizeObserver(() => document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`)).observe(bar);

// --- Charts: settings can be hidden, in all of them at once ------------------------------------------------------------

const hidden = new Set();
const toggles = [...document.querySelectorAll("[data-toggle]")];

function toggle(number, off) {
  if (off) hidden.add(number);
  else hidden.delete(number);
  const all = `figure:not([data-setting]) .line-${number}, figure[data-setting="${number}"], [data-of="${number}"]`;
  for (const one of document.querySelectorAll(all)) one.classList.toggle("off", off);
  toggles.find((button) => Number(button.dataset.toggle) === number)?.setAttribute("aria-pressed", String(!off));
  document.querySelector("[data-visible]").textContent = `${toggles.length - hidden.size} of ${toggles.length}`;
}

for (const button of toggles) {
  const number = Number(button.dataset.toggle);
  button.addEventListener("click", () => toggle(number, !hidden.has(number)));
}

// --- Charts: the values of every line at the point nearest to the pointer ----------------------------------------------

function short(value) {
  const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 1 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: digits }).replace("-", "\u2212");
}

function values(figure) {
  const { box, x, y, names, lines } = JSON.parse(figure.dataset.points);
  const plot = figure.querySelector(".plot");
  const tip = element("div", { class: "tip" });
  const cursor = element("div", { class: "cursor" });
  const leave = () => [tip, cursor].forEach((one) => one.remove());
  const own = figure.dataset.setting !== undefined;

  function show(event) {
    const area = plot.querySelector("svg").getBoundingClientRect();
    const [left, top, right, bottom] = box;
    const at = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
    const shown = lines.filter((line) => own || !hidden.has(line.line));
    const wanted = x[0] + ((at[0] - left) / (right - left)) * (x[1] - x[0]);
    const points = shown.flatMap((line) => line.x.filter((_, i) => line.y[i] !== null));
    if (at[0] < left - 0.02 || at[0] > right + 0.02 || at[1] < top || at[1] > bottom || !points.length) return leave();
    const nearest = points.reduce((best, here) => (Math.abs(here - wanted) < Math.abs(best - wanted) ? here : best));
    const rows = [element("strong", { text: `${names[0]} ${short(nearest)}` })];
    for (const line of shown) {
      const i = line.x.reduce((best, here, j) => (Math.abs(here - nearest) < Math.abs(line.x[best] - nearest) ? j : best), 0);
      // against tokens every setting has points of its own: only those near the pointer are told
      if (line.y[i] == null || Math.abs(line.x[i] - nearest) > 0.02 * (x[1] - x[0])) continue;
      const band = line.low?.[i] == null ? "" : ` [${short(line.low[i])}, ${short(line.high[i])}]`;
      rows.push(element("div", { text: `${line.name || names[1]}: ${short(line.y[i])}${band}` }));
    }
    tip.replaceChildren(...rows);
    const place = left + ((nearest - x[0]) / (x[1] - x[0])) * (right - left);
    cursor.style.cssText = `left:${100 * place}%;top:${100 * top}%;height:${100 * (bottom - top)}%`;
    tip.style.cssText = place > (left + right) / 2 ? `right:${100 * (1 - place) + 2}%;top:${100 * top}%` : `left:${100 * place + 2}%;top:${100 * top}%`;
    plot.append(cursor, tip);
  }
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", leave);
}

for (const figure of document.querySelectorAll("figure[data-points]")) values(figure);

// --- Transcripts: texts are only ever set as text, never as markup ---------------------------------------------------

const PER_PAGE = 10; // episodes

// A text with its control characters made visible, and those that turn the direction of writing taken out of action.
function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f\u0080-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

function figure(value) {
  return value === null ? "" : String(Math.round(value * 1000) / 1000).replace("-", "\u2212");
}

// Turns are numbers into columns; an episode is [first turn, one past its last].
function episodesOf(columns) {
  const found = [];
  const same = (i, j) => ["run", "step", "episode"].every((name) => columns[name][i] === columns[name][j]);
  for (let i = 0; i < columns.run.length; i++) {
    if (i === 0 || !same(i - 1, i)) found.push([i, i + 1]);
    else found[found.length - 1][1] = i + 1;
  }
  return found;
}

function browser(data, place) {
  const { columns, texts, runs } = data;
  const episodes = episodesOf(columns);
  const controls = place.querySelector("form");
  const list = place.querySelector("[data-list]");
  const count = place.querySelector("[data-count]");
  const previous = place.querySelector("[data-previous]");
  const next = place.querySelector("[data-next]");
  const field = (name) => controls.elements.namedItem(name);
  const folded = texts.map((text) => text.toLowerCase());
  let found = [];
  let page = 0;

  function options(select, values, label) {
    for (const value of values) select.append(element("option", { value: String(value), text: label(value) }));
  }
  const used = (name) => [...new Set(columns[name])];
  options(field("run"), runs.keys(), (i) => `${runs[i].name}: ${runs[i].setting}, seed ${runs[i].seed ?? "unknown"}`);
  options(field("step"), used("step").sort((a, b) => a - b), String);
  options(field("role"), used("role"), (i) => texts[i]);
  options(field("score"), [...data.scores.map((name) => `score/${name}`), "payoff", "advantage"], (name) =>
    name.replace("score/", "").replace("payoff", "payoff"));

  // The turns of every episode that the controls ask for; an episode without any is not shown.
  function matching() {
    const wanted = (name) => (field(name).value === "" ? null : Number(field(name).value));
    const [run, step, role] = ["run", "step", "role"].map(wanted);
    const [low, high] = ["low", "high"].map(wanted);
    const scores = columns[field("score").value];
    const words = field("words").value.trim().toLowerCase();
    const holds = words === "" ? null : folded.map((text) => text.includes(words));
    const fits = (i) =>
      (role === null || columns.role[i] === role) &&
      (low === null || (scores[i] !== null && scores[i] >= low)) &&
      (high === null || (scores[i] !== null && scores[i] <= high)) &&
      (holds === null || holds[columns.reply[i]] || holds[columns.prompt[i]]);
    const kept = [];
    for (const [first, end] of episodes) {
      if ((run !== null && columns.run[first] !== run) || (step !== null && columns.step[first] !== step)) continue;
      const turns = new Set();
      for (let i = first; i < end; i++) if (fits(i)) turns.add(i);
      if (turns.size > 0) kept.push({ first, end, turns });
    }
    return sorted(kept, field("order").value, scores);
  }

  function sorted(kept, order, scores) {
    if (order === "played") return kept;
    const sign = order === "highest" ? -1 : 1;
    const best = (entry) => {
      const values = [...entry.turns].map((i) => scores[i]).filter((value) => value !== null);
      return values.length ? Math.min(...values.map((value) => sign * value)) : Infinity;
    };
    return kept.map((entry) => [best(entry), entry]).sort((a, b) => (a[0] === b[0] ? 0 : a[0] - b[0])).map((pair) => pair[1]);
  }

  // Neighbours of one role that were asked the same are one block: the prompt once, then the replies as a table.
  function blocks({ first, end }) {
    const out = [];
    for (let i = first; i < end; i++) {
      const last = out[out.length - 1];
      const joins = last && ["role", "prompt", "group"].every((name) => columns[name][last[0]] === columns[name][i]);
      if (joins && texts[columns.group[i]] !== "") last.push(i);
      else out.push([i]);
    }
    return out;
  }

  function block(turns, before, chosen) {
    const role = texts[columns.role[turns[0]]];
    const player = texts[columns.player[turns[0]]];
    const prompt = columns.prompt[turns[0]];
    const shown = data.scores.filter((name) => turns.some((i) => columns[`score/${name}`][i] !== null));
    const names = [...shown.map((name) => `score/${name}`), "payoff", "advantage"];
    const head = element("tr", {}, element("th", { scope: "col", text: "reply" }));
    for (const name of names) {
      head.append(element("th", { scope: "col", text: name.replace("score/", "").replace("payoff", "payoff") }));
    }
    const body = element("tbody");
    const rows = new Map(); // the same reply with the same figures is one row
    for (const i of turns) {
      const key = JSON.stringify([columns.reply[i], chosen.has(i), ...names.map((name) => columns[name][i])]);
      rows.set(key, [...(rows.get(key) ?? []), i]);
    }
    for (const same of rows.values()) {
      const reply = element("td", { class: "said" }, element("bdi", { text: visible(texts[columns.reply[same[0]]]) || "(nothing)" }));
      if (same.length > 1) reply.append(element("span", { class: "times", text: ` \u00d7${same.length}` }));
      const row = element("tr", { class: chosen.has(same[0]) ? "match" : "other" }, reply);
      for (const name of names) {
        row.append(element("td", { class: "number", "data-head": name.replace("score/", ""), text: figure(columns[name][same[0]]) }));
      }
      body.append(row);
    }
    const made = element("div", { class: "block" });
    made.append(element("h4", { text: player && player !== "learner" ? `${role} (${player})` : role }));
    if (prompt !== before && texts[prompt] !== "") made.append(element("p", { class: "asked" }, element("bdi", { text: visible(texts[prompt]) })));
    made.append(element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `replies of ${role}` },
      element("table", { class: "cards" }, element("thead", {}, head), body)));
    return made;
  }

  function card(entry) {
    const { first, end, turns } = entry;
    const run = runs[columns.run[first]];
    const made = element("article", { class: "episode" });
    made.append(element("h3", { text: `step ${columns.step[first]}, episode ${columns.episode[first]}` }));
    made.append(element("p", { class: "whence", text: `run ${run.name} \u00b7 ${run.setting} \u00b7 seed ${run.seed ?? "unknown"}` }));
    let before = null;
    for (const some of blocks(entry)) {
      made.append(block(some, before, turns));
      before = columns.reply[some[some.length - 1]];
    }
    return made;
  }

  function show() {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const here = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    list.replaceChildren(...here.map(card));
    const turns = found.reduce((sum, entry) => sum + entry.turns.size, 0);
    count.textContent = found.length
      ? `${turns.toLocaleString("en")} turns in ${found.length.toLocaleString("en")} episodes; page ${page + 1} of ${pages}`
      : "nothing fits; widen the filters";
    previous.disabled = page === 0;
    next.disabled = page >= pages - 1;
  }

  function refresh() {
    list.classList.toggle("only", field("only").checked);
    found = matching();
    page = 0;
    show();
  }
  const turn = (by) => {
    page += by;
    show();
    list.scrollIntoView({ block: "start" });
  };
  controls.addEventListener("input", refresh);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(refresh));
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  refresh();
}

const transcripts = document.getElementById("transcripts-data");
if (transcripts) browser(JSON.parse(transcripts.textContent), document.getElementById("transcripts"));

// --- While runs go on, the page reloads itself; browsers keep the scroll position, this keeps what was chosen ----------

const KEPT = `selfplay ${location.pathname}`;
const controls = () => [...document.querySelectorAll("form.filters [name]")];

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  sessionStorage.removeItem(KEPT);
  if (!kept) return;
  for (const button of document.querySelectorAll(`[data-axis="${kept.axis}"]`)) button.click();
  for (const number of kept.hidden) if (toggles.some((one) => Number(one.dataset.toggle) === number)) toggle(number, true);
  for (const one of controls()) {
    const value = kept.controls[one.name];
    if (one.type === "checkbox") one.checked = Boolean(value);
    else if (value !== undefined && [...(one.options ?? [{ value }])].some((option) => option.value === value)) one.value = value;
  }
  for (const one of document.querySelectorAll("details")) one.open = kept.open.includes(one.querySelector("summary").textContent);
  document.querySelector("form.filters")?.dispatchEvent(new Event("input"));
}

function reload() {
  sessionStorage.setItem(KEPT, JSON.stringify({
    axis: document.querySelector("[data-shown]")?.dataset.shown,
    hidden: [...hidden],
    open: [...document.querySelectorAll("details[open] > summary")].map((one) => one.textContent),
    controls: Object.fromEntries(controls().map((one) => [one.name, one.type === "checkbox" ? one.checked : one.value])),
  }));
  location.reload();
}

restore();
if (document.body.dataset.refresh) setTimeout(reload, 1000 * document.body.dataset.refresh);
