// The recommendation as sentences, the tables, and the command that says the same.

const REGIMES = { cached: "all records are cached", spilling: "caches do not hold all records" };
const OPTIONS = { records: "records", map: "map", load: "load", cache: "cache",
  aggregate: "aggregate", broadcast: "broadcast", level: "level-overhead",
  iterations: "iterations", price: "price" };

// A figure with the number itself, for those who read the page by a program.
const figure = (name, value, text) => element("data", { class: name, value }, text);

function recommendation(view) {
  const { question, answer, isMoney } = view, p = answer.nearest;
  return [
    answer.choice ? null : element("p", { class: "off refusal" }, refusalText(view)),
    element("p", { class: "headline" },
      figure("machines", p.machines, typedText(p)),
      element("span", { class: "soft" }, !answer.choice ? p.machines === 1 ? " comes nearest"
        : " come nearest" : goalText(question, p))),
    element("div", { class: "tiles" },
      tile("per iteration", figure("seconds", p.seconds, secondsText(p.seconds))),
      tile(question.symbols.iterations > 1 ? `${digits(question.symbols.iterations)} iterations`
        : "in all", figure("total", p.total, secondsText(p.total))),
      tile(costWord(isMoney), figure("cost", p.cost, costText(p.cost, isMoney))),
      tile("tree", figure("tree", (p.fanIns() || []).join(","), treeText(p))),
      tile("most of it", p.dominant)),
  ];
}

const remarks = (view) => [
  element("p", { class: "soft" }, `${capital(REGIMES[view.answer.nearest.regime])}.`
    + ` ${closedText(view)}`),
  element("p", { class: "soft" }, boundText(view) + othersText(view)),
  element("p", { class: "soft", id: "ways" }, waysText(view)),
];

const tile = (word, value) => element("div", { class: "tile" },
  element("span", { class: "soft" }, word), element("strong", {}, value));
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const treeText = (p) => p.fanIns() === null ? "f = e" : p.fanIns().join("·") || "–";

function goalText(q, { machines }) {
  if (q.deadline !== null && q.budget !== null) {
    return `, the ${minimised(q) === "time" ? "fastest" : "cheapest"} within both limits`;
  }
  if (q.deadline !== null) return ", the cheapest within the deadline";
  if (q.budget !== null) return ", the fastest within the budget";
  return ` ${machines === 1 ? "is" : "are"} ${q.objective === "time" ? "fastest" : "cheapest"}`;
}

// Which limit cannot be kept, and what could be.
function refusalText({ question, answer, isMoney }) {
  const { deadline, budget } = question, { fastest, points } = answer;
  const inTime = points.filter((p) => within(p.total, deadline));
  if (!inTime.length) {
    const late = `No cluster is done within ${secondsText(deadline)}: the fastest,`
      + ` ${typedText(fastest)}, takes ${secondsText(fastest.total)}`;
    if (points.some((p) => within(p.cost, budget))) return `${late}.`;
    const least = answer.cheapest;
    return `${late}; and none keeps the budget of ${costText(budget, isMoney)}: the cheapest,`
      + ` ${typedText(least)}, takes ${costText(least.cost, isMoney)}.`;
  }
  const cheapest = least(inTime, BY_COST);
  const kept = deadline === null ? "" : " within the deadline";
  return `No cluster keeps the budget of ${costText(budget, isMoney)}: the cheapest${kept},`
    + ` ${typedText(cheapest)}, takes ${costText(cheapest.cost, isMoney)}.`;
}

function closedText({ shown, answer }) {
  const s = shown.symbols, p = answer.nearest, fast = closedFastest(s), cheap = closedCheapest(s);
  const gap = p.closedSeconds > 0 ? p.seconds / p.closedSeconds - 1 : 0;
  const many = (n) => Number.isFinite(n) ? roundText(n, 3) : "as many as there are";
  const time = Number.isFinite(fast) ? ` (${secondsText(closedSeconds(s, fast))})` : "";
  return `By the closed form ${many(fast)}${time} ${fast === 1 ? "is" : "are"} fastest,`
    + ` ${many(cheap)} cheapest; at ${countText(p.machines)}, whole machines take`
    + ` ${percentText(Math.abs(gap))} ${gap < 0 ? "less" : "more"}.`;
}

function boundText({ question, answer }) {
  const { counts } = question;
  return counts.length > 1 && answer.nearest.machines === counts.at(-1)
    ? `${countText(counts.at(-1))} is the largest number that is asked: more might be better. ` : "";
}

function othersText({ answer, isMoney }) {
  const { nearest, fastest, cheapest } = answer, said = [];
  const takes = (p) => `${typedText(p)}, ${secondsText(p.total)} in all,`
    + ` ${costPhrase(p.cost, isMoney)}`;
  if (fastest !== nearest) said.push(`Fastest: ${takes(fastest)}.`);
  if (cheapest !== nearest) said.push(`Cheapest: ${takes(cheapest)}.`);
  return said.join(" ");
}

// What aggregation takes by other ways. A ring: each machine owns 1/N of the elements, hears those
// of N − 1 others and sends its sums on; two steps.
function waysText({ answer, shown }) {
  const { aggregate: a, level: l } = shown.symbols, p = answer.nearest, n = p.machines;
  if (n === 1 || p.fanIns() === null) return "";
  const binary = new EvenTrees(a + l, a, n, 2).seconds[n];
  const ways = [`tree ${treeText(p)} ${secondsText(p.parts.aggregate)}`,
    `binary tree ${secondsText(binary)}`, `flat, all to one, ${secondsText(a * n + l)}`,
    `ring ${secondsText(a * (n - 1) / n + a + 2 * l)} if all of A is bytes (not built)`];
  return `Aggregation on ${machinesText(n)}: ${ways.join("; ")}.`;
}

// A dozen machine counts that tell most: the marked ones, and others evenly between the ends.
function shownMachines({ answer, shown, question }, most = 12) {
  const { counts } = question, { nearest, fastest, cheapest } = answer;
  if (counts.length <= most) return counts;
  const wanted = new Set([counts[0], counts.at(-1)]);
  for (const p of [nearest, fastest, cheapest]) if (p.type === shown.name) wanted.add(p.machines);
  const kink = shown.symbols.records / shown.symbols.cache;
  if (kink >= counts[0] && kink <= counts.at(-1)) wanted.add(counts.find((n) => n >= kink));
  while (wanted.size < most) {
    const known = [...wanted].sort((a, b) => a - b);
    const gaps = known.slice(1).map((high, i) => [known[i], high]);
    gaps.sort((a, b) => a[0] / a[1] - b[0] / b[1]);
    const between = gaps.map(([low, high]) => middleOf(counts, low, high)).find((n) => n !== null);
    if (between === undefined) break;
    wanted.add(between);
  }
  return [...wanted].sort((a, b) => a - b);
}

// The round count nearest to the middle of two, on a logarithmic scale.
function middleOf(counts, low, high) {
  const inner = counts.filter((n) => n > low && n < high);
  if (!inner.length) return null;
  const far = (n) => Math.abs(Math.log(n / Math.sqrt(low * high)));
  const round = inner.filter((n) => /^[1-9]5?0*$/.test(n) && far(n) < 0.15);
  return (round.length ? round : inner).reduce((a, b) => far(b) < far(a) ? b : a);
}

function machinesTable(view) {
  const { answer, shown, isMoney } = view, wanted = new Set(shownMachines(view));
  const names = ["machines", "tree", "per iteration", "closed form", "in all", "machine time",
    ...(isMoney ? ["money"] : []), "most of it", "regime"];
  const rows = shown.points.filter((p) => wanted.has(p.machines)).map((p) => {
    const notes = [p !== answer.nearest ? null : answer.choice ? "best" : "nearest",
      p === answer.fastest ? "fastest" : null,
      p === answer.cheapest ? "cheapest" : null].filter(Boolean);
    return [p, [countText(p.machines), treeText(p), secondsText(p.seconds),
      secondsText(p.closedSeconds), secondsText(p.total), secondsText(p.machineSeconds),
      ...(isMoney ? [costText(p.money, true)] : []), p.dominant, p.regime], notes];
  });
  const numbers = names.length - 2;
  const look = (i) => i < numbers && i !== 1 ? "number" : null;
  const title = shown.name === null ? "Machine counts" : `Machine counts: ${shown.name}`;
  return [element("h2", {}, title),
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, names.map((name, i) =>
        element("th", { class: look(i), scope: "col" }, name)), element("th", {}))),
      element("tbody", {}, rows.map(([p, cells, notes]) => element("tr", {
        class: p === answer.nearest ? "chosen" : null }, cells.map((text, i) =>
        element("td", { class: look(i) }, text)),
      element("td", { class: "soft" }, notes.join(", "))))))),
    view.answer.byType.length > 1 ? typesTable(view) : null];
}

// The best of each type of a catalog.
function typesTable({ answer, isMoney }) {
  const names = ["type", "machines", "per iteration", "in all", costWord(isMoney), "most of it"];
  const look = (i) => i > 0 && i < 5 ? "number" : null;
  return [element("h2", {}, "Types of machines, each at its best"),
    element("div", { class: "scroll" }, element("table", {},
      element("tr", {}, names.map((name, i) => element("th", { class: look(i) }, name))),
      answer.byType.map(({ name, best }) => element("tr", {
        class: best === answer.nearest ? "chosen" : null },
      [name, countText(best.machines), secondsText(best.seconds), secondsText(best.total),
        costText(best.cost, isMoney), best.dominant].map((text, i) =>
        element("td", { class: look(i) }, text))))))];
}

const WHY = { dearer: `the best is more than ${100 * TOLERANCE} % better`,
  deadline: "the deadline would be missed", budget: "the budget would be exceeded",
  possible: "the limits could be kept" };

function flipsTable(flips, hasChoice) {
  const about = hasChoice ? "The decision holds between these values of a constant, the others"
    + ` staying as they are: within ${100 * TOLERANCE} % of what is best then, and within the`
    + " limits. A dash: it holds at least" : "No number of machines is within the limits. One would"
    + " be, if a constant alone had these values. A dash: none would,";
  const cell = (change, name) => change === null ? element("td", { class: "soft" }, "–")
    : element("td", { "data-tip": WHY[change.why], "data-value": change.value },
      symbolText(name, change.value), change.factor === null ? "" : ` (× ${digits(change.factor)})`);
  const then = (change) => element("td", { "data-machines": change && change.machines },
    change === null ? ""
    : change.machines === null ? "none" : typedText(change));
  return [element("h2", {}, "How far constants may move"),
    element("p", { class: "soft" }, `${about} up to a factor of ${countText(SPAN)}.`),
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, ["constant", "now",
        ...(hasChoice ? ["not below", "else", "not above", "else"]
          : ["at most", "then", "at least", "then"])].map((name) =>
        element("th", { scope: "col" }, name)))),
      element("tbody", {}, flips.map(({ symbol, value, below, above }) => element("tr", {
        "data-symbol": symbol }, element("th", { scope: "row" }, symbol),
      element("td", {}, symbolText(symbol, value)), cell(below, symbol), then(below),
      cell(above, symbol), then(above))))))];
}

// Whether what flips is the first iteration's load, which a steady one has not: as with K = 2.
const isFirstLoad = ({ symbol, above }) => symbol === "iterations" && above !== null
  && above.factor === 1;

function firstLoadText(question) {
  const two = answerOf({ ...question, symbols: { ...question.symbols, iterations: 2 } }).choice;
  return element("p", { class: "soft", id: "first-load" }, "One iteration is a steady one. With 2,"
    + " the first of which loads all, "
    + (two === null ? "no number is within the limits." : `it is ${typedText(two)}.`));
}

// The command that prints the same; symbols hold for the catalog's own reference there.
function commandText({ symbols, machines, objective, deadline, budget }, catalog) {
  const own = catalog && catalog.reference_type.name !== catalog.reference
    ? symbolsOn(symbols, catalog.reference_type,
      catalog.types.find((t) => t.name === catalog.reference)) : symbols;
  const named = SYMBOLS.filter((name) => own[name] !== null && !(catalog && name === "price"))
    .map((name) => `--${OPTIONS[name]} ${exactText(own[name])}`);
  const limits = [["objective", objective === "time" ? null : objective], ["deadline", deadline],
    ["budget", budget]].filter(([, value]) => value !== null)
    .map(([name, value]) => `--${name} ${typeof value === "number" ? exactText(value) : value}`);
  return ["scalops whatif", ...named, `--machines ${machines.replaceAll(" ", "")}`, ...limits,
    ...(catalog ? ["--catalog machines.toml"] : [])].join(" ");
}
