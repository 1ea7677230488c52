// The charts over machine counts: seconds of an iteration by what they are spent on, and the cost
// of all iterations. A view is {question, answer, shown (one of answer.byType), before (points that
// the page began with, null if nothing was changed), isMoney}. Each is {figure, showFlips(flips)}.

const CHART_HEIGHT = 330;
const LABEL_HEIGHT = 15;
const UNITS = [["hours", 7200, 3600], ["minutes", 120, 60], ["seconds", 1, 1],
  ["milliseconds", 1e-3, 1e-3], ["microseconds", 1e-6, 1e-6], ["nanoseconds", 0, 1e-9]];

const unitFor = (seconds) => UNITS.find(([, from]) => seconds >= from);

function timeChart(view, width) {
  const { shown } = view, [unit, , factor] = unitFor(topOf(view, (p) => p.seconds));
  return chart(view, width, {
    id: "time",
    value: (p) => p.seconds / factor,
    closed: (n) => closedSeconds(shown.symbols, n) / factor,
    stack: PARTS,
    part: (p, name) => p.parts[name] / factor,
    label: `${unit} per iteration`,
    title: "Seconds of an iteration",
  });
}

function costChart(view, width) {
  const { shown, isMoney } = view, s = shown.symbols;
  const [unit, , factor] = isMoney ? ["money", 0, 1] : unitFor(topOf(view, (p) => p.cost));
  const rate = isMoney ? s.price / 3600 : 1 / factor;
  return chart(view, width, {
    id: "cost",
    value: (p) => p.cost / factor,
    closed: (n) => rate * n * closedTotal(s, n),
    stack: null,
    label: isMoney ? "money for all iterations" : `machine-${unit} for all iterations`,
    title: "Cost of all iterations",
  });
}

// Seconds of all iterations by the closed form; the first one loads all records.
function closedTotal(s, n) {
  const parts = closedParts(s, n);
  const once = s.iterations > 1 ? s.records / n * s.load - parts.load : 0;
  return s.iterations * totalOf(parts) + once;
}

// Where an axis ends: what is far above the best would press all else flat, and is cut off.
function topOf({ answer, shown }, value) {
  const least = shown.points.reduce((a, p) => Math.min(a, value(p)), Infinity);
  const most = shown.points.reduce((a, p) => Math.max(a, value(p)), 0);
  const own = [answer.nearest, answer.fastest, answer.cheapest].filter((p) => p.type === shown.name
    && value(p) <= 8 * least).map((p) => 1.25 * value(p));
  return Math.min(most * 1.04, Math.max(4 * least, ...own)) || 1;
}

function chart(view, width, what) {
  const { question, shown } = view, labels = marksOf(view), counts = question.counts;
  const ends = counts.length > 1 ? [counts[0], counts[counts.length - 1]]
    : [counts[0] / 1.5, counts[0] * 1.5];
  const rows = placed(labels, logScale(ends, [62, width - 12]), 62, width - 12);
  const top = 34 + rows * LABEL_HEIGHT;
  const box = { left: 62, right: width - 12, top, bottom: CHART_HEIGHT - 46 };
  const x = logScale(ends, [box.left, box.right]);
  const high = topOf(view, what.value), y = linearScale([0, high], [box.bottom, box.top]);
  const isCut = shown.points.some((p) => what.value(p) > high);
  const flipped = svg("g", {});
  const drawn = svg("svg", { width, height: CHART_HEIGHT, role: "group",
    viewBox: `0 0 ${width} ${CHART_HEIGHT}`, "aria-label": what.title },
  yAxis(y, box, digits, ""), xAxis(x, box, countText, "machines"),
  svg("text", { class: "soft-text", x: 4, y: 14 }, what.label
    + (isCut ? `, cut off above ${digits(high)}` : "")),
  plot(view, what, x, y, box), markLines(labels, box), flipped, pointer(view, x, box));
  return {
    figure: element("figure", { class: "chart" }, chartLegend(view, what), drawn),
    showFlips: (flips) => flipped.replaceChildren(...flipMarks(view, flips, x, box)),
  };
}

function chartLegend(view, what) {
  const entries = [...(what.stack || []).map((name, i) => [name, `fill${i}`, "area"]),
    ...(what.stack ? [] : [["whole machines", "whole", "line"]]),
    ["closed form", "closed", "line"], ...(view.before ? [["at first", "before", "line"]] : []),
    ...view.answer.byType.filter((t) => t !== view.shown).map((t) =>
      [t.name, "other", "line"])];
  return element("div", { class: "legend" }, entries.map(([name, look, kind]) => element("span", {},
    svg("svg", { width: 18, height: 12, "aria-hidden": "true" }, kind === "area"
      ? svg("rect", { width: 14, height: 12, rx: 2, class: look })
      : svg("line", { x1: 0, x2: 18, y1: 6, y2: 6, class: `curve ${look}` })), name)));
}

const pathOf = (points) => points.map(([x, y], i) =>
  `${i ? "L" : "M"}${x.toFixed(1)},${Math.max(-1e6, y).toFixed(1)}`).join("");

// Areas and lines, cut at the box: an inner svg hides what is outside of it.
function plot({ shown, answer, before, question }, what, x, y, box) {
  const line = (points, value, look) => svg("path", { class: `curve ${look}`,
    d: pathOf(points.map((p) => [x(p.machines), y(value(p))])) });
  const dots = question.counts.length > 30 ? [] : shown.points.map((p) => svg("circle", {
    class: "dot", cx: x(p.machines), cy: y(what.value(p)), r: 2.5 }));
  const smooth = Array.from({ length: 161 }, (_, i) =>
    question.counts[0] * (question.counts.at(-1) / question.counts[0]) ** (i / 160));
  return svg("svg", { x: box.left, y: box.top, width: box.right - box.left,
    height: box.bottom - box.top, viewBox: `${box.left} ${box.top} ${box.right - box.left} `
      + `${box.bottom - box.top}` },
  what.stack ? areas(shown.points, what, x, y) : null,
  refused({ shown, question }, x, box),
  answer.byType.filter((t) => t !== shown).map((t) => line(t.points, what.value, "other")),
  before ? line(before, what.value, "before") : null,
  line(shown.points, what.value, what.stack ? "sum" : "whole"),
  svg("path", { class: "curve closed", d: pathOf(smooth.map((n) => [x(n), y(what.closed(n))])) }),
  dots);
}

function areas(points, what, x, y) {
  let below = points.map(() => 0);
  return what.stack.map((name, i) => {
    const above = points.map((p, j) => below[j] + what.part(p, name));
    const edge = (sums) => points.map((p, j) => [x(p.machines), y(sums[j])]);
    const made = svg("path", { class: `fill${i}`,
      d: `${pathOf([...edge(above), ...edge(below).reverse()])}Z` });
    below = above;
    return made;
  });
}

// Machine counts that are not within the deadline and the budget, as a veil.
function refused({ shown, question }, x, box) {
  const found = [];
  shown.points.forEach((p, i) => {
    if (within(p.total, question.deadline) && within(p.cost, question.budget)) return;
    const [left, right] = [shown.points[i - 1] || p, shown.points[i + 1] || p].map((other) =>
      x(Math.sqrt(other.machines * p.machines)));
    const last = found.at(-1);
    if (last && Math.abs(last[1] - left) < 0.01) last[1] = right; else found.push([left, right]);
  });
  return found.map(([left, right]) => svg("rect", { class: "veil", x: left, y: box.top,
    width: Math.max(2, right - left), height: box.bottom - box.top }));
}

// Lines at machine counts, with words above: {at, text, look}; one for those at the same place.
function marksOf({ question, answer, shown }) {
  const { nearest, fastest, cheapest, choice } = answer, found = new Map();
  const add = (at, word, look) => {
    const one = found.get(at);
    if (one) one.words.push(word); else found.set(at, { at, words: [word], look });
  };
  add(nearest.machines, choice ? "best" : "nearest", "chosen");
  for (const [word, p] of [["fastest", fastest], ["cheapest", cheapest]]) {
    if (p.type === shown.name) add(p.machines, word, "");
  }
  const kink = shown.symbols.records / shown.symbols.cache;
  if (kink >= question.counts[0] && kink <= question.counts.at(-1)) add(kink, "R/M", "kink");
  return [...found.values()].map(({ at, words, look }) =>
    ({ at, look, text: `${words.join(", ")} ${at < 1000 ? digits(at) : countText(at)}` }));
}

// Gives each label a row and a place, so that none overlap; returns how many rows there are.
function placed(labels, x, left, right) {
  const ends = [];
  for (const label of labels.sort((a, b) => a.at - b.at)) {
    const half = 3.3 * label.text.length + 4;
    label.line = x(label.at);
    label.x = Math.min(right - half, Math.max(left + half, label.line));
    label.row = ends.findIndex((end) => end <= label.x - half);
    if (label.row < 0) label.row = ends.length;
    ends[label.row] = label.x + half;
  }
  return ends.length;
}

function markLines(labels, box) {
  const y = (row) => box.top - 8 - row * LABEL_HEIGHT;
  return [
    ...labels.map(({ line, row, look }) => svg("g", { class: `mark ${look}` },
      svg("line", { x1: line, x2: line, y1: y(row) + 3, y2: box.bottom }))),
    ...labels.map(({ x, row, text, look }) => svg("g", { class: `mark ${look}` },
      svg("text", { x, y: y(row), "text-anchor": "middle" }, text)))];
}

// Triangles at the machine counts to which the decision flips, with what would have to move.
function flipMarks({ shown, question }, flips, x, box) {
  const by = new Map();
  for (const { symbol, below, above } of flips) {
    for (const change of [below, above]) {
      if (!change || change.machines === null || change.type !== shown.name) continue;
      by.set(change.machines, [...(by.get(change.machines) || []), flipText(symbol, change)]);
    }
  }
  if (question.counts.length < 2) return [];
  return [...by].map(([machines, tips]) => {
    const at = x(machines);
    const tip = `${machinesText(machines)} would be better, with\n${tips.join("\n")}`;
    return svg("path", { class: "flip hit", "data-tip": tip,
      d: `M${at - 4},${box.bottom + 7} l4,-6 l4,6 Z` });
  });
}

// What follows the pointer, or the arrow keys: a line at a machine count, and its figures.
function pointer(view, x, box) {
  const { shown, question } = view;
  const line = svg("line", { class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const hit = svg("rect", { class: "over", x: box.left, y: box.top, width: box.right - box.left,
    height: box.bottom - box.top, tabindex: 0, role: "slider",
    "aria-label": "figures of a number of machines", "aria-valuemin": question.counts[0],
    "aria-valuemax": question.counts.at(-1) });
  let at = shown.points.findIndex((p) => p.machines === view.answer.nearest.machines);
  const show = () => {
    const p = shown.points[at], place = x(p.machines), tip = pointText(view, p);
    fill(line, { x1: place, x2: place, visibility: "visible" }, []);
    fill(hit, { "data-tip": tip, "aria-valuenow": p.machines, "aria-valuetext": tip }, []);
    return place;
  };
  hit.addEventListener("pointermove", (event) => {
    const frame = hit.getBoundingClientRect();
    const wanted = box.left + (event.clientX - frame.left) / frame.width * (box.right - box.left);
    at = nearestIndex(shown.points, x, wanted);
    show();
  });
  hit.addEventListener("pointerleave", () => line.setAttribute("visibility", "hidden"));
  hit.addEventListener("blur", () => line.setAttribute("visibility", "hidden"));
  hit.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10,
      PageDown: -10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    at = Math.min(shown.points.length - 1, Math.max(0, at + step));
    const frame = hit.getBoundingClientRect(), place = show();
    // The page's tooltip follows a pointer: keys move one too.
    hit.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientY: frame.top,
      clientX: frame.left + (place - box.left) / (box.right - box.left) * frame.width }));
  });
  return [line, hit];
}

function nearestIndex(points, x, wanted) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x(points[middle].machines) < wanted) low = middle; else high = middle;
  }
  return wanted - x(points[low].machines) < x(points[high].machines) - wanted ? low : high;
}

function pointText({ isMoney }, p) {
  const trees = p.fanIns();
  return [`${typedText(p)}${trees && trees.length ? `, tree ${trees.join("·")}` : ""}`,
    `${secondsText(p.seconds)} per iteration (closed form ${secondsText(p.closedSeconds)})`,
    ...PARTS.filter((name) => p.parts[name] > 0).map((name) =>
      `${name}: ${secondsText(p.parts[name])}`),
    `${secondsText(p.total)} in all, ${costPhrase(p.cost, isMoney)}, ${p.regime}`].join("\n");
}
