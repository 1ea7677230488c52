// Elements, figures as text, scales and charts as inline SVG; used by every page.

const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html")
  .querySelector("svg").namespaceURI;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (typeof value !== "boolean" || name.startsWith("aria-")) {
      node.setAttribute(name, String(value));
    } else if (value) node.setAttribute(name, "");
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return node;
}

// element("td", {class: "number", onclick: f}, "text", child): text is never read as markup.
const element = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

// Figures as text, as algebra/figures.py writes them.

const digits = (value) => String(Number(value.toPrecision(3)));

function countText(count) {
  return Math.round(count).toString().replace(/\B(?=(\d{3})+(?!\d))/g, "_");
}

function bytesText(count) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (Math.abs(count) < 999.5) return `${digits(count)} ${unit}`;
    count /= 1000;
  }
  return `${digits(count)} TB`;
}

function secondsText(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds >= 360000) {
    const days = seconds / 86400;
    return `${days >= 999.5 && days < 1e6 ? countText(days) : digits(days)} d`;
  }
  if (seconds >= 3600) return `${digits(seconds / 3600)} h`;
  if (seconds >= 120) return `${digits(seconds / 60)} min`;
  for (const [unit, factor] of [["s", 1], ["ms", 1e3], ["µs", 1e6]]) {
    if (seconds * factor >= 0.9995) return `${digits(seconds * factor)} ${unit}`;
  }
  return `${digits(seconds * 1e9)} ns`;
}

// Scales: value -> place, with `ticks` of round values. `domain` and `range` are pairs.

function linearScale(domain, range, count = 5) {
  const [low, high] = domain, span = high - low || 1;
  const scale = (v) => range[0] + ((v - low) / span) * (range[1] - range[0]);
  const raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((s) => s * power >= raw * 0.999);
  scale.ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    scale.ticks.push(i * step);
  }
  scale.domain = [low, high];
  return scale;
}

function logScale(domain, range) {
  const [low, high] = domain.map(Math.log10), span = high - low || 1;
  const scale = (v) => range[0] + ((Math.log10(v) - low) / span) * (range[1] - range[0]);
  scale.ticks = [];
  for (let p = Math.floor(low); p <= Math.ceil(high); p++) {
    for (const m of span > 3 ? [1] : [1, 2, 5]) {
      const v = m * 10 ** p;
      if (v >= domain[0] * (1 - 1e-9) && v <= domain[1] * (1 + 1e-9)) scale.ticks.push(v);
    }
  }
  scale.domain = domain;
  return scale;
}

// The inverse of a scale at `place`, by bisection: no scale has to bring its own.
function valueAt(scale, place) {
  let [low, high] = scale.domain;
  const rising = scale(high) > scale(low);
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (scale(middle) < place === rising) low = middle; else high = middle;
  }
  return (low + high) / 2;
}

// Axes of a chart whose plot is the box {left, top, right, bottom}.

function xAxis(scale, box, text, label) {
  return svg("g", { class: "axis" },
    svg("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    scale.ticks.map((v) => [
      svg("line", { x1: scale(v), x2: scale(v), y1: box.bottom, y2: box.bottom + 4 }),
      svg("text", { x: scale(v), y: box.bottom + 17, "text-anchor": "middle" }, text(v)),
    ]),
    svg("text", { x: (box.left + box.right) / 2, y: box.bottom + 34, "text-anchor": "middle" },
      label || ""));
}

function yAxis(scale, box, text, label) {
  return svg("g", { class: "axis" },
    scale.ticks.map((v) => [
      svg("line", { x1: box.left, x2: box.right, y1: scale(v), y2: scale(v) }),
      svg("text", { x: box.left - 6, y: scale(v) + 4, "text-anchor": "end" }, text(v)),
    ]),
    label ? svg("text", { x: box.left, y: box.top - 8 }, label) : null);
}

function legend(names) {
  return element("div", { class: "legend" }, names.map((name, i) => element("span", {},
    svg("svg", { width: 12, height: 12, "aria-hidden": "true" },
      svg("rect", { width: 12, height: 12, rx: 2, class: `fill${i % 6}` })), name)));
}

// Stacked columns: one per entry of `columns` = [{label, tip, values: [..]}], values as `names`.
function stackedColumns({ columns, names, text, xLabel, yLabel, width = 880, height = 260 }) {
  const box = { left: 70, top: 24, right: width - 10, bottom: height - 40 };
  const sums = columns.map((c) => c.values.reduce((a, b) => a + b, 0));
  const y = linearScale([0, Math.max(...sums) || 1], [box.bottom, box.top]);
  const step = (box.right - box.left) / columns.length, gap = step > 4 ? Math.min(4, step / 5) : 0;
  const every = Math.ceil(columns.length / 16);
  const bars = columns.map((column, i) => {
    let below = 0;
    const x = box.left + i * step + gap / 2;
    const bar = svg("g", { class: "hit", "data-tip": column.tip, tabindex: "0", role: "img",
      "aria-label": column.tip },
      // Over the whole height: a thin column is found by the pointer all the same.
      svg("rect", { x: box.left + i * step, y: box.top, width: step, height: box.bottom - box.top,
        opacity: 0 }));
    column.values.forEach((value, part) => {
      if (!(value > 0)) return;
      bar.append(svg("rect", { x, width: Math.max(0.5, step - gap), y: y(below + value),
        height: Math.max(0, y(below) - y(below + value)), class: `fill${part % 6}` }));
      below += value;
    });
    return bar;
  });
  const labels = columns.map((column, i) => i % every ? null :
    svg("text", { x: box.left + (i + 0.5) * step, y: box.bottom + 16, "text-anchor": "middle" },
      column.label));
  return element("figure", { class: "chart" }, legend(names), element("div", { class: "scroll" },
    svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": yLabel },
      yAxis(y, box, text, yLabel), bars, svg("g", { class: "axis" }, labels,
        svg("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" },
          xLabel)))));
}
