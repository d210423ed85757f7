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

// -- the graphs --------------------------------------------------------------------------------------------------------
// A tree of modules for each side. A node is a module, a run of equal modules ("× 24"), or an operation.

const [NAME, KIND, MODULE, READS, KEYS, TEXT] = [0, 1, 2, 3, 4, 5];
const graphs = data.graphs;
const partner = { src: new Map(), dst: new Map() };
const statusOf = new Map(data.keys.map((row) => [row.key, row.status]));
const readBy = new Map();
for (const row of data.keys) for (const key of row.reads) readBy.set(key, [...(readBy.get(key) || []), row]);
const opsOf = { src: new Map(), dst: new Map() };
let pinned = [];
const worst = ["missing", "mismatched", "guessed", "matched", "kept", "calibrated", "taken", "tied", "inert", "proven"];
const worstOf = (statuses) => worst.find((status) => statuses.includes(status)) || "";

function statusOfOp(side, place) {
  const op = graphs[side].ops[place];
  const keys = side === "dst" ? op[KEYS] : op[KEYS].flatMap((key) => (readBy.get(key) || []).map((row) => row.key));
  const found = worstOf(keys.map((key) => statusOf.get(key)).filter(Boolean));
  return found || (partner[side].has(place) ? "" : op[KIND] === "input" || op[KIND] === "output" ? "" : "alone");
}
function treeOf(side) {
  const root = { side, label: "", path: "", children: [], byLabel: new Map(), parent: null };
  graphs[side].ops.forEach((op, place) => {
    let node = root;
    for (const label of op[MODULE] ? op[MODULE].split(".") : []) {
      if (!node.byLabel.has(label)) {
        const child = { side, label, path: node.path ? `${node.path}.${label}` : label, children: [], byLabel: new Map(), parent: node };
        node.byLabel.set(label, child);
        node.children.push(child);
      }
      node = node.byLabel.get(label);
    }
    node.children.push({ side, place, parent: node });
  });
  return simplified(root);
}
function simplified(node) {
  if (node.place !== undefined) { node.look = graphs[node.side].ops[node.place][KIND]; node.size = 1; return node; }
  node.children = node.children.map(simplified);
  // A module that is one operation is that operation; one that holds a single module is shown with it.
  if (node.parent && node.children.length === 1) {
    const only = node.children[0];
    only.label = only.label === undefined ? node.label : `${node.label}.${only.label}`;
    only.parent = node.parent;
    return only;
  }
  node.look = `(${node.children.map((child) => child.look).join(",")})`;
  node.size = node.children.reduce((sum, child) => sum + child.size, 0);
  const folded = [];
  for (let i = 0; i < node.children.length;) {
    let j = i + 1;
    while (j < node.children.length && node.children[j].look === node.children[i].look && node.children[i].children) j += 1;
    const run = node.children.slice(i, j);
    if (run.length > 2) {
      const group = { side: node.side, label: `${run[0].label} … ${run.at(-1).label}`, times: run.length, children: run, parent: node, path: run[0].path };
      group.look = run.map((child) => child.look).join(",");
      group.size = run.reduce((sum, child) => sum + child.size, 0);
      run.forEach((child) => { child.parent = group; });
      folded.push(group);
    } else folded.push(...run);
    i = j;
  }
  node.children = folded;
  return node;
}
const leaves = (node) => (node.place !== undefined ? [node] : node.children.flatMap(leaves));
const leafAt = { src: [], dst: [] };

function rowOf(node) {
  const twist = make("span", { className: "twist", textContent: node.children ? "▸" : "" });
  const row = make("button", { type: "button", className: "row" }, twist);
  row.setAttribute("role", "treeitem");
  row.tabIndex = -1;
  if (node.children) {
    const statuses = leaves(node).map((leaf) => statusOfOp(node.side, leaf.place)).filter(Boolean);
    row.append(dot(statuses.includes("alone") ? "alone" : worstOf(statuses)), make("span", { className: "name", textContent: node.label }));
    if (node.times) row.append(make("span", { className: "times", textContent: `× ${node.times}` }));
    row.append(make("span", { className: "what", textContent: `${node.size} operations` }));
    row.setAttribute("aria-expanded", "false");
    row.onclick = () => toggle(node, !node.open, true);
  } else {
    const op = graphs[node.side].ops[node.place];
    row.append(dot(statusOfOp(node.side, node.place)), make("span", { className: "name", textContent: node.label || op[NAME] }),
      make("span", { className: "what", textContent: `${op[KIND]}${op[TEXT] ? `  ${op[TEXT]}` : ""}` }));
    row.onclick = () => pin(node.side, node.place);
  }
  row.onmouseenter = () => heat(leaves(node).slice(0, 400).map((leaf) => [node.side, leaf.place]));
  row.onmouseleave = () => heat(pinned);
  node.row = row;
  row.node = node;
  return row;
}
function fill(node, into) {
  for (const child of node.children) {
    into.append(rowOf(child));
    if (child.children) { child.group = make("div", { className: "group", hidden: true }); into.append(child.group); }
  }
  node.filled = true;
}
function toggle(node, open, both = false) {
  if (!node.children || !node.group) return;
  if (open && !node.filled) fill(node, node.group);
  node.open = open;
  node.group.hidden = !open;
  node.row.setAttribute("aria-expanded", String(open));
  node.row.firstChild.textContent = open ? "▾" : "▸";
  if (both) { const other = counterpart(node); if (other) toggleUpTo(other, open); }
  draw();
}
function toggleUpTo(node, open) {
  if (open) { reveal(node); toggle(node, true); } else if (node.open) toggle(node, false);
}
// The module on the other side that holds most of a module's counterparts, and little else.
function counterpart(node) {
  const other = node.side === "src" ? "dst" : "src";
  const votes = new Map();
  for (const leaf of leaves(node)) {
    const place = partner[node.side].get(leaf.place);
    for (let at = place === undefined ? null : leafAt[other][place].parent; at && at.parent; at = at.parent) votes.set(at, (votes.get(at) || 0) + 1);
  }
  let best = null, score = 0;
  for (const [candidate, count] of votes) {
    const share = count / Math.max(candidate.size, node.size) + (candidate.times === node.times ? 0.01 : 0);
    if (share > score) { best = candidate; score = share; }
  }
  return score > 0.3 ? best : null;
}
function reveal(node) {
  const chain = [];
  for (let at = node.parent; at && at.parent; at = at.parent) chain.unshift(at);
  chain.forEach((at) => { if (!at.open) toggle(at, true); });
}
const visible = (node) => {
  let found = node;
  for (let at = node.parent; at && at.parent; at = at.parent) if (!at.open) found = at;
  return found;
};

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawNow(); });
}
function drawNow() {
  const svg = get("lines"), box = svg.getBoundingClientRect();
  const drawn = new Map();
  for (const [i, j] of graphs.pairs) {
    const [one, other] = [visible(leafAt.src[i]), visible(leafAt.dst[j])];
    if (!one.row || !other.row) continue;
    if (!one.id) one.id = ++ids;
    if (!other.id) other.id = ++ids;
    drawn.set(`${one.id} ${other.id}`, [one, other]);
  }
  const place = new Map();
  const middle = (node) => {
    if (!place.has(node)) { const rect = node.row.getBoundingClientRect(); place.set(node, rect.top + rect.height / 2 - box.top); }
    return place.get(node);
  };
  const hot = new Set(pinnedOrHot.map(([side, at]) => visible(leafAt[side][at])));
  svg.replaceChildren(...[...drawn.values()].map(([one, other]) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const [a, b, w] = [middle(one), middle(other), box.width];
    path.setAttribute("d", `M0 ${a}C${w / 2} ${a} ${w / 2} ${b} ${w} ${b}`);
    if (hot.has(one) && hot.has(other)) path.setAttribute("class", "hot");
    return path;
  }));
}
let ids = 0;
let pinnedOrHot = [];
// Highlight operations, and their counterparts.
function heat(operations) {
  if (!graphs) return;
  document.querySelectorAll(".row.hot").forEach((row) => row.classList.remove("hot"));
  const all = operations.flatMap(([side, place]) => {
    const other = partner[side].get(place);
    return other === undefined ? [[side, place]] : [[side, place], [side === "src" ? "dst" : "src", other]];
  });
  for (const [side, place] of all) visible(leafAt[side][place]).row?.classList.add("hot");
  pinnedOrHot = all;
  draw();
}
function operationsOf(row) {
  if (!graphs) return [];
  return [...(opsOf.dst.get(row.key) || []).map((place) => ["dst", place]),
    ...row.reads.flatMap((key) => (opsOf.src.get(key) || []).map((place) => ["src", place]))];
}
function described(side, place) {
  const op = graphs[side].ops[place];
  const lines = [`${side === "src" ? "source" : "destination"}: ${op[MODULE] || op[NAME]} (${op[KIND]})${op[TEXT] ? `  ${op[TEXT]}` : ""}`];
  if (op[READS].length) lines.push(`  reads ${op[READS].map((at) => graphs[side].ops[at][MODULE] || graphs[side].ops[at][NAME]).join(", ")}`);
  for (const key of op[KEYS]) {
    const row = side === "dst" ? data.keys.find((one) => one.key === key) : null;
    const shape = graphs[side].shapes[key];
    lines.push(`  ${key}${shape ? ` [${shape.join(", ")}]` : ""}${row ? `  ${row.status}${row.from ? `: ${row.from}` : ""}${row.reason ? ` (${row.reason})` : ""}` : ""}`);
  }
  return lines;
}
function pin(side, place) {
  const other = partner[side].get(place), theirs = side === "src" ? "dst" : "src";
  reveal(leafAt[side][place]);
  const lines = described(side, place);
  if (other === undefined) lines.push(`no counterpart in the ${side === "src" ? "destination" : "source"}`);
  else {
    reveal(leafAt[theirs][other]);
    lines.push(...described(theirs, other), `paired by: ${evidence.get(`${side === "src" ? place : other} ${side === "src" ? other : place}`)}`);
  }
  document.querySelectorAll(".row.pinned").forEach((row) => row.classList.remove("pinned"));
  pinned = [[side, place]];
  heat(pinned);
  leafAt[side][place].row.classList.add("pinned");
  if (other !== undefined) { leafAt[theirs][other].row.classList.add("pinned"); }
  leafAt[side][place].row.scrollIntoView({ block: "nearest" });
  get("detail").textContent = lines.join("\n");
  return leafAt[side][place].row;
}
const evidence = new Map();
const roots = {};
function openSome() {
  // As much as fits a screen: level by level, in both trees.
  const count = () => document.querySelectorAll("#graphs .row").length;
  let level = [...roots.src.children, ...roots.dst.children];
  while (level.length) {
    const inner = level.filter((node) => node.children && !node.times);
    if (count() + inner.reduce((sum, node) => sum + node.children.length, 0) > 90) break;
    inner.forEach((node) => toggle(node, true));
    level = inner.flatMap((node) => node.children);
  }
}
function startGraphs() {
  for (const [i, j, why] of graphs.pairs) { partner.src.set(i, j); partner.dst.set(j, i); evidence.set(`${i} ${j}`, why); }
  for (const side of ["src", "dst"]) {
    graphs[side].ops.forEach((op, place) => op[KEYS].forEach((key) => opsOf[side].set(key, [...(opsOf[side].get(key) || []), place])));
    roots[side] = treeOf(side);
    leaves(roots[side]).forEach((leaf) => { leafAt[side][leaf.place] = leaf; });
    fill(roots[side], get(side).querySelector(".tree"));
    const first = get(side).querySelector(".row");
    if (first) first.tabIndex = 0;
  }
  openSome();
  const at = data.divergence && divergent();
  if (at) {
    get("go-divergence").hidden = false;
    get("go-divergence").onclick = () => showDivergence(at);
    showDivergence(at);
  }
  get("open-all").onclick = () => { for (const side of ["src", "dst"]) openBelow(roots[side], true); };
  get("close-all").onclick = () => { for (const side of ["src", "dst"]) openBelow(roots[side], false); };
  get("find").onkeydown = (event) => { if (event.key === "Enter") find(); };
  get("graphs").onkeydown = keyboard;
  window.onresize = draw;
  document.fonts?.ready.then(draw);
  draw();
}
function openBelow(node, open) {
  if (node.parent && node.children) toggle(node, open);
  (node.children || []).forEach((child) => { if (child.row) openBelow(child, open); });
}
// The operations that the first divergence names, as in "layer1.0.relu (relu)".
function divergent() {
  const named = (side, text) => graphs[side].ops.findIndex((op) => text === op[NAME] || text.startsWith(`${op[MODULE] || op[NAME]} (${op[KIND]}`));
  const [one, other] = [named("src", data.divergence[0]), named("dst", data.divergence[1])];
  return other >= 0 ? ["dst", other, one] : one >= 0 ? ["src", one, -1] : null;
}
function showDivergence([side, place, other]) {
  pin(side, place).classList.add("parted");
  if (other >= 0) { reveal(leafAt.src[other]); leafAt.src[other].row.classList.add("parted"); }
  get("detail").textContent += `\n${data.proof.find((line) => line.startsWith("first divergence")) || ""}`;
}
let last = ["", -1];
function find() {
  const text = get("find").value.toLowerCase();
  if (!text) return;
  const all = ["dst", "src"].flatMap((side) => graphs[side].ops.map((op, place) => [side, place, `${op[MODULE]} ${op[NAME]} ${op[KIND]} ${op[KEYS].join(" ")}`.toLowerCase()]));
  const hits = all.filter(([, , found]) => found.includes(text));
  if (!hits.length) { get("detail").textContent = `nothing is called ${get("find").value}`; return; }
  last = last[0] === text ? [text, (last[1] + 1) % hits.length] : [text, 0];
  pin(hits[last[1]][0], hits[last[1]][1]);
}
function keyboard(event) {
  const row = event.target.closest(".row");
  if (!row) return;
  const rows = [...row.closest(".tree").querySelectorAll(".row")].filter((one) => one.offsetParent);
  const at = rows.indexOf(row), node = row.node;
  const moves = { ArrowDown: rows[at + 1], ArrowUp: rows[at - 1] };
  if (event.key in moves) { event.preventDefault(); focusOn(moves[event.key]); }
  if (event.key === "ArrowRight" && node.children) { node.open ? focusOn(rows[at + 1]) : toggle(node, true, true); }
  if (event.key === "ArrowLeft") { node.open ? toggle(node, false, true) : node.parent?.row && focusOn(node.parent.row); }
}
function focusOn(row) {
  if (!row) return;
  row.closest(".tree").querySelectorAll(".row[tabindex='0']").forEach((other) => { other.tabIndex = -1; });
  row.tabIndex = 0;
  row.focus();
  heat(leaves(row.node).slice(0, 400).map((leaf) => [row.node.side, leaf.place]));
}

showKeys();
if (graphs) startGraphs(); else get("graphs-section").hidden = true;
