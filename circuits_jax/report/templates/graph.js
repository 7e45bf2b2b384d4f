// The graph of as many heads as the slider says, best first, with those that are pinned.
const pinned = new Set();
const groups = new Map(); // head -> name of its group
const groupNames = () => [...new Set(groups.values())];
const hueOf = (g) => (groups.has(g) ? ` grouped hue-${1 + (groupNames().indexOf(groups.get(g)) % 7)}` : "");
let graph = null, sizes = [], size = 0;
const MOST_APART = 400; // edges that can be hovered over one by one; more are one path
const place = ({ layer, head }) => [graph.grid.left + (layer + 0.5) * graph.grid.step, graph.grid.top + (head + 0.5) * graph.grid.row];

function edgePath(a, b) {
  const [x, y] = place(records[a]), [to, toY] = place(records[b]);
  const x1 = x + graph.grid.radius, x2 = to - graph.grid.radius, reach = 0.45 * (x2 - x1);
  const bend = y === toY && records[b].layer - records[a].layer > 1 ? 0.75 * graph.grid.row : 0;
  const at = (value) => value.toFixed(1);
  return `M${at(x1)} ${at(y)}C${at(x1 + reach)} ${at(y - bend)} ${at(x2 - reach)} ${at(toY - bend)} ${at(x2)} ${at(toY)}`;
}
function graphNode(g) {
  const record = records[g], [x, y] = place(record), { radius } = graph.grid;
  const node = svgNode("g", { class: `node${record.heat < 0 ? " negative" : ""}${Math.abs(record.heat) > 0.6 ? " hot" : ""}${hueOf(g)}`, style: `--heat:${Math.abs(record.heat)}` });
  node.dataset.g = g;
  node.dataset.tip = record.tip;
  node.append(svgNode("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: radius.toFixed(1) }));
  if (radius >= 8) node.append(svgNode("text", { "text-anchor": "middle", x: x.toFixed(1), y: (y + 3.2).toFixed(1) }, radius >= 13 ? record.name : `${record.head}`));
  return node;
}
// As the circuit is cut: as many edges as heads, the best among them; at its own size its own.
function edgesAmong(shown) {
  const own = size === graph.size && shown.size === size;
  const candidates = own ? graph.edges.slice(0, graph.own) : graph.edges;
  const among = candidates.filter(([a, b]) => shown.has(a) && shown.has(b));
  return own ? among : among.sort((p, q) => q[2] - p[2]).slice(0, shown.size);
}
let drawnSize = -1;
function drawGraph(again = false) {
  if (!graph) return;
  if (drawnSize !== size || again) {
    drawnSize = size;
    const shown = new Set([...byRank.slice(0, size), ...pinned, ...groups.keys()]);
    const edges = edgesAmong(shown), most = edges.length ? edges[0][2] : 1;
    const paths = edges.slice(0, MOST_APART).map(([a, b, score], rank) => {
      const path = svgNode("path", { class: `edge${rank < 30 ? "" : " more"}`, d: edgePath(a, b), "stroke-width": (1 + (4 * score) / most).toFixed(1) });
      Object.assign(path.dataset, { a, b, tip: `${records[a].name} to ${records[b].name}, score ${score.toPrecision(3)}, edge ${rank + 1} of ${edges.length}` });
      return path;
    });
    if (edges.length > MOST_APART) paths.push(svgNode("path", { class: "edge more", "stroke-width": 1, d: edges.slice(MOST_APART).map(([a, b]) => edgePath(a, b)).join("") }));
    byId("graph-edges").replaceChildren(...paths.reverse());
    byId("graph-nodes").replaceChildren(...[...shown].map(graphNode));
    byId("shown-size").textContent = `${size}${pinned.size ? ` and ${pinned.size} pinned` : ""}`;
    byId("shown-faith").textContent = faithAt(size);
  }
  for (const node of all("#graph-nodes .node")) {
    node.classList.toggle("selected", +node.dataset.g === selected);
    node.classList.toggle("pinned", pinned.has(+node.dataset.g));
  }
  for (const edge of all("#graph-edges .edge")) edge.classList.toggle("touched", [edge.dataset.a, edge.dataset.b].includes(`${selected}`));
}
function faithAt(n) {
  const fixed = (value) => value.toFixed(2).replace("-", "\u2212");
  const { curve } = graph, told = curve.find(([at]) => at === n);
  if (!curve.length) return "";
  if (told) return `keep a faithfulness of ${fixed(told[1])}${told[2] == null ? "" : `; random ones ${fixed(told[2])}`}`;
  const below = curve.findLast(([at]) => at < n), above = curve.find(([at]) => at > n);
  if (!below || !above) return `${below ? "more" : "fewer"} than were judged`;
  const share = (n - below[0]) / (above[0] - below[0]);
  return `keep about ${fixed(below[1] + share * (above[1] - below[1]))}: ${fixed(below[1])} at ${below[0]}, ${fixed(above[1])} at ${above[0]}`;
}
function drawPin() {
  byId("pin").hidden = !isHead(selected);
  byId("pin").setAttribute("aria-pressed", pinned.has(selected));
  byId("pin").textContent = pinned.has(selected) ? "unpin" : "pin";
}
byId("pin").onclick = () => {
  pinned.delete(selected) || pinned.add(selected);
  drawPin();
  drawGraph(true);
};
// Groups: what a name that is typed for a head says; below the graph, who is in them and what passes between.
function drawGroups() {
  byId("group").hidden = !isHead(selected);
  byId("group").value = groups.get(selected) ?? "";
  if (!graph) return;
  const names = groupNames(), between = new Map();
  for (const [a, b, score] of graph.edges) {
    const ends = [groups.get(a), groups.get(b)];
    if (ends[0] && ends[1] && ends[0] !== ends[1]) between.set(ends.join("\n"), (between.get(ends.join("\n")) ?? 0) + score);
  }
  byId("groups").replaceChildren(...names.map((name, i) => {
    const heads = [...groups.keys()].filter((g) => groups.get(g) === name).flatMap((g) => {
      const chip = htmlNode("button", { textContent: records[g].name });
      chip.dataset.g = g;
      return [chip, " "];
    });
    const passes = names.filter((other) => between.has(`${name}\n${other}`)).map((other) => ` ${shortNumber(between.get(`${name}\n${other}`))} to ${other}`);
    return htmlNode("p", { className: "neighbours" }, htmlNode("b", { className: `group hue-${1 + (i % 7)}`, textContent: name }), " ", ...heads, passes.length ? `\u2192${passes.join(",")}` : "");
  }));
}
byId("group").onchange = () => {
  const name = byId("group").value.replace(/[:|,&#]/g, " ").trim();
  groups.delete(selected);
  if (name) groups.set(selected, name);
  drawGroups();
  drawGraph(true);
  remember();
};
byId("graph").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const shown = [...all("#graph-nodes .node")].map((node) => +node.dataset.g).sort((a, b) => a - b);
  choose(shown[(shown.indexOf(selected) + by + shown.length) % shown.length] ?? selected);
});
unpacked("graph-data").then((data) => {
  graph = data;
  const last = byRank.length, wanted = [graph.size, ...graph.curve.map(([n]) => n)];
  for (let n = 1; n < last; n = Math.max(n + 1, Math.round(n * 1.05))) wanted.push(n);
  sizes = [...new Set([...wanted, last])].filter((n) => n > 0).sort((a, b) => a - b);
  size = graph.size;
  const slider = byId("size");
  Object.assign(slider, { max: sizes.length - 1, value: Math.max(0, sizes.indexOf(size)) });
  drawGroups();
  slider.oninput = () => {
    size = sizes[+slider.value];
    slider.setAttribute("aria-valuetext", `${size} heads`);
    requestAnimationFrame(() => drawGraph());
  };
  drawGraph(true);
});
