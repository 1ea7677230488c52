// What each rule of the optimizer did: the plan before and after it.

function traceView(firings) {
  const phases = new Map();
  for (const firing of firings) {
    if (!phases.has(firing.phase)) phases.set(firing.phase, []);
    phases.get(firing.phase).push(firing);
  }
  const parts = [element("p", {}, firings.length
    ? "The rules that changed the plan, in order, each with the part that it changed."
    : "No rule changed this plan.")];
  for (const [phase, own] of phases) {
    parts.push(element("h2", {}, phase), own.map((firing) => {
      const sides = element("div", { class: "sides" });
      const box = element("details", { class: "firing", ontoggle: show },
        element("summary", { class: "code" }, firing.rule), sides);
      function show() {
        if (sides.childElementCount) return;
        sides.append(side("before", firing.before), side("after", firing.after));
      }
      window.addEventListener("beforeprint", () => { show(); box.open = true; });
      return box;
    }));
  }
  return element("div", {}, parts);
}

function side(name, root) {
  return element("div", {}, element("h3", {}, name), element("div", { class: "tree-lines" },
    linesOf(root).flatMap(({ node, level }) => {
      const own = plainLine(node.title, level - 1);
      if (node.location) own.append(element("span", { class: "soft" }, `  ${node.location}`));
      const details = (node.details || []).map((d) => {
        const made = plainLine(`· ${d.label}  ${d.text}`, level);
        made.classList.add("soft");
        return made;
      });
      return [own, ...details];
    })));
}

function plainLine(text, depth) {
  const made = element("div", { class: "plain" }, text);
  made.style.setProperty("--depth", Math.min(depth, 24));
  return made;
}
