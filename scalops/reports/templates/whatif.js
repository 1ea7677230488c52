// The page: what is asked, and all that follows from it whenever a slider or a field changes.

const FAN_INS = [...["best", "2", "3", "4", "8"].map((f) => [f, f]), ["e", "e, the closed form"]];
const FLIPS_WAIT = 60;  // milliseconds without a change until flip points are looked for
const MOST_FLIPPED = 20000;  // machine counts of all types

class WhatIfPage {
  constructor(data) {
    this.data = data;
    this.catalog = data.question.catalog;
    this.places = Object.fromEntries(["answer", "remarks", "controls", "time", "cost",
      "table", "flips", "more"].map((id) => [id, document.getElementById(id)]));
    this.first = this.asked();
    this.state = this.asked();
    this.showFlips = {};
    this.build();
    this.update();
    new ResizeObserver(() => this.resize()).observe(this.places.time);
    window.addEventListener("beforeprint", () => this.follow());
  }

  // What the document asks.
  asked() {
    const q = this.data.question, [low, high] = q.machine_range;
    const symbols = Object.fromEntries(SYMBOLS.map((name) => {
      const { value } = q.symbols[name];
      return [name, name === "cache" && value === null ? Infinity : value];
    }));
    const machines = q.machines ? q.machines.join(",")
      : low === high ? `${low}` : `${low}..${high}`;
    return { symbols, machines, counts: readMachines(machines), objective: q.objective,
      deadline: q.deadline, budget: q.budget, fanIn: "best", type: "" };
  }

  build() {
    const { symbols } = this.data.question;
    this.sliders = Object.fromEntries(SYMBOLS
      .filter((name) => !(this.catalog && name === "price"))
      .map((name) => [name, new SymbolSlider(name, this.first.symbols[name], symbols[name],
        (_, value) => this.set({ symbols: { ...this.state.symbols, [name]: value } }))]));
    this.fields = Object.fromEntries(["machines", "deadline", "budget"].map((name) =>
      [name, this.textField(name)]));
    this.places.controls.replaceChildren(
      element("fieldset", {}, element("legend", {}, "Constants"),
        Object.values(this.sliders).map((slider) => slider.row)),
      element("fieldset", { class: "wanted" }, element("legend", {}, "Decision"),
        this.objectives(), Object.values(this.fields).map((field) => field.row),
        this.choiceOf("fanIn", "fan-in", FAN_INS), this.catalog ? this.choiceOf("type",
          "machine type", [["", "any"], ...this.catalog.types.map((t) =>
            [t.name, t.price === null ? t.name : `${t.name}, ${t.price}/h`])]) : null),
      element("div", { class: "buttons" },
        element("button", { type: "button", id: "reset", onclick: () => this.reset() }, "Reset"),
        element("button", { type: "button", id: "copy", onclick: () => this.copy() },
          "Copy as command line")),
      this.copied = element("p", { class: "soft", role: "status", id: "copied" }));
    this.places.controls.addEventListener("submit", (event) => event.preventDefault());
    this.command = element("code", { id: "command", tabindex: 0, "aria-label": "command" });
    this.places.more.replaceChildren(element("h2", {}, "As a command"),
      this.command, this.commandNote = element("p", { class: "soft" }),
      sweepTable(this.data), programText(this.data.question.program) || "");
  }

  objectives() {
    const radio = (value, word) => element("label", {}, element("input", { type: "radio",
      name: "objective", value, checked: this.state.objective === value,
      onchange: () => this.set({ objective: value }) }), word);
    this.goalNote = element("p", { class: "soft note" });
    return [element("div", { class: "choice", role: "radiogroup", "aria-label": "objective" },
      element("span", {}, "least"), radio("time", "time"), radio("cost", "cost")), this.goalNote];
  }

  textField(name) {
    const text = () => this.state[name] === null ? ""
      : name === "machines" ? this.state.machines : exactText(this.state[name]);
    const says = element("span", { class: "off says", id: `says-${name}`, role: "status" });
    const expected = { machines: `expected counts up to ${countText(MOST_MACHINES)}, as in 1..500`
      + " or 1,2,4,8", deadline: "expected seconds, or a time such as 2h",
    budget: "expected an amount, above 0" };
    // The part of the state that is typed, and null where it is not understood.
    const read = () => {
      const counts = name === "machines" ? readMachines(input.value) : null;
      if (name === "machines") return counts && { machines: input.value.trim(), counts };
      const value = readNumber(name, input.value);
      return Number.isNaN(value) ? null : { [name]: value };
    };
    let kept = null;
    const keep = () => {
      kept = read() || kept;
    };
    const input = element("input", { type: "text", id: `field-${name}`, value: text(),
      spellcheck: "false", autocomplete: "off", "aria-describedby": `says-${name}`,
      placeholder: "none", onfocus: keep, onchange: keep, oninput: () => {
        const found = read();
        input.setAttribute("aria-invalid", found === null);
        says.textContent = found === null ? expected[name] : "";
        this.set(found || kept);
      } });
    const show = () => {
      input.value = text();
      input.setAttribute("aria-invalid", false);
      says.textContent = "";
    };
    return { show, row: element("div", { class: "choice" },
      element("label", { for: `field-${name}` }, name === "deadline" ? "deadline, s" : name), input,
      says) };
  }

  // `options`: [value, text], the one to begin with first.
  choiceOf(key, word, options) {
    const select = element("select", { id: `field-${key}`, onchange: () =>
      this.set({ [key]: select.value }) }, options.map(([value, text]) =>
      element("option", { value }, text)));
    return element("div", { class: "choice" },
      element("label", { for: `field-${key}` }, word), select);
  }

  set(change) {
    Object.assign(this.state, change);
    this.update();
  }

  reset() {
    this.state = this.asked();
    for (const slider of Object.values(this.sliders)) slider.reset();
    for (const field of Object.values(this.fields)) field.show();
    for (const radio of this.places.controls.querySelectorAll("[name=objective]")) {
      radio.checked = radio.value === this.state.objective;
    }
    for (const select of this.places.controls.querySelectorAll("select")) select.selectedIndex = 0;
    this.update();
  }

  question(state) {
    const types = this.catalog && this.catalog.types.filter((t) =>
      state.type === "" || t.name === state.type);
    return { symbols: state.symbols, counts: state.counts, fanIn: state.fanIn,
      objective: state.objective, deadline: state.deadline, budget: state.budget, types,
      reference: this.catalog && this.catalog.reference_type };
  }

  // All that a change shows at once; flip points follow when there has been none for a while.
  update() {
    const question = this.question(this.state), answer = answerOf(question);
    const shown = answer.byType.find((type) => type.name === answer.nearest.type);
    this.view = { question, answer, shown, before: this.before(shown),
      isMoney: answer.nearest.money !== null };
    this.places.answer.replaceChildren(...recommendation(this.view).filter(Boolean));
    this.places.remarks.replaceChildren(...remarks(this.view));
    this.places.table.replaceChildren(...machinesTable(this.view).flat().filter(Boolean));
    this.command.textContent = commandText(this.state, this.catalog);
    this.commandNote.textContent = this.commandRemark();
    this.copied.textContent = "";
    this.goalNote.textContent = (question.deadline === null) === (question.budget === null) ? ""
      : `With ${question.budget === null ? "a deadline" : "a budget"} alone the`
        + ` ${minimised(question) === "time" ? "fastest" : "cheapest"} within it is wanted.`;
    this.draw();
    this.places.flips.setAttribute("aria-busy", "true");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.follow(), FLIPS_WAIT);
  }

  // The points of the first question, of the type shown; null if they are the same.
  before(shown) {
    const key = ({ symbols, fanIn, type }) => JSON.stringify([SYMBOLS.map((n) =>
      String(symbols[n])), fanIn, type]);
    if (key(this.state) === key(this.first)) return null;
    if (!this.firstAnswer || this.firstCounts !== this.state.counts) {
      this.firstCounts = this.state.counts;
      this.firstAnswer = answerOf({ ...this.question(this.first), counts: this.firstCounts });
    }
    const own = this.firstAnswer.byType.find((type) => type.name === shown.name);
    return own ? own.points : null;
  }

  commandRemark() {
    const notes = [];
    if (this.state.fanIn !== "best") notes.push("The command takes the best of all trees.");
    if (this.state.type) notes.push("It compares all types of the catalog.");
    return notes.join(" ");
  }

  draw() {
    clearTimeout(this.timer);
    // One width for both: a machine count is above itself. A scroll bar may come as they are drawn.
    this.width = this.places.time.clientWidth;
    const width = Math.max(300, Math.floor(this.width));
    for (const [id, made] of [["time", timeChart], ["cost", costChart]]) {
      const place = this.places[id];
      const drawn = made(this.view, width);
      place.replaceChildren(element("h2", {}, id === "time" ? "Seconds of an iteration"
        : "Cost of all iterations"), drawn.figure);
      this.showFlips[id] = drawn.showFlips;
    }
  }

  resize() {
    if (this.width === this.places.time.clientWidth) return;
    this.draw();
    this.follow();
  }

  follow() {
    clearTimeout(this.timer);
    const { question, answer } = this.view, place = this.places.flips;
    const isFew = answer.points.length <= MOST_FLIPPED, isBest = this.state.fanIn === "best";
    if (isFew && isBest) {
      const all = new Flips(question, answer).all(), first = all.find(isFirstLoad);
      const flips = all.filter((flip) => flip !== first);
      place.replaceChildren(...flipsTable(flips, answer.choice !== null),
        first ? firstLoadText(question) : "");
      for (const flip of flips) {
        if (this.sliders[flip.symbol]) this.sliders[flip.symbol].mark(flip);
      }
      if (first) this.sliders.iterations.mark(null);
      for (const show of Object.values(this.showFlips)) show(flips);
    } else {
      for (const slider of Object.values(this.sliders)) slider.mark(null);
      place.replaceChildren(element("p", { class: "soft" }, isBest
        ? "Flip points of so many machine counts are printed by the command."
        : "Flip points are those of the best trees: choose them as fan-in."));
    }
    place.setAttribute("aria-busy", "false");
  }

  async copy() {
    const text = this.command.textContent;
    try {
      await navigator.clipboard.writeText(text);
      this.copied.textContent = "Copied.";
    } catch {  // no clipboard without a permission: the command is selected instead
      window.getSelection().selectAllChildren(this.command);
      this.copied.textContent = "The command is below, selected: copy it from there.";
    }
  }
}

function programText(program) {
  if (!program) return null;
  const others = program.other_loops.length
    ? ` Other loops of it: ${program.other_loops.join(", ")}.` : "";
  return element("p", { class: "soft" }, `The constants of ${program.loop} were measured in`
    + ` ${countText(program.runs)} short runs (${secondsText(program.seconds)}) on samples of`
    + ` ${program.table}, which has ${countText(program.records)} records. A machine is`
    + ` ${program.threads} ${program.threads === 1 ? "thread" : "threads"} of that one.${others}`);
}

// What the document says of a sweep: it was made with the first constants.
function sweepTable({ sweep, question }) {
  if (!sweep) return "";
  const isMoney = sweep.points.some((p) => p.fastest.money !== null);
  const shown = (p) => p === null ? "none" : typedText({ machines: p.machines,
    type: p.machine_type });
  const cost = (p) => p === null ? "" : costText(isMoney ? p.money : p.machine_seconds, isMoney);
  const names = [sweep.name, "best", "per iteration", "in all", costWord(isMoney), "fastest",
    "cheapest"];
  const look = (i) => i !== 1 && i < 5 ? "number" : null;
  const valueText = (v) => Object.hasOwn(question.symbols, sweep.name)
    ? symbolText(sweep.name, v === null ? Infinity : v)
    : sweep.name === "deadline" ? secondsText(v) : costText(v, isMoney);
  return element("div", {}, element("h2", {}, `Sweep of ${sweep.name}, by the first constants`),
    element("div", { class: "scroll" }, element("table", {},
      element("tr", {}, names.map((name, i) => element("th", { class: look(i) }, name))),
      sweep.points.map(({ value, choice, fastest, cheapest }) => element("tr", {},
        [valueText(value), shown(choice), choice ? secondsText(choice.seconds) : "",
          choice ? secondsText(choice.total_seconds) : "", cost(choice), shown(fastest),
          shown(cheapest)].map((text, i) => element("td", { class: look(i) }, text)))))));
}

new WhatIfPage(DATA);
