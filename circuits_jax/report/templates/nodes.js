// What the selected node does with a pair of prompts, drawn when it is asked for.
let views = null, pair = 0;
const SIGNS = ["+ positive", "\u2212 negative"], PARTS = { q: "query", k: "key", v: "value", in: "input" };
const MOST_SQUARES = 10_000; // of a pattern, the largest
const BARS = 52, quoted = (text) => `\u201c${text}\u201d`;
const label = (text) => {
  const shown = text.trim() || { "\n": "\u23ce" }[text] || "\u2423";
  return shown.length > 11 ? `${shown.slice(0, 10)}\u2026` : shown;
};
const signed = (value) => `${value > 0 ? "+" : ""}${shortNumber(value)}`;
const largest = (values) => values.reduce((best, value, i) => (Math.abs(value) > Math.abs(values[best]) ? i : best), 0);

function drawViews() {
  if (!byId("view") || !views) return;
  pair = Math.min(pair, views.pairs - 1);
  byId("pairs").replaceChildren(...Array.from({ length: views.pairs }, (_, i) => {
    const button = htmlNode("button", { textContent: `${i + 1}`, onclick: () => { pair = i; drawViews(); remember(); } });
    button.setAttribute("aria-pressed", i === pair);
    return button;
  }));
  const record = records[selected], view = views.nodes[record.node];
  byId("drawn").hidden = !view;
  if (!view) {
    byId("says").textContent = `${record.name} was not looked at; the circuit\u2019s nodes are, best first, as far as there is room.`;
    byId("view").replaceChildren(htmlNode("p", { className: "note", textContent: `circuits_jax.view_nodes(model, task, ["${record.node}"]) looks at it.` }));
    return;
  }
  byId("says").replaceChildren(...summary(view));
  byId("view").replaceChildren(...[0, 1].map((side) => figureOf(record, view, side)));
  byId("drawn").replaceChildren(...drawnRows(view));
}

// One sentence on the token at which most of what is read is said.
function summary(view) {
  const tokens = views.tokens[pair], read = view.read[pair], t = largest(read);
  const told = ["At ", htmlNode("b", { textContent: quoted(tokens[t]) }), ` (token ${t + 1}), where most of what it says is read (${signed(read[t])} of what moves the prediction; at all tokens ${signed(read.reduce((a, b) => a + b))})`];
  if (view.pattern) {
    const row = view.pattern[pair][t];
    const best = row.map((shade, s) => [shade, s]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([shade]) => shade > 12);
    told.push(", it attends to ", ...best.flatMap(([shade, s], i) => [i ? ", " : "", htmlNode("b", { textContent: quoted(tokens[s]) }), ` ${(shade / 255).toFixed(2)}`]));
  }
  const [answer, foil] = view.adds[pair];
  told.push(`. After the last token it adds ${signed(answer)} to the answer\u2019s logit directly and ${signed(foil)} to the foil\u2019s.`);
  return told;
}

function figureOf(record, view, side) {
  const prompt = side * views.pairs + pair, tokens = views.tokens[prompt];
  const caption = htmlNode("figcaption", {}, htmlNode("b", { textContent: SIGNS[side] }), " ");
  const code = record.codes[side * (record.codes.length / 2) + pair];
  if (code) caption.append("code ", htmlNode("span", { className: "code" }, htmlNode("b", { className: `hue-${code[1]}`, textContent: code[0] })), ` ${code[2]}`);
  const told = htmlNode("p", { className: "note read-off", textContent: "\u00a0" });
  const svg = view.pattern || !side ? matrix(record, view, side, told) : ""; // an MLP's bars are of the pair
  const adds = htmlNode("div", { className: "adds" },
    htmlNode("p", {}, "adds to the logit of the answer ", htmlNode("b", { textContent: signed(view.adds[prompt][0]) }), ", of the foil ", htmlNode("b", { textContent: signed(view.adds[prompt][1]) }), ` (all together ${signed(views.logits[prompt][0])} and ${signed(views.logits[prompt][1])})`),
    ...[["most to", view.most], ["takes most from", view.least]].map(([words, found]) =>
      htmlNode("p", { className: "note" }, `${words} `, ...found[prompt].flatMap(([text, value]) => [htmlNode("q", { textContent: text }), ` ${signed(value)} `]))));
  const figure = htmlNode("figure", {}, caption, htmlNode("div", { className: "scroll" }, svg), told, adds);
  requestAnimationFrame(() => { if (svg && svg.isConnected) offerFiles(svg); });
  return figure;
}

// Attention as a map, rows write and columns are read, with bars of the pair beside the positive.
function matrix(record, view, side, told) {
  const prompt = side * views.pairs + pair, tokens = views.tokens[prompt], n = tokens.length;
  const pattern = view.pattern?.[prompt], bars = side ? 0 : 2 * (BARS + 8);
  const left = 12 + 6 * Math.max(...tokens.map((text) => label(text).length)), top = pattern ? left : 16;
  const room = Math.min(480, byId("view").clientWidth) - left - 2 * (BARS + 8) - 8;
  const cell = Math.max(8, Math.min(17, Math.floor(room / n)));
  const mapWidth = pattern ? n * cell : 0, height = top + n * cell + 6;
  const width = left + mapWidth + bars + 8;
  const svg = svgNode("svg", { class: "attention", "data-name": `${record.node}-pair-${pair + 1}-${side ? "negative" : "positive"}`, role: "img", tabindex: 0, width, height,
    "aria-label": `Attention of ${record.name} on the ${side ? "negative" : "positive"} prompt ${pair + 1}; arrow keys read it off` });
  if (pattern) svg.append(svgNode("rect", { class: "ground", x: left, y: top, width: mapWidth, height: n * cell }));
  tokens.forEach((text, t) => {
    const y = top + (t + 0.5) * cell + 3.5, x = left + (t + 0.5) * cell + 3.5;
    svg.append(svgNode("text", { class: "axis", "text-anchor": "end", x: left - 5, y }, label(text)));
    if (pattern) svg.append(svgNode("text", { class: "axis", transform: `translate(${x} ${top - 5}) rotate(-90)` }, label(text)));
  });
  const says = (t, s) => `at ${quoted(tokens[t])} reads ${quoted(tokens[s])} ${(pattern[t][s] / 255).toFixed(2)}`;
  const squares = (pattern ?? []).flatMap((row, t) => row.map((shade, s) => [shade, t, s])).filter(([shade]) => shade > 1);
  if (squares.length > MOST_SQUARES) squares.sort((p, q) => q[0] - p[0]);
  for (const [shade, t, s] of squares.slice(0, MOST_SQUARES)) {
    const square = svgNode("rect", { class: "share", x: left + s * cell + 0.5, y: top + t * cell + 0.5, width: cell - 1, height: cell - 1, style: `--heat:${(shade / 255).toFixed(3)}` });
    Object.assign(square.dataset, { tip: says(t, s), t, s });
    svg.append(square);
  }
  if (!side) [["moves", view.distance[pair]], ["read", view.read[pair]]].forEach(([name, values], i) => {
    const x = left + mapWidth + 10 + i * (BARS + 8), most = Math.max(...values.map(Math.abs)) || 1;
    svg.append(svgNode("text", { class: "axis", x, y: top - 5 }, name));
    values.forEach((value, t) => {
      const bar = svgNode("rect", { class: `bar ${i ? (value < 0 ? "lowers" : "raises") : "moves"}`, x, y: top + t * cell + 2, width: ((BARS * Math.abs(value)) / most).toFixed(1), height: cell - 4 });
      bar.dataset.tip = `${name} at ${quoted(tokens[t])}: ${signed(value)}`;
      svg.append(bar);
    });
  });
  if (!pattern) return svg;
  const cursor = svgNode("rect", { class: "cursor", width: cell, height: cell, visibility: "hidden" });
  svg.append(cursor);
  let at = null;
  const move = (t, s) => {
    at = [Math.max(0, Math.min(n - 1, t)), Math.max(0, Math.min(n - 1, s))];
    for (const [key, value] of Object.entries({ x: left + at[1] * cell, y: top + at[0] * cell, visibility: "visible" })) cursor.setAttribute(key, value);
    told.textContent = says(...at);
  };
  told.setAttribute("aria-live", "polite");
  svg.onclick = (event) => { if (event.target.dataset.t) move(+event.target.dataset.t, +event.target.dataset.s); };
  svg.onkeydown = (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const t = largest(view.read[pair]);
    if (at) move(at[0] + by[0], at[1] + by[1]);
    else move(Math.min(t, n - 1), largest(pattern[Math.min(t, n - 1)]));
  };
  return svg;
}

function drawnRows(view) {
  const tokens = views.tokens[pair];
  const rows = Object.entries(view.sources[pair]).map(([part, found]) => htmlNode("tr", {}, htmlNode("th", { textContent: PARTS[part] }), htmlNode("td", {}, ...found.flatMap(([name, share, t]) => {
    const g = records.findIndex((record) => record.node === name);
    const chip = htmlNode(g < 0 ? "span" : "button", {}, htmlNode("b", { textContent: g < 0 ? name : records[g].name }), ` ${signed(share)}`);
    if (g >= 0) chip.dataset.g = g;
    chip.title = `most of it at ${quoted(tokens[t])}`;
    return [chip, htmlNode("small", { textContent: ` at ${label(tokens[t])}` }), " "];
  }))));
  return [htmlNode("caption", { textContent: "Draws on earlier nodes, by what passes of their movement, as a share of all that moves the prediction" }), htmlNode("tbody", {}, ...rows)];
}
if (byId("view")) unpacked("views").then((found) => { views = found; drawViews(); }).catch((error) => {
  byId("says").textContent = `This browser cannot unpack what heads do (${error.message}); nodes.npz beside the page has it.`;
});
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (drawnWidth === innerWidth) return;
  drawnWidth = innerWidth;
  drawViews();
});
