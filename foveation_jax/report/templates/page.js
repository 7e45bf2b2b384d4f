const all = (selector, within = document) => within.querySelectorAll(selector);
const byId = (id) => document.getElementById(id);

// Hovering: titles of drawings as one quick tooltip.
const tip = byId("tip");
for (const title of all("svg title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}
document.addEventListener("pointermove", (event) => {
  const target = event.target.closest("[data-tip]");
  tip.hidden = !target;
  if (!target) return;
  tip.textContent = target.dataset.tip;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 16}px`;
});

// Every named drawing as SVG and PNG, in the colours that it has on the page.
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const [from, to] = [svg, copy].map((root) => [root, ...all("*", root)]);
  const kept = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "display", "font-size", "font-weight", "text-anchor"];
  from.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of kept) to[i].style.setProperty(name, style.getPropertyValue(name));
    to[i].removeAttribute("class");
  });
  const { width, height } = svg.getBoundingClientRect();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  if (!copy.getAttribute("viewBox")) copy.setAttribute("viewBox", `0 0 ${width} ${height}`);
  copy.style.fontFamily = "sans-serif";
  copy.style.background = getComputedStyle(document.body).getPropertyValue("--card");
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}
function save(name, href) {
  const link = document.createElement("a");
  link.download = name;
  link.href = href;
  link.click();
}
const asUri = (text) => `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
function savePng(name, { text, width, height }) {
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    save(name, canvas.toDataURL());
  };
  image.src = asUri(text);
}
function offerFiles(svg) {
  const name = svg.dataset.name;
  let files = document.querySelector(`.files[data-of="${name}"]`);
  if (!files) {
    files = Object.assign(document.createElement("p"), { className: "files" });
    (svg.closest(".scroll") ?? svg).after(files);
  }
  for (const [kind, act] of [["SVG", () => save(`${name}.svg`, asUri(standalone(svg).text))], ["PNG", () => savePng(`${name}.png`, standalone(svg))]]) {
    const button = Object.assign(document.createElement("button"), { textContent: kind, onclick: act });
    button.setAttribute("aria-label", `${kind} of ${name}`);
    files.append(button);
  }
}
for (const svg of all("svg[data-name]")) offerFiles(svg);

// Tables that sort by the column whose head is clicked; the first click puts the largest on top.
for (const table of all("table.sortable")) {
  const heads = [...all("thead th", table)], body = table.tBodies[0];
  const value = (row, i) => {
    const text = row.cells[i].dataset.value ?? row.cells[i].textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", "").replace("\u2212", "-"));
    return Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, i) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const known = (v) => (typeof v === "number" ? 0 : v === "\u2013" ? 2 : 1); // what is not known stays last
      const rows = [...body.rows].sort((p, q) => {
        const [a, b] = [value(p, i), value(q, i)];
        if (known(a) !== known(b)) return known(a) - known(b);
        return (up ? 1 : -1) * (typeof a === "number" ? a - b : a.localeCompare(b));
      });
      body.append(...rows);
    };
    head.tabIndex = 0;
    head.onclick = sort;
    head.onkeydown = (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    };
  });
}
document.body.classList.add("scripts");
