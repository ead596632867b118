// The form of sampling values. An empty field sends nothing, so the server's default holds.

const CONTROLS = [
  {name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, contract: 1, hint: "0 always takes the likeliest token"},
  {name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, contract: 1, hint: "Keeps the likeliest tokens up to this share"},
  {name: "top_k", label: "Top k", min: 0, step: 1, contract: 0, hint: "Keeps this many tokens; 0 keeps all"},
  {name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, contract: 0, hint: "Drops tokens below this share of the best"},
  {name: "max_tokens", label: "Max tokens", min: 1, step: 1, standard: "what fits", hint: "Longest answer, reasoning included"},
  {name: "seed", label: "Seed", step: 1, standard: "random", hint: "Makes an answer repeatable"},
  {name: "repetition_penalty", label: "Repetition penalty", min: 0.05, max: 10, step: 0.05, contract: 1, hint: "Above 1: repeats less"},
  {name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, contract: 0, hint: "Against tokens that were used"},
  {name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, contract: 0, hint: "Against each use of a token"},
];
const SLID = ["temperature", "top_p", "min_p"];

class Sampling {
  constructor(form) {
    this.values = stored("pagewire.sampling", {});
    this.rows = CONTROLS.map(control => this.row(control));
    form.replaceChildren(...this.rows.map(row => row.element));
    this.system = byId("system");
    this.system.value = stored("pagewire.system", "");
    this.system.oninput = () => store("pagewire.system", this.system.value);
    this.setDefaults({});
  }

  // Shows the defaults of a model: its makers' where they gave any, else the contract's.
  setDefaults(model) {
    const given = model.default_sampling || {};
    for (const row of this.rows) {
      const {name, contract, standard} = row.control;
      row.standard = given[name] ?? contract;
      row.input.placeholder = String(row.standard ?? standard);
      if (name === "max_tokens" && model.max_model_len) row.input.max = model.max_model_len;
      this.show(row);
    }
  }

  // Returns the members of a request that were set by hand.
  members() {
    return {...this.values};
  }

  row(control) {
    const {name, label, min, max, step, hint} = control;
    const id = `sampling-${name}`;
    const bounds = Object.fromEntries(Object.entries({min, max, step}).filter(([, value]) => value !== undefined));
    const input = element("input", {type: "number", id, name, ...bounds, step: step < 1 ? "any" : step});
    input.setAttribute("aria-describedby", `${id}-hint`);
    const reset = iconButton("retry", `Set ${label} back to the default`, () => this.set(row, ""));
    const row = {control, input, reset, slider: null};
    const made = element("div", {className: "control"},
      element("label", {htmlFor: id, textContent: label}), reset, input);
    if (SLID.includes(name)) {
      row.slider = element("input", {type: "range", ...bounds, oninput: () => this.set(row, row.slider.value)});
      row.slider.setAttribute("aria-label", `${label}, slider`);
      made.append(row.slider);
    }
    made.append(element("p", {id: `${id}-hint`, className: "hint", textContent: hint}));
    input.oninput = () => this.set(row, input.value);
    row.element = made;
    return row;
  }

  set(row, text) {
    const value = Number(text);
    if (text === "" || !Number.isFinite(value)) delete this.values[row.control.name];
    else this.values[row.control.name] = value;
    store("pagewire.sampling", this.values);
    this.show(row);
  }

  // A field in use is its user's to write: a lone minus, say, is no value yet.
  show(row) {
    const value = this.values[row.control.name];
    const inUse = document.activeElement;
    if (row.input !== inUse) row.input.value = value ?? "";
    if (row.slider && row.slider !== inUse) row.slider.value = value ?? row.standard;
    row.reset.hidden = value === undefined;
    row.input.setAttribute("aria-invalid", String(!row.input.checkValidity()));
  }
}
