// Numbers as a person writes and reads them, as scalops/whatif_arguments.py reads them.

const MANY = { "": 1, k: 1e3, m: 1e6, g: 1e9, t: 1e12 };
const TIMES = { "": 1, ns: 1e-9, us: 1e-6, "µs": 1e-6, "μs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600,
  d: 86400 };
const MOST_MACHINES = 100000;
const A_TIME = [1e-15, 1e12];
const BOUNDS = { records: [1e-6, 1e18], map: A_TIME, load: A_TIME, cache: [1e-6, 1e18],
  aggregate: A_TIME, broadcast: A_TIME, level: A_TIME, iterations: [1, 1e12], price: [1e-15, 1e12],
  deadline: [1e-15, 1e30], budget: [1e-15, 1e30] };  // as of scalops/optimizer/costs/whatif.py
const MAY_BE_NOUGHT = ["map", "load", "aggregate", "broadcast", "level", "price"];

function quantity(text, units) {
  const found = /^([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*([a-zµμ]*)$/i.exec(text);
  const unit = found && found[3].toLowerCase();
  if (!found || !Object.hasOwn(units, unit)) return NaN;
  const number = Number(found[1].replaceAll("_", "") + (found[2] || "")) * units[unit];
  return Number.isFinite(number) ? number : NaN;
}

// The value of a field by its name; NaN where it is none, null where it is left empty and may be.
function readNumber(name, text) {
  const given = text.trim();
  if (given === "" && ["price", "deadline", "budget"].includes(name)) return null;
  if (name === "cache" && ["inf", "all"].includes(given.toLowerCase())) return Infinity;
  const counted = ["records", "cache", "iterations", "budget"].includes(name);
  const value = name === "price" ? quantity(given.replace(/\s*\/\s*h$/, ""), { "": 1 })
    : quantity(given, counted ? MANY : TIMES);
  if (value === 0 && MAY_BE_NOUGHT.includes(name)) return 0;
  const [least, most] = BOUNDS[name];
  return least <= value && value <= most ? value : NaN;
}

// Machine counts as in "1..500", "1,2,4,8" or "1..10,20", in ascending order; null for other text.
function readMachines(text) {
  const found = new Set();
  for (const part of text.split(",")) {
    const ends = /^\s*([0-9_]+)\s*(?:\.\.\s*([0-9_]+)\s*)?$/.exec(part);
    if (!ends) return null;
    const [low, high] = [ends[1], ends[2] || ends[1]].map((d) => Number(d.replaceAll("_", "")));
    if (!(1 <= low && low <= high && high <= MOST_MACHINES)) return null;
    for (let n = low; n <= high; n++) found.add(n);
  }
  return [...found].sort((a, b) => a - b);
}

// The very number, in few characters.
function exactText(value) {
  if (value === Infinity) return "all";
  const size = Math.abs(value), isPlain = size === 0 || (size >= 1e-3 && size < 1e5);
  return isPlain ? String(value) : value.toExponential().replace("e+", "e");
}

// With so many digits; the form is that of `exactText`.
function roundText(value, many = 4) {
  if (value === null) return "";
  return Number.isFinite(value) ? exactText(Number(value.toPrecision(many))) : "all";
}

const costText = (value, isMoney) => !isMoney ? secondsText(value)
  : value >= 1000 ? countText(value) : value >= 1 ? value.toFixed(2) : digits(value);
const costPhrase = (value, isMoney) => isMoney ? `money ${costText(value, true)}`
  : `${costText(value, false)} of machine time`;
const costWord = (isMoney) => isMoney ? "money" : "machine time";
const percentText = (part) => `${Number((100 * part).toPrecision(2))} %`;
const machinesText = (n) => `${countText(n)} ${n === 1 ? "machine" : "machines"}`;
const typedText = (point) => machinesText(point.machines)
  + (point.type === null ? "" : ` of ${point.type}`);

// A symbol's value with its unit.
function symbolText(name, value) {
  if (name === "price") return `${roundText(value, 3)}/h`;
  if (name === "iterations") return roundText(value, 3);
  if (value === Infinity) return "all records";
  return ["records", "cache"].includes(name) ? roundText(value, 3) : secondsText(value);
}
