// A slider and a field for one symbol. Steps are even on a logarithmic scale, 50 to a decade; at
// the left end stands 0 (no price) where a symbol may be that, at the right end a cache that holds
// all. Below the track are marks: the value that the page began with and its spread, and the values
// at which the decision flips.

const STEPS = 50;
const DEFAULTS = { records: 1e6, map: 1e-6, load: 1e-6, cache: 1e6, aggregate: 0.01,
  broadcast: 0.01, level: 0.01, iterations: 100, price: 1 };  // where sliders of 0 are centred

class SymbolSlider {
  // `constant`: {letter, unit, about, provenance, spread} of the document; `changed(name, value)`.
  constructor(name, value, constant, changed) {
    Object.assign(this, { name, constant, initial: value, value });
    this.hasNought = !["records", "cache", "iterations"].includes(name);
    this.input = element("input", { type: "range", id: `slide-${name}`, min: 0, step: 1,
      "aria-label": `${name}: ${constant.about}`, oninput: () => {
        this.show(this.valueAt(Number(this.input.value)), "field");
        changed(name, this.value);
      } });
    this.field = element("input", { type: "text", id: `field-${name}`, size: 9, spellcheck: "false",
      autocomplete: "off", inputmode: "text", "aria-describedby": `says-${name}`,
      onfocus: () => this.isRead() && (this.kept = this.value),
      oninput: () => {
        const read = this.isRead() ? readNumber(name, this.field.value) : this.kept;
        this.show(read, "slider");
        this.tell();
        changed(name, read);
      },
      onchange: () => {
        if (!this.isRead()) return;
        this.kept = this.value;
        this.show(this.value, "both");
      } });
    this.says = element("span", { class: "off says", id: `says-${name}`, role: "status" });
    this.marks = element("div", { class: "marks", "aria-hidden": "true" });
    this.row = this.laidOut();
    this.show(value, "both");
  }

  laidOut() {
    const { letter, unit, about } = this.constant;
    this.known = element("span", { class: "soft known" });
    return element("div", { class: "symbol" },
      element("label", { for: `field-${this.name}`, "data-tip": `${unit} ${about}`.trim() },
        element("b", {}, letter), letter === this.name ? "" : ` ${this.name}`),
      this.known,
      element("span", { class: "entry" }, this.field,
        element("span", { class: "soft unit" }, unit)),
      element("div", { class: "track" }, this.input, this.marks), this.says);
  }

  isRead() {
    return !Number.isNaN(readNumber(this.name, this.field.value));
  }

  // What is typed and not understood stays, and is told; the value is that from before.
  tell() {
    const isRead = this.isRead();
    this.field.setAttribute("aria-invalid", !isRead);
    this.says.textContent = isRead ? "" : this.expected();
  }

  expected() {
    const [least, most] = BOUNDS[this.name].map(exactText), ends = `${least} to ${most}`;
    if (this.name === "price") return `expected a price, ${ends}, or nothing`;
    if (this.name === "iterations") return `expected a number, ${ends}`;
    return ["records", "cache"].includes(this.name)
      ? `expected a number such as 1e8 or 100M, ${ends}`
      : `expected seconds, or a time such as 10us, 0 or ${ends}`;
  }

  reset() {
    this.from = this.to = undefined;
    this.show(this.initial, "both");
  }

  // The slider reaches from two decades below the first value to three above; further values widen
  // it.
  reach(value) {
    const near = value > 0 && value < Infinity ? value : DEFAULTS[this.name];
    const at = Math.log10(near), decade = Math.floor(at);
    const [least, most] = BOUNDS[this.name].map((end) => Math.round(Math.log10(end)));
    this.from = Math.max(least, Math.min(this.from ?? decade - 2, decade));
    this.to = Math.min(most, Math.max(this.to ?? decade + 3, Math.ceil(at)));
    if (this.name === "iterations") this.from = 0;
    this.steps = (this.to - this.from) * STEPS + (this.hasNought || this.name === "cache" ? 1 : 0);
    this.input.max = this.steps;
  }

  valueAt(step) {
    if (this.hasNought && step === 0) return this.name === "price" ? null : 0;
    if (this.name === "cache" && step === this.steps) return Infinity;
    const at = this.from + (step - (this.hasNought ? 1 : 0)) / STEPS;
    return Number((10 ** at).toPrecision(3));
  }

  // Which part of the way a value stands at; beyond the ends it is at them.
  placeOf(value) {
    if (!(value > 0)) return 0;
    if (value === Infinity) return 1;
    const step = (Math.log10(value) - this.from) * STEPS + (this.hasNought ? 1 : 0);
    return Math.min(1, Math.max(0, step / this.steps));
  }

  show(value, where) {
    this.value = value;
    this.reach(this.initial);
    this.reach(value);
    if (where !== "field") this.input.value = Math.round(this.placeOf(value) * this.steps);
    if (where !== "slider") {
      this.field.value = roundText(value);
      this.tell();
    }
    const text = value === null ? "no price" : symbolText(this.name, value);
    this.input.setAttribute("aria-valuetext", text);
    const { provenance, spread } = this.constant;
    this.known.textContent = value !== this.initial ? "changed"
      : spread ? `${provenance} ±${percentText(spread).replace(" ", "\u00a0")}` : provenance;
    this.mark(null);
  }

  // Marks of the first value, of its spread, and of a flip (null where it is not known yet).
  mark(flip) {
    const { spread } = this.constant, { initial } = this;
    const at = (value, name, tip) => {
      const made = element("span", { class: name, "data-tip": tip });
      made.style.setProperty("--at", this.placeOf(value));
      return made;
    };
    const band = spread && initial > 0 ? at(initial * Math.max(0, 1 - spread), "band",
      `±${percentText(spread)}, by what was measured`) : null;
    if (band) band.style.setProperty("--to", this.placeOf(initial * (1 + spread)));
    const changes = flip ? [flip.below, flip.above].filter(Boolean) : [];
    this.marks.replaceChildren(...[band,
      initial === null ? null : at(initial, "first", `at first: ${symbolText(this.name, initial)}`),
      ...changes.map((change) => at(change.value, "flip", flipText(this.name, change)))]
      .filter(Boolean));
  }
}

// "aggregate 0.25 s (× 0.5): 162 machines"
function flipText(name, { value, factor, machines, type }) {
  const times = factor === null ? "" : ` (× ${digits(factor)})`;
  const to = machines === null ? "no number is within the limits" : typedText({ machines, type });
  return `${name} ${symbolText(name, value)}${times}: ${to}`;
}
