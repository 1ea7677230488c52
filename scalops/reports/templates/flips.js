// How far each constant may move before another number of machines should be chosen: what
// optimizer/costs/flips.py says. Between the values at which a line bends (a load that just ends, a
// tree of a level more) the present choice and each rival are straight lines in the constant, so
// that where one first crosses another is solved for.

const TOLERANCE = 0.05;  // of what is made least: a choice that is that near the best is kept
const SPAN = 1000;  // the factors that are looked at: 1/SPAN to SPAN
// Of a constant: where the best beyond a flip is looked up; the first at which rounding does not
// hide that the choice is given up.
const BEYOND = [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3];
const UNIT = Object.fromEntries(SYMBOLS.map((name) => [name, 1]));

const sumsUpTo = (() => {  // they depend on the most machines alone
  const known = new Map();
  return (most) => {
    if (!known.has(most)) known.set(most, leastSums(most));
    return known.get(most);
  };
})();

class Flips {
  constructor(question, answer) {
    this.question = question;
    this.near = answer.nearest;
    this.hasChoice = answer.choice !== null;
    this.isTime = minimised(question) === "time";
    this.sums = sumsUpTo(Math.max(...question.counts)).slice(1);
    const scaled = question.types === null ? [UNIT]
      // Of a catalog's prices one is moved: that of the choice.
      : question.types.map((type) => ({ ...symbolsOn(UNIT, question.reference, type),
        price: type.name === this.near.type ? 1 : 0 }));
    this.rows = answer.byType.flatMap(({ name, symbols }, i) => question.counts.map((machines) => ({
      machines, type: name, symbols, scales: scaled[i], steps: broadcastSteps(machines) })));
    this.own = this.rows.find((row) => row.machines === this.near.machines
      && row.type === this.near.type);
  }

  // One entry a constant: {symbol, value, below, above}; none for a price that is not known.
  all() {
    return SYMBOLS.filter((name) => this.value(name) !== null).map((name) => this.flip(name));
  }

  flip(name) {
    const value = this.value(name), start = this.start(name);
    const low = name === "iterations" ? 1 : start / SPAN;
    const high = start > 0 ? start * SPAN : SPAN * this.reference(name);
    return {
      symbol: name,
      value,
      below: start > low ? this.nearest(name, start, low) : null,
      above: Number.isFinite(value) ? this.nearest(name, start, high) : null,
    };
  }

  value(name) {
    return name === "price" ? this.own.symbols.price : this.question.symbols[name];
  }

  // Where a search starts: an infinite cache is one that holds all records.
  start(name) {
    const value = this.value(name);
    if (Number.isFinite(value)) return value;
    return this.question.symbols.records / Math.min(...this.rows.map((row) => row.scales[name]));
  }

  // Of a constant that is 0, the value with which it takes as long as an iteration does.
  reference(name) {
    const seconds = this.near.seconds || 1;
    if (name === "map" || name === "load") {
      return seconds * this.near.machines / this.question.symbols.records;
    }
    return name === "price" ? 1 : seconds;
  }

  // The nearest flip between two values: {value, factor, machines, type, why}.
  nearest(name, start, end) {
    const first = this.first(name, start, end);
    if (!Number.isFinite(first)) return null;
    const own = this.value(name), way = end > start ? 1 : -1, value = start + way * first;
    const factor = own > 0 && own < Infinity ? value / own : null;
    const step = way * Math.max(value, start);
    for (const part of BEYOND) {
      const best = this.best(name, value + part * step);
      if (this.isGivenUp(best)) return { value, factor, ...best };
    }
    return null;
  }

  // How far from `start` the first flip is; infinite for none.
  first(name, start, end) {
    const { deadline, budget } = this.question, own = this.own;
    const kept = (row) => [
      deadline === null ? null : (x) => 1 + ROUNDING - this.total(name, x, row) / deadline,
      budget === null ? null : (x) => 1 + ROUNDING - this.cost(name, x, row) / budget,
    ].filter(Boolean);
    let found = Infinity;
    const bends = this.bends(name, own);
    if (this.hasChoice) {
      for (const limit of kept(own)) {
        const missed = [(x) => -limit(x)];
        found = Math.min(found, earliest(breaksOf(bends, start, end), missed, found));
      }
    }
    for (const row of this.rows) {
      const conditions = kept(row);
      if (this.hasChoice) {
        conditions.push((x) =>
          this.objective(name, x, own) - (1 + TOLERANCE) * this.objective(name, x, row));
      } else if (!conditions.length) {
        return 0;
      }
      const at = breaksOf([...bends, ...this.bends(name, row)], start, end);
      found = Math.min(found, earliest(at, conditions, found));
    }
    return found;
  }

  // Where the line of a row bends.
  bends(name, row) {
    const { records, level, cache, aggregate } = row.symbols, { machines, scales } = row;
    if (name === "records") return [machines * cache];
    if (name === "cache") return [records / machines / scales.cache];
    if (name !== "aggregate" && name !== "level") return [];
    const found = [];
    for (let many = 1; many < this.sums.length; many++) {
      for (let few = 0; few < many; few++) {
        const saved = this.sums[few][machines] - this.sums[many][machines], levels = many - few;
        found.push(name === "aggregate" ? level * levels / saved / scales.aggregate
          : aggregate * saved / levels);
      }
    }
    return found;
  }

  // Seconds of all iterations of a row, where one constant is `x` on the reference.
  total(name, x, row) {
    const of = (symbol) => symbol === name ? x * row.scales[symbol] : row.symbols[symbol];
    const { machines, steps } = row, records = of("records") / machines, load = of("load");
    const spilled = Math.max(0, records - of("cache")), a = of("aggregate"), l = of("level");
    let tree = machines === 1 ? 0 : Infinity;
    if (machines > 1) {
      this.sums.forEach((sums, d) => { tree = Math.min(tree, a * sums[machines] + l * (d + 1)); });
    }
    const k = of("iterations");
    const all = k * (records * of("map") + spilled * load + tree + of("broadcast") * steps);
    // One iteration is a steady one; of more of them, however few more, the first loads all.
    const loads = name === "iterations" || this.question.symbols.iterations > 1;
    return loads ? all + (records - spilled) * load : all;
  }

  cost(name, x, row) {
    const made = row.machines * this.total(name, x, row);
    if (this.value("price") === null) return made;
    const price = name === "price" && row.scales.price > 0 ? x * row.scales.price
      : row.symbols.price;
    return made * price / 3600;
  }

  objective(name, x, row) {
    return this.isTime ? this.total(name, x, row) : this.cost(name, x, row);
  }

  // Whether this best is another than the present choice, or misses a limit.
  isGivenUp({ machines, type, why }) {
    if (!this.hasChoice) return machines !== null;
    return why !== "dearer" || machines !== this.near.machines || type !== this.near.type;
  }

  // The best where a constant is `x`, and why the choice is given up there.
  best(name, x) {
    const { deadline, budget } = this.question;
    const late = (row) => deadline !== null && this.total(name, x, row) > deadline * (1 + ROUNDING);
    const dear = (row) => budget !== null && this.cost(name, x, row) > budget * (1 + ROUNDING);
    const why = !this.hasChoice ? "possible" : late(this.own) ? "deadline"
      : dear(this.own) ? "budget" : "dearer";
    let found = null, value = Infinity;
    for (const row of this.rows) {
      if (late(row) || dear(row)) continue;
      const made = this.objective(name, x, row);
      if (made < value) [found, value] = [row, made];
    }
    return { machines: found && found.machines, type: found && found.type, why };
  }
}

// The values between which lines are straight, from `start` on.
function breaksOf(bends, start, end) {
  const low = Math.min(start, end), high = Math.max(start, end);
  const inside = [...new Set(bends)].filter((x) => x > low && x < high).sort((a, b) => a - b);
  return start < end ? [start, ...inside, end] : [start, ...inside.reverse(), end];
}

// How far from the first value all conditions, straight between values, are first above 0: less
// than `most`, or infinite. A single point does not count.
function earliest(at, conditions, most) {
  let before = conditions.map((condition) => condition(at[0]));
  for (let i = 1; i < at.length && Math.abs(at[i - 1] - at[0]) < most; i++) {
    const after = conditions.map((condition) => condition(at[i]));
    let low = 0, high = 1;
    before.forEach((a, c) => {
      const b = after[c];
      if (a <= 0) low = Math.max(low, b > 0 ? a / (a - b) : 2);
      else if (b <= 0) high = Math.min(high, a / (a - b));
    });
    if (low < high) return Math.abs(at[i - 1] + low * (at[i] - at[i - 1]) - at[0]);
    before = after;
  }
  return Infinity;
}
