// One answer while it comes, and what it took.

class Generation {
  // Calls `onBegin` once, as the first of the answer comes, and `onUpdate` as it is to be drawn.
  constructor(message, onBegin, onUpdate) {
    this.message = message;
    this.onBegin = onBegin;
    this.onUpdate = onUpdate;
    this.controller = new AbortController();
    this.usage = null;
    this.startedAt = null;
    this.firstAt = null;
    this.lastAt = null;
    this.numAtFirst = 0;
    this.isDrawn = true;
  }

  stop() {
    this.message.stopped = true;
    this.controller.abort();
  }

  // Ends when the answer has; a failure is written into the message and returned.
  async run(body) {
    const streamed = {...body, stream: true, stream_options: {include_usage: true, continuous_usage_stats: true}};
    const options = {body: streamed, signal: this.controller.signal, onSend: () => { this.startedAt = performance.now(); }};
    let failure = null;
    try {
      for await (const chunk of server.events("v1/chat/completions", options)) this.take(chunk);
    } catch (error) {
      if (error.name !== "AbortError") {
        failure = error;
        this.message.error = error.message;
      }
    }
    this.message.facts = this.facts();
    return failure;
  }

  take({choices: [choice], usage}) {
    if (usage) this.usage = usage;
    if (choice) {
      const {content, reasoning_content: reasoning, tool_calls: calls} = choice.delta;
      if (content || reasoning) this.measure();
      if (content) this.message.content += content;
      if (reasoning) this.message.reasoning = (this.message.reasoning || "") + reasoning;
      if (calls) this.message.content += calls.map(call => call.function.arguments || "").join("");
      if (choice.finish_reason) this.finish = choice.finish_reason;
    }
    this.draw();
  }

  measure() {
    this.lastAt = performance.now();
    if (this.firstAt !== null) return;
    this.firstAt = this.lastAt;
    this.numAtFirst = this.usage ? this.usage.completion_tokens : 1;
    this.onBegin();
  }

  // At most once a frame, however fast the tokens come.
  draw() {
    if (!this.isDrawn) return;
    this.isDrawn = false;
    requestAnimationFrame(() => {
      this.isDrawn = true;
      this.message.facts = this.facts();
      this.onUpdate();
    });
  }

  facts() {
    if (this.firstAt === null) return null;
    const numTokens = this.usage ? this.usage.completion_tokens : 0;
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return {
      ttft: this.firstAt - this.startedAt,
      rate: seconds > 0 ? (numTokens - this.numAtFirst) / seconds : null,
      numTokens,
      numPromptTokens: this.usage ? this.usage.prompt_tokens : 0,
      numCachedTokens: this.usage ? this.usage.prompt_tokens_details.cached_tokens : 0,
      finish: this.finish,
    };
  }
}
