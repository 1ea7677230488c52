// The cost model of docs/cost-model.md: its closed form, and the planner's whole machines, by
// symbols. What optimizer/costs/{closed_form,tree_search,tree_levels,integer_plan}.py say, with
// operations in the same order, so that of nearly equal trees the same one is kept.
// Symbols are {records, map, load, cache, aggregate, broadcast, level, iterations, price}: a cache
// may be Infinity, a price null.

const SYMBOLS = ["records", "map", "load", "cache", "aggregate", "broadcast", "level",
  "iterations", "price"];
const PARTS = ["map", "load", "aggregate", "broadcast"];
const LESS = 1 - 1e-12;  // of sums that differ by rounding alone the first is kept
const ROUNDING = 1e-12;  // of all records: what is left over by division alone is cached

// The closed form: T(N) = R·P/N + max(0, R − M·N)/N · D + (A·f + L)·log_f N + B·log₂ N.

const perEFold = (s, f) => (s.aggregate * f + s.level) / Math.log(f);
const growth = (s, f = Math.E) => perEFold(s, f) + s.broadcast / Math.LN2;
const ratio = (above, below) => below === 0 ? (above > 0 ? Infinity : 0) : above / below;

function closedParts(s, n, f = Math.E) {
  return {
    map: s.records * s.map / n,
    load: Math.max(0, s.records - s.cache * n) / n * s.load,
    aggregate: perEFold(s, f) * Math.log(n),
    broadcast: s.broadcast * Math.log2(n),
  };
}

const totalOf = (parts) => parts.map + parts.load + parts.aggregate + parts.broadcast;
const closedSeconds = (s, n, f = Math.E) => totalOf(closedParts(s, n, f));

// The N >= 1 of the least T(N): the median of R/M and the minima of both branches.
function closedFastest(s, f = Math.E) {
  const slope = growth(s, f), kink = s.records / s.cache;
  const found = [kink, ratio(s.records * s.map, slope), ratio(s.records * (s.map + s.load), slope)];
  return Math.max(1, found.sort((a, b) => a - b)[1]);
}

// The N >= 1 of the least N·T(N).
function closedCheapest(s, f = Math.E) {
  const kink = s.records / s.cache;
  if (kink <= 1 || s.load === 0) return 1;
  const exponent = ratio(s.cache * s.load, growth(s, f)) - 1;
  return Math.max(1, exponent >= Math.log(kink) ? kink : Math.exp(exponent));
}

// The best trees of each number of ranks up to `most`, by dynamic programming: a level takes
// `start`, and `take` for each message.
class Trees {
  constructor(start, take, most) {
    this.seconds = new Float64Array(most + 1).fill(Infinity);
    this.below = new Int32Array(most + 1);
    this.wholeBelow = new Int32Array(most + 1);
    this.seconds[0] = this.seconds[1] = 0;
    const whole = new Float64Array(most + 1).fill(Infinity);
    whole[1] = 0;
    for (let size = 1; size < most; size++) {
      if (!(whole[size] + start + take <= this.seconds[most])) continue;
      for (let others = 1; others * size < most; others++) {
        const made = whole[size] + (start + (others - 1) * take + take);
        const last = (others + 1) * size;
        this.improve(made, size, others * size + 1, Math.min(most, last));
        if (last <= most && made < whole[last] * LESS) {
          whole[last] = made;
          this.wholeBelow[last] = size;
        }
      }
    }
  }

  improve(made, size, from, to) {
    for (let ranks = from; ranks <= to; ranks++) {
      if (made < this.seconds[ranks] * LESS) {
        this.seconds[ranks] = made;
        this.below[ranks] = size;
      }
    }
  }

  fanIns(ranks) {
    if (ranks === 1) return [];
    let size = this.below[ranks];
    const found = [Math.ceil(ranks / size)];
    while (size > 1) {
      const below = this.wholeBelow[size];
      found.push(size / below);
      size = below;
    }
    return found.reverse();
  }
}

// Trees of one fan-in on all levels: the same questions, another answer.
class EvenTrees {
  constructor(start, take, most, fanIn) {
    this.fanIn = fanIn;
    this.seconds = Float64Array.from({ length: most + 1 }, (_, ranks) => {
      let total = 0;
      for (let size = 1; size < ranks; size *= fanIn) {
        const others = Math.floor((Math.min(ranks, size * fanIn) - 1) / size);
        total += start + (others - 1) * take + take;
      }
      return total;
    });
  }

  fanIns(ranks) {
    const found = [];
    for (let size = 1; size < ranks; size *= this.fanIn) found.push(this.fanIn);
    return found;
  }
}

// Σk of the best tree of at most d levels over n ranks, [d][n]; a tree takes A·Σk + L·d.
function leastSums(most) {
  let whole = new Float64Array(most + 1).fill(Infinity);
  whole[0] = whole[1] = 0;
  const found = [whole];
  for (;;) {
    const levels = found.length, bound = levels * Math.ceil(most ** (1 / levels));
    const sums = found[levels - 1].slice(), above = new Float64Array(most + 1).fill(Infinity);
    for (let size = 1; size < most; size++) {
      if (!(whole[size] + 2 <= bound)) continue;
      for (let n = size + 1; n <= most; n++) {
        sums[n] = Math.min(sums[n], whole[size] + Math.ceil(n / size));
      }
      for (let k = 2; k * size <= most; k++) {
        above[k * size] = Math.min(above[k * size], whole[size] + k);
      }
    }
    if (levels > 1 && sums.every((value, n) => value === found[levels - 1][n])) return found;
    found.push(sums);
    whole = above;
  }
}

const broadcastSteps = (n) => n <= 1 ? 0 : 32 - Math.clz32(n - 1);  // ⌈log₂ N⌉

// How partial results meet on each machine count: by the best trees, or by those of one fan-in.
function treesOf(s, most, fanIn) {
  if (fanIn === "best") return new Trees(s.aggregate + s.level, s.aggregate, most);
  return new EvenTrees(s.aggregate + s.level, s.aggregate, most, Number(fanIn));
}

// All points of one type of machine, in the order of `counts`.
function pointsOf(s, counts, type, fanIn) {
  const closed = fanIn === "e", trees = closed ? null : treesOf(s, Math.max(...counts), fanIn);
  const slope = growth(s), loads = s.iterations > 1;
  return counts.map((n) => {
    const records = 1 / n * s.records, spilled = Math.max(0, records - s.cache);
    const parts = closed ? closedParts(s, n) : {
      map: records * s.map,
      load: spilled * s.load,
      aggregate: trees.seconds[n],
      broadcast: s.broadcast * broadcastSteps(n),
    };
    const seconds = totalOf(parts), first = records * s.load;
    const steady = s.iterations * seconds, total = loads ? steady + (first - parts.load) : steady;
    const cost = s.price === null ? n * total : s.price * n * total / 3600;
    const divided = s.records * s.map + Math.max(0, s.records - s.cache * n) * s.load;
    return {
      machines: n,
      type,
      fanIns: () => closed ? null : trees.fanIns(n),
      parts,
      seconds,
      firstSeconds: loads ? seconds - parts.load + first : seconds,
      total,
      machineSeconds: n * total,
      money: s.price === null ? null : cost,
      cost,
      byTime: rounded(total),
      byCost: rounded(cost),
      regime: spilled > ROUNDING * s.records ? "spilling" : "cached",
      dominant: PARTS.reduce((a, b) => parts[b] > parts[a] ? b : a),
      closedSeconds: divided / n + slope * Math.log(n),
    };
  });
}

// Symbols that hold for `reference`, on machines of another type; latency, L, stays.
function symbolsOn(s, reference, wanted) {
  const network = reference.network / wanted.network;
  return {
    ...s,
    map: s.map * (reference.cores * reference.speed) / (wanted.cores * wanted.speed),
    load: s.load * reference.disk / wanted.disk,
    cache: s.cache * wanted.memory / reference.memory,
    aggregate: s.aggregate * network,
    broadcast: s.broadcast * network,
    price: wanted.price,
  };
}

// A question is {symbols, counts, fanIn, objective, deadline, budget, types, reference}: `types` of
// a catalog, null without one; limits are null where there is none.

const within = (value, limit) => limit === null || value <= limit;
const minimised = (q) => (q.deadline === null) === (q.budget === null) ? q.objective
  : q.budget === null ? "cost" : "time";

function symbolsByType(q) {
  if (q.types === null) return [[null, q.symbols]];
  return q.types.map((type) => [type.name, symbolsOn(q.symbols, q.reference, type)]);
}

// Without what differs by rounding alone: R·P machine-seconds are as many on any machines.
const rounded = (value) => Number(value.toPrecision(12));
const BY_TIME = (a, b) => a.byTime - b.byTime || a.byCost - b.byCost || a.machines - b.machines;
const BY_COST = (a, b) => a.byCost - b.byCost || a.byTime - b.byTime || a.machines - b.machines;
const least = (points, order) => points.reduce((a, b) => order(b, a) < 0 ? b : a);

// The best of `points`, and its kind: "choice" within both limits; else what comes nearest.
function nearestOf(q, points) {
  const inTime = points.filter((p) => within(p.total, q.deadline));
  const allowed = inTime.filter((p) => within(p.cost, q.budget));
  if (allowed.length) return least(allowed, minimised(q) === "time" ? BY_TIME : BY_COST);
  return inTime.length ? least(inTime, BY_COST) : least(points, BY_TIME);
}

// {points, choice, nearest, fastest, cheapest, byType}: `choice` is null where no point is within
// the limits; `nearest` is it, or the point that comes nearest.
function answerOf(q) {
  const byType = symbolsByType(q).map(([name, symbols]) => {
    const points = pointsOf(symbols, q.counts, name, q.fanIn);
    return { name, symbols, points, best: nearestOf(q, points) };
  });
  const points = byType.flatMap((type) => type.points), nearest = nearestOf(q, points);
  return {
    points,
    byType,
    nearest,
    choice: within(nearest.total, q.deadline) && within(nearest.cost, q.budget) ? nearest : null,
    fastest: least(points, BY_TIME),
    cheapest: least(points, BY_COST),
  };
}
