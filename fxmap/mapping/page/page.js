"use strict";
// Names of modules and keys come from models and files: they are written by textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const make = (tag, props = {}, ...parts) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...parts);
  return element;
};
const dot = (status) => {
  const element = make("span", { className: "dot", title: data.meanings[status] || status || "" });
  if (status) element.style.background = `var(--${status})`;
  return element;
};

// -- the head, the proof, what is left ---------------------------------------------------------------------------------

const counts = new Map();
for (const row of data.keys) counts.set(row.status, (counts.get(row.status) || 0) + 1);
const bad = data.verdict === "refuted";
get("verdict").textContent = data.verdict;
get("verdict").className = data.ok ? "good" : bad ? "bad" : "open";
get("title").textContent = data.title;
get("counts").textContent =
  `${data.made} of ${data.keys.length} destination keys are made from the source: ` +
  [...counts].map(([status, count]) => `${count} ${status}`).join(", ") +
  (data.stages[0] ? `; from ${data.stages[0]} to ${data.stages[1]}` : "") +
  (data.rungs[1] ? `; captured by ${data.rungs[1]}` : "");
const list = (id, lines) => {
  get(id).append(...lines.map((line) => make("li", { textContent: line })));
  get(id).parentElement.hidden = !lines.length;
};
list("steps", data.steps);
list("notes", data.notes);
const leftBy = new Map();
for (const [key, what] of Object.entries(data.left)) leftBy.set(what, [...(leftBy.get(what) || []), key]);
list("left", [...leftBy].map(([what, keys]) =>
  `${what}: ${keys.slice(0, 12).join(", ")}${keys.length > 12 ? ` and ${keys.length - 12} more` : ""}`));
get("proof").append(...data.proof.map((line) => make("p", { textContent: line })));

// -- the table of keys -------------------------------------------------------------------------------------------------

const table = get("keys").tBodies[0];
const off = new Set();
const sorting = { by: "", up: true };
const CHUNK = 400;
let limit = CHUNK;
const kinds = [...new Set(data.keys.map((row) => row.kind).filter(Boolean))].sort();
get("kind").append(make("option", { value: "", textContent: "made in any way" }),
  ...kinds.map((kind) => make("option", { value: kind, textContent: kind })));
get("chips").append(...[...counts].map(([status, count]) => {
  const chip = make("button", { type: "button", className: "chip", title: data.meanings[status] }, dot(status), ` ${status} ${count}`);
  chip.setAttribute("aria-pressed", "true");
  chip.onclick = () => {
    off.has(status) ? off.delete(status) : off.add(status);
    chip.setAttribute("aria-pressed", String(!off.has(status)));
    showKeys();
  };
  return chip;
}));

const order = Object.keys(data.meanings);
const value = (row, by) => (by === "status" ? order.indexOf(row.status) : by === "shape" ? (row.shape || []).reduce((a, b) => a * b, 1) : row[by]);
const wanted = (row) => {
  const words = get("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = get("kind").value;
  const text = `${row.key} ${row.from} ${row.reason}`.toLowerCase();
  return !off.has(row.status) && (!kind || row.kind === kind) && words.every((word) => text.includes(word));
};
const keyRow = (row, part = false) => {
  const reason = row.reason ? make("div", { className: "reason", textContent: row.reason }) : "";
  const copy = make("button", { type: "button", textContent: "copy", title: "copy as Python" });
  copy.onclick = (event) => {
    event.stopPropagation();
    navigator.clipboard ? navigator.clipboard.writeText(row.python) : window.prompt("copy", row.python);
    copy.textContent = "copied";
  };
  const tr = make("tr", { className: part ? "part" : "" },
    make("td", { className: "status" }, dot(row.status), ` ${row.status}`),
    make("td", {}, row.key),
    make("td", {}, row.from || "–", reason),
    make("td", {}, row.shape ? row.shape.join("×") || "one number" : ""),
    make("td", {}, row.kind),
    make("td", {}, row.python ? copy : ""));
  tr.dataset.key = row.key;
  tr.onmouseenter = () => heat(operationsOf(row));
  tr.onmouseleave = () => heat(pinned);
  tr.onclick = () => { const found = operationsOf(row); if (found.length) pin(found[0][0], found[0][1]); };
  return tr;
};
const patternRow = (pattern, rows) => {
  const open = make("button", { type: "button", textContent: `${rows.length} keys` });
  open.setAttribute("aria-expanded", "false");
  const statuses = [...new Set(rows.map((row) => row.status))];
  const tr = make("tr", {},
    make("td", { className: "status" }, ...statuses.map(dot), ` ${statuses.join(", ")}`),
    make("td", {}, pattern.to, make("div", { className: "reason", textContent: pattern.where })),
    make("td", {}, pattern.from),
    make("td", {}, rows[0].shape ? rows[0].shape.join("×") : ""),
    make("td", {}, rows[0].kind),
    make("td", {}, open));
  let parts = [];
  open.onclick = () => {
    if (parts.length) { parts.forEach((part) => part.remove()); parts = []; } else {
      parts = rows.map((row) => keyRow(row, true));
      tr.after(...parts);
    }
    open.setAttribute("aria-expanded", String(parts.length > 0));
  };
  return tr;
};
function showKeys() {
  const rows = data.keys.filter(wanted);
  const general = get("general").checked && !sorting.by;
  const entries = [];
  if (general) {
    const visible = new Set(rows);
    const placed = new Map();
    for (const pattern of data.patterns) {
      const members = pattern.keys.map((place) => data.keys[place]).filter((row) => visible.has(row));
      if (pattern.keys.length > 1 && members.length) members.forEach((row) => placed.set(row, [pattern, members]));
    }
    for (const row of rows) {
      const [pattern, members] = placed.get(row) || [];
      if (!pattern) entries.push(() => keyRow(row));
      else if (members[0] === row) entries.push(() => patternRow(pattern, members));
    }
  } else {
    if (sorting.by) {
      rows.sort((a, b) => {
        const [one, other] = [value(a, sorting.by), value(b, sorting.by)];
        return (one < other ? -1 : one > other ? 1 : 0) * (sorting.up ? 1 : -1);
      });
    }
    entries.push(...rows.map((row) => () => keyRow(row)));
  }
  table.replaceChildren(...entries.slice(0, limit).map((entry) => entry()));
  get("shown").textContent = `${rows.length} of ${data.keys.length} keys`;
  get("more").hidden = entries.length <= limit;
}
for (const button of document.querySelectorAll("[data-sort]")) {
  button.onclick = () => {
    sorting.up = sorting.by === button.dataset.sort ? !sorting.up : true;
    sorting.by = button.dataset.sort;
    document.querySelectorAll("[data-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    button.setAttribute("aria-sort", sorting.up ? "ascending" : "descending");
    showKeys();
  };
}
get("search").oninput = get("kind").onchange = () => { limit = CHUNK; showKeys(); };
get("general").onchange = () => { sorting.by = ""; document.querySelectorAll("[data-sort]").forEach((b) => b.removeAttribute("aria-sort")); showKeys(); };
get("more").onclick = () => { limit += 4 * CHUNK; showKeys(); };
