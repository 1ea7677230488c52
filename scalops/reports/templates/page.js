// What every page has: its data, tabs, and tooltips of elements with a data-tip.

const DATA = JSON.parse(document.getElementById("data").textContent);

// Tabs: [{name, title, build() -> element}]; a panel is built when it is first shown. `first` names
// the one to begin with.
function tabs(list, where, first) {
  const row = element("div", { role: "tablist", "aria-label": "Views" });
  const buttons = list.map((tab) => element("button", {
    role: "tab", id: `tab-${tab.name}`, "aria-controls": `panel-${tab.name}`,
    onclick: () => show(tab.name),
  }, tab.title));
  const panels = list.map((tab) => element("section", {
    role: "tabpanel", id: `panel-${tab.name}`, "aria-labelledby": `tab-${tab.name}`,
    "data-title": tab.title, hidden: true,
  }));
  function show(name) {
    list.forEach((tab, i) => {
      const on = tab.name === name;
      buttons[i].setAttribute("aria-selected", on);
      buttons[i].tabIndex = on ? 0 : -1;
      panels[i].hidden = !on;
      if (on) build(i);
    });
  }
  function build(i) {
    if (!panels[i].childElementCount) panels[i].append(list[i].build());
  }
  row.addEventListener("keydown", (event) => {
    const to = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (to === undefined || at < 0) return;
    const next = Number.isFinite(to) ? (at + to + list.length) % list.length
      : to < 0 ? 0 : list.length - 1;
    show(list[next].name);
    buttons[next].focus();
    event.preventDefault();
  });
  window.addEventListener("beforeprint", () => list.forEach((_, i) => build(i)));
  row.append(...buttons);
  if (list.length < 2) row.hidden = true;
  where.append(row, ...panels);
  if (list.length) show(first || list[0].name);
  return show;
}

// One tooltip for all: shown by the pointer and by the keyboard's focus, hidden by Escape.
(() => {
  const tip = element("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  function place(x, y) {
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(x + 14, window.innerWidth - width - 6);
    const top = y + 18 + height > window.innerHeight ? y - height - 10 : y + 18;
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${Math.max(6, top)}px`;
  }
  function show(target, x, y) {
    tip.textContent = target.getAttribute("data-tip");
    tip.hidden = false;
    place(x, y);
  }
  const tipped = (event) => event.target.closest ? event.target.closest("[data-tip]") : null;
  document.addEventListener("pointermove", (event) => {
    const target = tipped(event);
    if (target) show(target, event.clientX, event.clientY); else tip.hidden = true;
  });
  document.addEventListener("focusin", (event) => {
    const target = tipped(event);
    if (!target || !target.matches(":focus-visible")) return;
    const at = target.getBoundingClientRect();
    show(target, at.left, at.bottom - 14);
  });
  document.addEventListener("focusout", () => { tip.hidden = true; });
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });
})();
