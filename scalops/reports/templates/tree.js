// A plan as a tree to fold and search, with its figures, and a panel on the chosen line. Figures
// that only whole plans have stand in the panel, not in a column.

// `least`: less is taken as this in a comparison, as scalops/analyzing.py does.
const LEAST_SECONDS = 1e-4, LEAST_MEMORY = 2 ** 20;
const COLUMNS = [
  { key: "rows", label: "rows", text: countText, known: "rows_provenance",
    words: "records that it delivers" },
  { key: "bytes", label: "bytes", text: bytesText, known: "rows_provenance",
    words: "bytes that it delivers" },
  { key: "seconds_first", label: "first run", text: secondsText, least: LEAST_SECONDS,
    words: "seconds of the first run or iteration" },
  { key: "seconds", label: "later runs", text: secondsText, least: LEAST_SECONDS,
    words: "seconds of each later run or iteration" },
  { key: "total_seconds", label: "in all", text: secondsText, least: LEAST_SECONDS,
    words: "seconds of all iterations" },
  { key: "memory", label: "memory", text: bytesText, least: LEAST_MEMORY, whole: true },
  { key: "money", label: "money", text: digits, whole: true },
];
const MOST_OFF = 2;  // an estimate that is off by more than this factor is marked
const PROVENANCE = {
  exact: "exact: known from metadata",
  measured: "measured: the rates behind it were measured",
  estimated: "estimated: from samples or metadata",
  assumed: "assumed: no measurement stands behind it",
};

const isNumber = (value) => typeof value === "number";
const provenanceText = (known) => PROVENANCE[known] || String(known);

const factorText = (factor) => `${factor < 9.95 ? digits(Math.round(factor * 10) / 10)
  : countText(factor)}×`;

// Estimate and actual of one figure of a line; `off` is the factor between them if it is too large.
function figureOf(figures, column) {
  const estimate = figures[column.key], actual = figures[`actual_${column.key}`];
  // Where no column is wanted, no bytes are estimated.
  const both = isNumber(estimate) && isNumber(actual) && !(column.key === "bytes" && !estimate);
  const [a, b] = [estimate, actual].map((v) => Math.max(column.least || 1, v));
  const factor = both ? Math.max(a / b, b / a) : null;
  return { estimate, actual, off: factor > MOST_OFF ? factor : null,
    known: figures[column.known] || figures.provenance };
}

// The lines of a display tree in order; a loop, so that a deep plan needs no deep stack.
function linesOf(root) {
  const lines = [], stack = [{ node: root, parent: null, level: 1, place: 1, among: 1 }];
  while (stack.length) {
    const line = stack.pop();
    line.index = lines.length;
    line.inside = [];
    if (line.parent) line.parent.inside.push(line);
    line.open = true;
    lines.push(line);
    const children = line.node.children || [];
    for (let i = children.length - 1; i >= 0; i--) {
      stack.push({ node: children[i], parent: line, level: line.level + 1, place: i + 1,
        among: children.length });
    }
  }
  return lines;
}

// Name -> the line that others call so; a later line of the name without lines below stands for it.
function namesOf(lines) {
  const names = new Map();
  for (const line of lines) {
    const name = line.node.name;
    if (!name) continue;
    if (!names.has(name)) names.set(name, line);
    else if (!line.inside.length) line.above = names.get(name);
  }
  for (const line of lines) {
    for (const name of line.node.reads || []) {
      const made = names.get(name);
      if (!made) continue;
      (line.reads ||= []).push([name, made]);
      (made.readers ||= []).push(line);
    }
    if (line.above) (line.above.readers ||= []).push(line);
  }
}

function textOf(node) {
  const details = (node.details || []).map((d) => `${d.label} ${d.text}`);
  return [node.title, node.location || "", ...details].join("\n").toLowerCase();
}

// `text` with the parts that equal `word` (lower case) marked.
function marked(text, word) {
  if (!word) return [text];
  const parts = [], lower = text.toLowerCase();
  if (lower.length !== text.length) return [text];  // places would not be the same
  let from = 0;
  for (let at; (at = lower.indexOf(word, from)) >= 0; from = at + word.length) {
    parts.push(text.slice(from, at), element("mark", {}, text.slice(at, at + word.length)));
  }
  return [...parts, text.slice(from)];
}

function planTree(stage, root) {
  const lines = linesOf(root);
  namesOf(lines);
  const columns = COLUMNS.filter((c) => !c.whole && lines.some(({ node }) =>
    node.figures && (isNumber(node.figures[c.key]) || isNumber(node.figures[`actual_${c.key}`]))));
  const most = columns.map((c) => Math.max(...lines.flatMap(({ node }) => {
    const figures = node.figures || {};
    return [figures[c.key], figures[`actual_${c.key}`]].filter(isNumber);
  })));
  const compared = lines.some(({ node }) =>
    Object.keys(node.figures || {}).some((key) => key.startsWith("actual_")));
  const tree = element("div", { role: "tree", "aria-label": `The ${stage} plan`,
    class: "tree", onkeydown: keyPressed });
  sized(tree);
  const panel = element("aside", { class: "panel", "aria-label": "The chosen line",
    "aria-live": "polite" });
  let chosen = lines[0], found = [], current = -1, word = "";

  function sized(node) {
    node.style.setProperty("--columns", columns.length);
    node.style.setProperty("--cell", compared ? "6.8rem" : "5.4rem");  // a mark needs room
  }

  function figure(line, column, value, kind, off) {
    const share = value / (most[columns.indexOf(column)] || 1);
    const made = element("span", { class: `figure ${kind}` }, element("span", {},
      column.text(value), off ? element("span", { class: "off" }, ` ${factorText(off)}`) : null));
    made.style.setProperty("--share", `${100 * Math.max(0, Math.min(1, share))}%`);
    return made;
  }

  function cell(line, column) {
    const figures = line.node.figures || {};
    const { estimate, actual, off, known } = figureOf(figures, column);
    const has = [isNumber(estimate), isNumber(actual)];
    if (!has[0] && !has[1]) return element("span", { class: "cell" });
    const tip = [column.words];
    if (has[0]) tip.push(`estimate: ${column.text(estimate)}`, provenanceText(known || ""));
    if (has[1]) tip.push(`measured: ${column.text(actual)}`);
    if (off) tip.push(`off by a factor of ${factorText(off).slice(0, -1)}`);
    return element("span", { class: "cell", "data-label": column.label,
      "data-tip": tip.filter(Boolean).join("\n") },
      has[0] ? figure(line, column, estimate, "estimated", has[1] ? null : off) : null,
      has[1] ? figure(line, column, actual, "happened", off) : null);
  }

  function jump(target, text) {
    return element("button", { class: "link", tabindex: "-1", onclick: (event) => {
      event.stopPropagation();
      reveal(target);
      choose(target, true);
    } }, text);
  }

  function row(line) {
    const node = line.node;
    line.words = element("span", { class: "code" }, node.title);
    const twist = element("span", { class: "twist", "aria-hidden": "true", onclick: (event) => {
      event.stopPropagation();
      fold(line, !line.open);
    } });
    const title = element("span", { class: "title" }, twist, element("span", { class: "words" },
      line.words,
      node.location ? element("span", { class: "place" }, node.location) : null,
      line.above ? jump(line.above, "go there") : null,
      (line.reads || []).map(([name, made]) => jump(made, `from ${name}`))));
    const details = (node.details || []).map((d) => [element("dt", {}, d.label),
      element("dd", { class: "code" }, d.text)]);
    line.row = element("div", {
      role: "treeitem", id: `${stage}-${line.index}`, tabindex: "-1", class: "row",
      "aria-level": line.level, "aria-posinset": line.place, "aria-setsize": line.among,
      "aria-selected": false, "aria-expanded": line.inside.length ? true : null,
      "aria-label": [node.title, node.location].filter(Boolean).join(", "),
      onclick: () => choose(line, true),
      ondblclick: () => fold(line, !line.open),
    }, title, columns.map((c) => cell(line, c)),
    details.length ? element("dl", {}, details) : null);
    if (node.is_loop) line.row.classList.add("loop");
    line.row.style.setProperty("--depth", Math.min(line.level - 1, 24));
    return line.row;
  }

  function refresh() {
    for (const line of lines) {
      line.row.hidden = Boolean(line.parent) && (line.parent.row.hidden || !line.parent.open);
    }
  }

  function fold(line, open) {
    if (!line.inside.length) return;
    line.open = open;
    line.row.setAttribute("aria-expanded", open);
    refresh();
    // The chosen line must stay reachable by keyboard.
    if (chosen.row.hidden) choose(line, tree.contains(document.activeElement));
  }

  function foldAll(open) {
    for (const line of lines) {
      if (!line.inside.length) continue;
      line.open = open || !line.parent;
      line.row.setAttribute("aria-expanded", line.open);
    }
    refresh();
    if (chosen.row.hidden) choose(lines[0], false);
  }

  function reveal(line) {
    for (let up = line.parent; up; up = up.parent) {
      up.open = true;
      up.row.setAttribute("aria-expanded", true);
    }
    refresh();
  }

  function choose(line, focus) {
    chosen.row.setAttribute("aria-selected", false);
    chosen.row.tabIndex = -1;
    chosen = line;
    line.row.setAttribute("aria-selected", true);
    line.row.tabIndex = 0;
    if (focus) {
      line.row.focus({ preventScroll: true });
      line.row.scrollIntoView({ block: "nearest" });
    }
    panel.replaceChildren(...described(line));
  }

  function described(line) {
    const node = line.node, details = node.details || [], made = [];
    made.push(element("h2", {}, marked(node.title, word)));
    if (node.location) made.push(element("p", { class: "soft" }, `written at ${node.location}`));
    if (details.length) {
      made.push(element("dl", {}, details.map((d, i) => [
        element("dt", {}, i && details[i - 1].label === d.label ? "" : d.label),
        element("dd", { class: "code" }, marked(d.text, word))])));
    }
    if (node.figures && Object.keys(node.figures).length) made.push(...figuresOf(node.figures));
    const links = [];
    if (line.above) links.push(["stands for", line.above]);
    for (const [name, from] of line.reads || []) links.push([`reads ${name} from`, from]);
    for (const reader of line.readers || []) links.push(["read by", owner(reader)]);
    if (links.length) {
      made.push(element("dl", {}, links.map(([label, to]) => [element("dt", {}, label),
        element("dd", {}, link(to))])));
    }
    return made;
  }

  const owner = (line) => (line.above && line.parent ? line.parent : line);

  function link(line) {
    const made = jump(line, shortened(line.node.title));
    made.tabIndex = 0;
    return made;
  }

  function figuresOf(figures) {
    const rows = COLUMNS.map((c) => [c, figureOf(figures, c)])
      .filter(([, f]) => isNumber(f.estimate) || isNumber(f.actual));
    const actual = rows.some(([, f]) => isNumber(f.actual));
    const shown = (c, value) => (isNumber(value) ? c.text(value) : "");
    const made = [];
    if (rows.length) {
      made.push(element("table", {}, element("tr", {}, element("th", {}, ""),
        element("th", { class: "number" }, "estimate"),
        actual ? [element("th", { class: "number" }, "measured"), element("th", {}, "off")] : null),
      rows.map(([c, f]) => element("tr", {}, element("th", {}, c.label),
        element("td", { class: "number" }, shown(c, f.estimate)),
        actual ? [element("td", { class: "number" }, shown(c, f.actual)),
          element("td", { class: "off" }, f.off ? factorText(f.off) : "")] : null))));
    }
    const words = [];
    if (isNumber(figures.iterations)) {
      const assumed = figures.iterations_known === "no" ? " (assumed: until converged)" : "";
      words.push(`${countText(figures.iterations)} iterations${assumed}`);
    }
    if (isNumber(figures.actual_iterations)) {
      words.push(`${countText(figures.actual_iterations)} iterations measured`);
    }
    if (isNumber(figures.actual_spread)) {
      words.push(`measured later runs vary by ±${Math.round(100 * figures.actual_spread)} %`);
    }
    if (figures.rows_provenance) words.push(`rows, bytes: ${provenanceText(figures.rows_provenance)}`);
    if (figures.provenance) words.push(provenanceText(figures.provenance));
    return [...made, ...words.map((w) => element("p", { class: "soft" }, w))];
  }

  function keyPressed(event) {
    if (event.target.closest("button") || event.ctrlKey || event.metaKey || event.altKey) return;
    const visible = lines.filter((l) => !l.row.hidden), at = visible.indexOf(chosen);
    let to = null;
    switch (event.key) {
      case "ArrowDown": to = visible[at + 1]; break;
      case "ArrowUp": to = visible[at - 1]; break;
      case "Home": to = visible[0]; break;
      case "End": to = visible[visible.length - 1]; break;
      case "ArrowRight":
        if (chosen.inside.length && !chosen.open) fold(chosen, true); else to = chosen.inside[0];
        break;
      case "ArrowLeft":
        if (chosen.inside.length && chosen.open) fold(chosen, false); else to = chosen.parent;
        break;
      case "Enter": case " ": fold(chosen, !chosen.open); break;
      case "*":
        for (const l of chosen.parent ? chosen.parent.inside : [chosen]) fold(l, true);
        break;
      default: return;
    }
    event.preventDefault();
    if (to) choose(to, true);
  }

  function search(text) {
    word = text.trim().toLowerCase();
    found = word ? lines.filter((line) => (line.text ||= textOf(line.node)).includes(word)) : [];
    current = -1;
    for (const line of lines) {
      const hit = found.includes(line);
      line.row.classList.toggle("found", hit);
      line.row.classList.remove("current");
      line.words.replaceChildren(...marked(line.node.title, hit ? word : ""));
    }
    for (const line of found) reveal(line);
    count.textContent = word ? `${found.length} of ${lines.length} lines` : "";
    panel.replaceChildren(...described(chosen));
  }

  function next(step) {
    if (!found.length) return;
    if (current >= 0) found[current].row.classList.remove("current");
    current = (current + step + found.length + (current < 0 && step < 0 ? 1 : 0)) % found.length;
    found[current].row.classList.add("current");
    choose(found[current], false);
    found[current].row.scrollIntoView({ block: "nearest" });
    count.textContent = `${current + 1} of ${found.length}`;
  }

  const count = element("span", { class: "soft", role: "status" });
  const field = element("input", { type: "search", placeholder: "Search titles and details",
    "aria-label": "Search the plan", oninput: () => search(field.value),
    onkeydown: (event) => {
      if (event.key === "Enter") next(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") { field.value = ""; search(""); }
    } });
  const detailed = element("button", { "aria-pressed": false, onclick: () => {
    const on = tree.classList.toggle("detailed");
    detailed.setAttribute("aria-pressed", on);
  } }, "Details in the tree");
  const tools = element("div", { class: "tools" }, field, count,
    element("button", { onclick: () => foldAll(true) }, "Expand all"),
    element("button", { onclick: () => foldAll(false) }, "Collapse all"), detailed,
    columns.length ? element("span", { class: "key soft" },
      element("span", { class: "estimated" }), "estimate",
      compared ? [element("span", { class: "happened" }), "measured; ",
        element("b", { class: "off" }, "3×"), " off by more than 2×"] : null) : null);
  tree.append(...lines.map(row));
  const head = columns.length ? element("div", { class: "row head", "aria-hidden": "true" },
    element("span", {}), columns.map((c) => element("span", { class: "cell" }, c.label))) : null;
  if (head) sized(head);
  choose(lines[0], false);
  return element("div", {}, tools, element("div", { class: "split" },
    element("div", {}, head, tree), panel));
}

function shortened(title) {
  return title.length > 60 ? `${title.slice(0, 59)}…` : title;
}
