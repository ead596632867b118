// The live view of the engine, from its counters of this second and the one before.

const PERIOD_MS = 1000;
const BLOCK_STATES = [
  ["owned", "num_owned_blocks", "in use"],
  ["cached", "num_cached_blocks", "cached"],
  ["free", "num_free_blocks", "free"],
];
const TOTALS = [
  ["Finished", "num_finished"],
  ["Aborted", "num_aborted"],
  ["Failed", "num_failed"],
  ["Preemptions", "num_preemptions"],
];

class EngineView {
  // Calls `onDoubt` each time that the server may not be ready.
  constructor(root, onDoubt) {
    this.root = root;
    this.onDoubt = onDoubt;
    this.last = null;
    this.timer = null;
    this.generated = this.tile("Generated", "tok/s", ["main"]);
    this.prompts = this.tile("Prompts", "tok/s", ["second"]);
    this.requests = this.tile("Requests", "running", ["main", "third"]);
    this.prefixes = this.tile("Prefix hits", "of tokens", ["second"]);
    this.blocks = this.blockTile();
    this.totals = element("dl", {className: "totals"});
    this.reason = element("p", {className: "hint"});
    document.addEventListener("visibilitychange", () => this.poll());
  }

  tile(title, unit, names) {
    const value = element("b", {textContent: "–"});
    const note = element("span", {className: "note"});
    const chart = new Sparkline(`${title}, last minute`, names);
    const made = element("section", {className: "tile"}, element("h3", {textContent: title}),
      element("p", {}, value, element("span", {className: "unit", textContent: unit}), note), chart.element);
    return {element: made, chart, show(text, more, ...points) {
      value.textContent = text;
      note.textContent = more;
      chart.push(...points);
    }};
  }

  blockTile() {
    const value = element("b", {textContent: "–"});
    const bars = BLOCK_STATES.map(([name]) => drawn("rect", {class: `bar ${name}`, y: 0, height: 8}));
    const counts = BLOCK_STATES.map(([name, , what]) => {
      const count = element("b");
      return {count, item: element("li", {}, element("i", {className: `swatch ${name}`}), count, ` ${what}`)};
    });
    const bar = drawn("svg", {class: "blocks", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img",
      "aria-label": "KV cache blocks by state"}, ...bars);
    const made = element("section", {className: "tile wide"}, element("h3", {textContent: "KV cache"}),
      element("p", {}, value, element("span", {className: "unit", textContent: "blocks in use"})), bar,
      element("ul", {className: "legend"}, ...counts.map(each => each.item)));
    return {element: made, show(engine) {
      const total = BLOCK_STATES.reduce((sum, [, field]) => sum + engine[field], 0) || 1;
      value.textContent = `${amount(100 * engine.num_owned_blocks / total)} %`;
      let from = 0;
      BLOCK_STATES.forEach(([, field], index) => {
        const share = 100 * engine[field] / total;
        bars[index].setAttribute("x", from);
        bars[index].setAttribute("width", share);
        counts[index].count.textContent = amount(engine[field]);
        from += share;
      });
    }};
  }

  start() {
    if (this.timer === null) this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    let period = PERIOD_MS;
    try {
      const stats = await server.json("console/stats", {quiet: true});
      if (stats.available) this.show(stats);
      else this.explain(stats.reason);
      if (!stats.available) period = 60 * PERIOD_MS;
      else if (!stats.ready) this.onDoubt();
    } catch (error) {
      this.explain(error.message);
      period = 3 * PERIOD_MS;
      if (error.isServers) this.onDoubt();
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), period);
  }

  explain(reason) {
    this.last = null;
    this.reason.textContent = reason;
    if (!this.reason.isConnected) this.root.replaceChildren(this.reason);
  }

  show(stats) {
    const now = {at: performance.now(), engine: stats.engine};
    if (!this.generated.element.isConnected) {
      this.root.replaceChildren(this.generated.element, this.prompts.element, this.requests.element,
        this.prefixes.element, this.blocks.element, this.totals);
    }
    const last = this.last;
    this.last = now;
    // Counters that fell are those of an engine that was started again.
    if (!last || last.engine.num_steps > now.engine.num_steps) return;
    this.draw(now.engine, last.engine, (now.at - last.at) / 1000, stats);
  }

  draw(engine, before, seconds, stats) {
    const gained = field => engine[field] - before[field];
    const rate = field => gained(field) / seconds;
    const queried = gained("num_prefix_query_tokens");
    const hits = queried ? 100 * gained("num_prefix_hit_tokens") / queried : 0;
    const allHits = 100 * engine.num_prefix_hit_tokens / (engine.num_prefix_query_tokens || 1);
    this.generated.show(amount(rate("num_generated_tokens")), "", rate("num_generated_tokens"));
    this.prompts.show(amount(rate("num_prompt_tokens")), "", rate("num_prompt_tokens"));
    this.requests.show(amount(engine.num_running), `${amount(engine.num_waiting)} waiting`,
      engine.num_running, engine.num_waiting);
    this.prefixes.show(`${amount(allHits)} %`, "", hits);
    this.blocks.show(engine);
    this.totals.replaceChildren(...[
      ...TOTALS.map(([label, field]) => [label, amount(engine[field])]),
      ["Steps/s", amount(rate("num_steps"))],
      ["Restarts", amount(stats.num_engine_restarts)],
    ].map(([label, text]) => element("div", {}, element("dt", {textContent: label}), element("dd", {textContent: text}))));
  }
}
