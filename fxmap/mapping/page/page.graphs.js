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
const worst = ["missing", "mismatched", "guessed", "matched", "kept", "calibrated", "taken", "tied", "proven", "inert"];
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
// The place of an operation among those that read weights or data; one that reads neither comes where its result is used.
function firstOf(node) {
  const ops = graphs[node.side].ops;
  if (!usedAt[node.side]) {
    const used = ops.map(() => ops.length), fed = ops.map((op) => op[KIND] === "input" || op[KEYS].length > 0);
    ops.forEach((op, place) => { fed[place] = fed[place] || op[READS].some((at) => fed[at]); });
    for (let place = ops.length - 1; place >= 0; place -= 1) {
      if (fed[place]) used[place] = place;
      for (const at of ops[place][READS]) used[at] = Math.min(used[at], used[place] - 0.001);
    }
    usedAt[node.side] = used;
  }
  return usedAt[node.side][node.place];
}
const usedAt = {};
function simplified(node) {
  if (node.place !== undefined) { node.look = graphs[node.side].ops[node.place][KIND]; node.size = 1; node.first = firstOf(node); return node; }
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
  // A module stands where its weights are first read: what it makes of constants may be computed long before.
  node.first = Math.min(...node.children.map((child) => child.first));
  node.children.sort((one, other) => one.first - other.first);
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
    // Of a proven mapping an operation alone, such as one that makes a mask, is no news of its module.
    row.append(dot(statuses.includes("alone") && !data.ok ? "alone" : worstOf(statuses)), make("span", { className: "name", textContent: node.label }));
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
// Where one side is unfolded and its counterpart is not, lines would meet in one row.
function evenOut() {
  for (let round = 0; round < 6; round += 1) {
    const across = new Map();
    for (const [i, j] of graphs.pairs) {
      const [one, other] = [visible(leafAt.src[i]), visible(leafAt.dst[j])];
      for (const [node, facing] of [[one, other], [other, one]]) {
        if (node.children) across.set(node, (across.get(node) || new Set()).add(facing));
      }
    }
    const uneven = [...across].filter(([, facing]) => facing.size > 1).map(([node]) => node);
    if (!uneven.length) return;
    uneven.forEach((node) => toggle(node, true));
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
  evenOut();
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
  window.onbeforeprint = window.onafterprint = drawNow;
  document.fonts?.ready.then(draw);
  draw();
}
function openBelow(node, open) {
  if (node.parent && node.children) toggle(node, open);
  (node.children || []).forEach((child) => { if (child.row) openBelow(child, open); });
}
// The operations that the first divergence names, as in "layer1.0.relu (relu)". One that was merged into another, as a norm into
// its convolution, is the operation that reads its keys.
function divergent() {
  const named = (side, text) => {
    const ops = graphs[side].ops, path = text.replace(/ \(.*/, "");
    const tests = [
      (op) => text === op[NAME] || text.startsWith(`${op[MODULE] || op[NAME]} (${op[KIND]}`),
      (op) => op[KEYS].some((key) => key.startsWith(`${path}.`)),
      (op) => op[MODULE] === path || op[NAME] === path,
      (op) => op[MODULE].startsWith(`${path}.`),
    ];
    for (const test of tests) { const found = ops.findIndex(test); if (found >= 0) return found; }
    return -1;
  };
  const [one, other] = [named("src", data.divergence[0]), named("dst", data.divergence[1])];
  return other >= 0 ? ["dst", other, one] : one >= 0 ? ["src", one, -1] : null;
}
function showDivergence([side, place, other]) {
  if (other >= 0) { reveal(leafAt.src[other]); evenOut(); }
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
