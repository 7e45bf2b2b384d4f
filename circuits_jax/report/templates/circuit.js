const records = JSON.parse(document.getElementById("records").textContent);
const byRank = records.map((_, g) => g).sort((a, b) => records[a].rank - records[b].rank);
const perLayer = +byId("map").dataset.heads;
let selected = byRank[0];

function neighbours(id, ends) {
  const parts = ends.flatMap(([g, score]) => {
    const button = document.createElement("button");
    const name = document.createElement("b");
    button.dataset.g = g;
    name.textContent = records[g].name;
    button.append(name, ` ${score}`);
    return [button, " "];
  });
  byId(id).replaceChildren(...(parts.length ? parts : ["none"]));
}

function select(g) {
  selected = g;
  const record = records[g];
  for (const id of ["name", "score", "rank"]) byId(id).textContent = record[id];
  byId("inside").textContent = record.inside ? "in the circuit" : "not in the circuit";
  neighbours("sources", record.sources);
  neighbours("targets", record.targets);
  for (const node of all("svg [data-g]")) node.classList.toggle("selected", +node.dataset.g === g);
  for (const edge of all(".edge"))
    edge.classList.toggle("touched", +edge.dataset.a === g || +edge.dataset.b === g);
  for (const chip of all("[data-i]")) {
    const [name, hue, strength, share] = record.codes[+chip.dataset.i];
    const bar = chip.parentElement.nextElementSibling;
    chip.textContent = name;
    chip.className = `hue-${hue}`;
    bar.firstElementChild.style.setProperty("--share", share);
    bar.lastElementChild.textContent = strength;
  }
}

const step = (by) => select(byRank[Math.max(0, Math.min(byRank.length - 1, records[selected].rank - 1 + by))]);
byId("better").onclick = () => step(-1);
byId("worse").onclick = () => step(1);
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-g]");
  if (target) select(+target.dataset.g);
});
byId("map").addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -perLayer, ArrowRight: perLayer, ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!move) return;
  event.preventDefault();
  if (records[selected + move]) select(selected + move);
});
