const records = JSON.parse(document.getElementById("records").textContent);
const isHead = (g) => records[g]?.rank != null; // the others are MLPs
const byRank = records.map((_, g) => g).filter(isHead).sort((a, b) => records[a].rank - records[b].rank);
const perLayer = +byId("map").dataset.heads;
let selected = byRank[0];

// What is packed into the page as deflated JSON in base64.
async function unpacked(id) {
  const text = byId(id).textContent.trim().replaceAll("-", "+").replaceAll("_", "/");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
function svgNode(name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}
function htmlNode(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}
const shortNumber = (value) => (value === 0 ? "0" : value.toPrecision(2).replace(/e.*/, (power) => power)).replace("-", "\u2212");

function neighbours(id, ends) {
  const parts = ends.flatMap(([g, score]) => {
    const button = htmlNode("button", {}, htmlNode("b", { textContent: records[g].name }), ` ${score}`);
    button.dataset.g = g;
    return [button, " "];
  });
  byId(id).replaceChildren(...(parts.length ? parts : ["none"]));
}

function drawSpans(spans) {
  if (!byId("spans")) return;
  byId("spans").parentElement.hidden = !spans.length;
  byId("spans").replaceChildren(...spans.flatMap(([name, score, share]) => {
    const span = htmlNode("span", { className: "span" }, htmlNode("b", { textContent: name }), ` ${score}`);
    span.style.setProperty("--share", share);
    return [span, " "];
  }));
}

function select(g) {
  selected = g;
  const record = records[g];
  for (const told of all(".chosen")) told.textContent = record.name;
  for (const id of ["name", "score", "rank"]) byId(id).textContent = record[id] ?? "";
  byId("rank").parentElement.hidden = !isHead(g);
  byId("kind").textContent = isHead(g) ? "Head" : "MLP";
  byId("inside").textContent = isHead(g) ? (record.inside ? "in the circuit" : "not in the circuit") : "in the circuit of the whole graph";
  neighbours("sources", record.sources);
  neighbours("targets", record.targets);
  drawSpans(record.spans);
  for (const node of all("svg [data-g]")) node.classList.toggle("selected", +node.dataset.g === g);
  for (const edge of all(".edge"))
    edge.classList.toggle("touched", +edge.dataset.a === g || +edge.dataset.b === g);
  for (const chip of all("[data-i]")) {
    const [name, hue, strength, share] = record.codes[+chip.dataset.i] ?? ["\u2013", 0, "", 0];
    const bar = chip.parentElement.nextElementSibling;
    chip.textContent = name;
    chip.className = `hue-${hue}`;
    bar.firstElementChild.style.setProperty("--share", share);
    bar.lastElementChild.textContent = strength;
  }
  drawPin();
  drawGroups();
  drawGraph();
  drawViews();
}
function choose(g) {
  select(g);
  remember();
}

// #head=20.0&pair=2&groups=movers:20.0,21.1|others:3.0 opens a head (or an MLP), by the name on the page or by the
// node's own, and groups heads.
const remember = () => {
  const told = groupNames().map((name) => `${name}:${[...groups.keys()].filter((g) => groups.get(g) === name).map((g) => records[g].name)}`);
  const rest = [pair ? `&pair=${pair + 1}` : "", told.length ? `&groups=${told.map(encodeURIComponent).join("|")}` : ""];
  history.replaceState(null, "", `#head=${records[selected].name}${rest.join("")}`);
};
function openPermalink() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const name = asked.get("head");
  pair = Math.max(0, (+asked.get("pair") || 1) - 1);
  const find = (name) => records.findIndex((record) => name === record.name || name === record.node);
  const g = find(name);
  groups.clear();
  for (const told of (asked.get("groups") ?? "").split("|").filter(Boolean)) {
    const [own, heads = ""] = told.split(":");
    for (const head of heads.split(",").map(find).filter(isHead)) groups.set(head, own);
  }
  drawGraph(true);
  select(g < 0 ? selected : g);
  if (g >= 0) byId("nodes").scrollIntoView();
}
addEventListener("hashchange", () => { if (location.hash.startsWith("#head=")) openPermalink(); });

for (const point of all("#graph-of-all [data-tip]")) {
  const g = records.findIndex((record) => point.dataset.tip.startsWith(`${record.node}:`));
  if (g >= 0) point.dataset.g = g;
}
const step = (by) => choose(byRank[Math.max(0, Math.min(byRank.length - 1, (records[selected].rank ?? 1) - 1 + by))]);
byId("better").onclick = () => step(-1);
byId("worse").onclick = () => step(1);
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-g]");
  if (target) choose(+target.dataset.g);
});
byId("map").addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -perLayer, ArrowRight: perLayer, ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!move) return;
  event.preventDefault();
  if (isHead(selected) && isHead(selected + move)) choose(selected + move);
});
byId("search").addEventListener("input", (event) => {
  const asked = event.target.value.trim();
  const g = records.findIndex((record) => asked && (asked === record.name || asked === record.node));
  for (const node of all("svg [data-g]")) node.classList.toggle("found", !!asked && `${records[node.dataset.g].name} ${records[node.dataset.g].node}`.split(" ").some((name) => name.startsWith(asked)));
  if (g >= 0) choose(g);
});
