// Who sends to whom in a reduction, and which partitions each worker has.

const NODE = { width: 44, height: 26, across: 54, down: 64 };

function workersView({ count, where, parents, homes }) {
  return element("div", {},
    element("p", {}, `${count} ${count === 1 ? "worker" : "workers"}: ${where}.`),
    element("h2", {}, "Aggregation tree"),
    element("p", { class: "soft" }, "Partial results of a reduction go from rank to rank, and from"
      + " rank 0 to the driver; a stage that says “flat” sends them all at once. The order of"
      + " additions is the same in either case."),
    element("div", { class: "scroll" }, treePicture(parents, homes)),
    homes.length ? element("h2", {}, "Homes of partitions") : null,
    homes.map((home) => [
      element("p", {}, element("span", { class: "code" }, home.table),
        ` ${home.partitions} ${home.partitions === 1 ? "partition" : "partitions"}`),
      homeStrip(home)]));
}

function partitionsText([start, stop]) {
  if (stop <= start) return "none";
  return stop === start + 1 ? String(start) : `${start}–${stop - 1}`;
}

// Places of the driver (-1) and the ranks: children side by side, each parent above their middle.
function treePlaces(parents) {
  const children = new Map([[-1, []]]);
  parents.forEach((_, rank) => children.set(rank, []));
  parents.forEach((parent, rank) => children.get(parent === null ? -1 : parent).push(rank));
  const places = new Map();
  let wide = 0, deep = 0;
  const stack = [[-1, 0, false]];
  while (stack.length) {
    const [rank, level, placed] = stack.pop(), own = children.get(rank);
    deep = Math.max(deep, level);
    if (!own.length) {
      places.set(rank, { x: wide++, level });
    } else if (placed) {
      const at = own.map((child) => places.get(child).x);
      places.set(rank, { x: (Math.min(...at) + Math.max(...at)) / 2, level });
    } else {
      stack.push([rank, level, true]);
      for (let i = own.length - 1; i >= 0; i--) stack.push([own[i], level + 1, false]);
    }
  }
  return { places, wide, deep };
}

function treePicture(parents, homes) {
  const { places, wide, deep } = treePlaces(parents);
  const width = Math.max(wide, 2) * NODE.across + 20, height = deep * NODE.down + NODE.height + 20;
  const x = (rank) => 10 + (places.get(rank).x + 0.5) * NODE.across;
  const y = (rank) => 10 + places.get(rank).level * NODE.down;
  const edges = [], nodes = [];
  for (const rank of places.keys()) {
    const parent = rank < 0 ? null : parents[rank] === null ? -1 : parents[rank];
    if (parent !== null) {
      const [x0, y0, x1, y1] = [x(rank), y(rank), x(parent), y(parent) + NODE.height];
      const middle = (y0 + y1) / 2;
      edges.push(svg("path", { class: "edge",
        d: `M${x0},${y0} C${x0},${middle} ${x1},${middle} ${x1},${y1}` }));
    }
    const tip = rank < 0 ? "the driver" : [
      `rank ${rank} sends to ${parent < 0 ? "the driver" : `rank ${parent}`}`,
      ...homes.map((h) => `${h.table}: partitions ${partitionsText(h.ranges[rank])}`)].join("\n");
    nodes.push(svg("g", { class: "hit", tabindex: "0", role: "img", "data-tip": tip,
      "aria-label": tip },
    svg("rect", { class: "node", x: x(rank) - NODE.width / 2, y: y(rank), width: NODE.width,
      height: NODE.height, rx: rank < 0 ? 3 : 13 }),
    svg("text", { x: x(rank), y: y(rank) + 17, "text-anchor": "middle" },
      rank < 0 ? "driver" : rank)));
  }
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
    "aria-label": "Aggregation tree" }, edges, nodes);
}

function homeStrip(home) {
  const has = home.ranges.map((range, rank) => ({ range, rank }))
    .filter(({ range }) => range[1] > range[0]);
  const idle = home.ranges.length - has.length;
  return [element("div", { class: "homes" }, has.map(({ range, rank }) => {
    const tip = `rank ${rank}: partitions ${partitionsText(range)}`;
    const made = element("div", { class: "hit", tabindex: "0", role: "img", "data-tip": tip,
      "aria-label": tip }, rank);
    made.style.setProperty("--many", range[1] - range[0]);
    return made;
  })), idle ? element("p", { class: "soft" }, `${idle} of ${home.ranges.length} have none`) : null];
}
