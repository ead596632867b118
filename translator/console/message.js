// One message of a conversation on the page.

const FINISHES = {stop: "", length: "cut at max tokens", tool_calls: "asked for a tool"};

class MessageView {
  // `actions` has onEdit(text) for what a person said, onRetry() for an answer.
  constructor(message, actions) {
    this.message = message;
    this.isAnswer = message.role === "assistant";
    this.body = element("div", {className: "body"});
    this.facts = element("p", {className: "facts"});
    this.tools = element("div", {className: "tools"}, ...this.buttons(actions));
    this.element = element("article", {className: `message ${message.role}`}, this.body,
      element("footer", {}, this.tools, this.facts));
    this.element.setAttribute("aria-label", this.isAnswer ? `Answer of ${message.model}` : "You");
    this.element.prepend(element("p", {className: "who", textContent: this.isAnswer ? message.model : "You"}));
    this.update(false);
  }

  buttons({onEdit, onRetry}) {
    const copy = iconButton("copy", "Copy the message", () => copyText(this.message.content, copy));
    if (this.isAnswer) return [copy, iconButton("retry", "Answer again", onRetry)];
    return [copy, iconButton("edit", "Edit and send again", () => this.edit(onEdit))];
  }

  // Draws the message as it is now; `isRunning` while more of it comes.
  update(isRunning) {
    const {content, reasoning, error, stopped} = this.message;
    this.element.setAttribute("aria-busy", String(isRunning));
    this.tools.hidden = isRunning;
    const parts = [];
    if (reasoning) parts.push(this.thoughts(isRunning && !content));
    if (!this.isAnswer) parts.push(element("div", {className: "said", textContent: content}));
    else if (content) parts.push(element("div", {className: "markdown"}, renderMarkdown(content)));
    else if (isRunning && !reasoning) parts.push(element("p", {className: "waiting", textContent: "Waiting for the first token"}));
    if (error) parts.push(element("p", {className: "error", role: "alert", textContent: error}));
    if (stopped && !isRunning) parts.push(element("p", {className: "stopped", textContent: "Stopped."}));
    this.body.replaceChildren(...parts);
    this.facts.replaceChildren(...(this.message.facts ? this.factItems() : []));
  }

  thoughts(isThinking) {
    this.details ??= element("details", {open: isThinking}, element("summary"), element("div", {className: "thoughts"}));
    if (this.wasThinking && !isThinking) this.details.open = false;
    this.wasThinking = isThinking;
    const [summary, text] = this.details.children;
    summary.textContent = isThinking ? "Thinking …" : "Reasoning";
    text.replaceChildren(renderMarkdown(this.message.reasoning));
    return this.details;
  }

  factItems() {
    const {rate, ttft, numTokens, numPromptTokens, numCachedTokens, finish} = this.message.facts;
    const items = [
      rate === null ? "" : `${amount(rate)} tok/s`,
      ttft === null ? "" : `first token ${amount(ttft)} ms`,
      `${amount(numTokens)} ${numTokens === 1 ? "token" : "tokens"}`,
      numPromptTokens ? `prompt ${amount(numPromptTokens)}${numCachedTokens ? `, ${amount(numCachedTokens)} cached` : ""}` : "",
      FINISHES[finish] ?? finish ?? "",
    ];
    return items.filter(Boolean).map(text => element("span", {textContent: text}));
  }

  edit(onEdit) {
    const area = element("textarea", {value: this.message.content, rows: 3, className: "edit"});
    area.setAttribute("aria-label", "Your message");
    const close = () => {
      this.update(false);
      this.element.querySelector(".tools button:last-child").focus();
    };
    const send = () => area.value.trim() && onEdit(area.value.trim());
    area.onkeydown = event => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (isSendKey(event)) {
        event.preventDefault();
        send();
      }
    };
    this.tools.hidden = true;
    this.body.replaceChildren(area, element("div", {className: "row"},
      element("button", {type: "button", className: "button", textContent: "Send", onclick: send}),
      element("button", {type: "button", className: "button plain", textContent: "Cancel", onclick: close})));
    area.focus();
  }
}

function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}
