// What was measured while the plan ran: iterations over time, and what the time went to.

const PARTS = ["load", "map", "aggregate", "broadcast", "update", "wait"];
const PART_WORDS = {
  load: "reading and decoding sources, and what memory does not hold made again",
  map: "computing blocks",
  aggregate: "combining partial results",
  broadcast: "values bound and sent to where they are read",
  update: "the driver's expressions",
  wait: "nothing was computed for this plan",
};
const MOST_COLUMNS = 240;  // of a chart; of more iterations each column is the mean of several

const partsOf = (parts) => PARTS.map((name) => parts[name] || 0);
const sum = (values) => values.reduce((a, b) => a + b, 0);

function iterationsView(profile) {
  const place = profile.workers ? `on ${profile.workers} workers` : "in this process";
  const lost = profile.lost && profile.lost.length
    ? `; lost: ${profile.lost.join(", ")}, what these measured last is missing` : "";
  const began = profile.start_seconds
    ? `, of which ${secondsText(profile.start_seconds)} until they began` : "";
  return element("div", {},
    element("p", {}, `It took ${secondsText(profile.total_seconds)} ${place}${began}${lost}.`),
    element("h2", {}, "Where the time went"),
    whereTheTimeWent(profile),
    profile.loops.map(loopView),
    profile.caches && profile.caches.length ? cachesView(profile.caches) : null,
    movedView(profile));
}

function whereTheTimeWent(profile) {
  const rows = profile.loops.map((loop) => [loopTitle(loop), loop.parts]);
  if (profile.once) rows.push(["outside of loops", profile.once]);
  if (rows.length > 1) rows.push(["all", profile.parts]);
  return element("div", { class: "scroll" }, element("table", {},
    element("tr", {}, element("th", {}, ""), PARTS.map((name) =>
      element("th", { class: "number", "data-tip": PART_WORDS[name] }, name)),
    element("th", { class: "number" }, "seconds")),
    rows.map(([title, parts]) => {
      const values = partsOf(parts), total = sum(values);
      return element("tr", {}, element("th", {}, title), values.map((v) =>
        element("td", { class: "number" }, secondsText(v),
          element("span", { class: "soft" }, total ? ` ${Math.round((100 * v) / total)} %` : ""))),
      element("td", { class: "number" }, secondsText(total)));
    })));
}

const loopTitle = (loop) => `loop ${loop.index + 1}${loop.name ? ` ${loop.name}` : ""}`;

function loopView(loop) {
  const { median, low, high, first, slowest, slowest_at: at } = loop.seconds;
  const many = loop.iterations;
  const words = many === 1 ? `one iteration of ${secondsText(first)}` : `${many} iterations: the`
    + ` first ${secondsText(first)}, later ones ${secondsText(median)} (median; half of them`
    + ` between ${secondsText(low)} and ${secondsText(high)}), the slowest ${secondsText(slowest)}`
    + ` (number ${at + 1})`;
  return [element("h2", {}, loopTitle(loop)), element("p", {}, many ? `${words}.` : "It ended before"
    + " the first iteration."), loop.timeline.length ? timeline(loop) : null];
}

function timeline(loop) {
  const step = Math.ceil(loop.timeline.length / MOST_COLUMNS);
  const columns = [];
  for (let i = 0; i < loop.timeline.length; i += step) {
    const own = loop.timeline.slice(i, i + step);
    const values = PARTS.map((_, p) => sum(own.map((it) => partsOf(it.parts)[p])) / own.length);
    const from = own[0].number + 1, to = own[own.length - 1].number + 1;
    const title = from === to ? `iteration ${from}` : `iterations ${from} to ${to}, on the average`;
    const lines = PARTS.map((name, p) => [name, values[p]]).filter(([, v]) => v > 0)
      .map(([name, v]) => `${name}: ${secondsText(v)}`);
    columns.push({ label: String(from), values,
      tip: [`${title}: ${secondsText(sum(values))}`, ...lines].join("\n") });
  }
  return stackedColumns({ columns, names: PARTS, text: secondsText, xLabel: "iteration",
    yLabel: "seconds per iteration" });
}

function cachesView(caches) {
  return [element("h2", {}, "Caches"), element("div", { class: "scroll" }, element("table", {},
    element("tr", {}, ["table", "partitions held", "bytes", "read from memory", "in a cache file",
      "read from it", "made again"]
      .map((name, i) => element("th", { class: i ? "number" : null }, name))),
    caches.map((c) => element("tr", {}, element("th", {}, `t${c.table}`),
      [`${c.held} of ${c.partitions}`, bytesText(c.bytes), countText(c.hits),
        bytesText(c.file_bytes || 0), countText(c.file_reads || 0), countText(c.again)]
        .map((text) => element("td", { class: "number" }, text))))))];
}

function movedView(profile) {
  const rows = [];
  if (profile.moved && profile.moved.total) {
    const { to_workers: down, to_driver: up, between_workers: across } = profile.moved;
    rows.push(["sent to workers", down], ["sent to the driver", up],
      ["sent between workers", across]);
  }
  if (profile.peak_bytes) rows.push(["held at most", profile.peak_bytes]);
  if (profile.spilled_bytes) rows.push(["written to disk for want of memory", profile.spilled_bytes]);
  if (!rows.length) return null;
  return [element("h2", {}, "Bytes"), element("table", {}, rows.map(([name, bytes]) =>
    element("tr", {}, element("th", {}, name),
      element("td", { class: "number" }, bytesText(bytes)))))];
}
