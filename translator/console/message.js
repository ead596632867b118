// One message of a conversation on the page.

const FINISHES = {stop: "", length: "cut at max tokens", tool_calls: "asked for a tool"};

class MessageView {
  // `actions` has onEdit(text) for what a person said, onRetry() for an answer.
  constructor(message, actions) {
    this.message = message;
    this.isAnswer = message.role === "assistant";
    this.reasoning = new Reasoning();
    this.markdown = new Markdown("markdown");
    this.waiting = element("p", {className: "waiting", textContent: "Waiting for the first token"});
    this.error = element("p", {className: "error"});
    this.stopped = element("p", {className: "stopped", textContent: "Stopped."});
    this.parts = this.isAnswer
      ? [this.reasoning.element, this.markdown.element, this.waiting, this.error, this.stopped]
      : [element("div", {className: "said", textContent: message.content})];
    this.body = element("div", {className: "body"}, ...this.parts);
    this.facts = element("p", {className: "facts"});
    this.onEdit = actions.onEdit;
    this.change = this.isAnswer
      ? iconButton("retry", "Answer again", actions.onRetry)
      : iconButton("edit", "Edit and send again", () => this.edit(message.content));
    const copy = iconButton("copy", "Copy the message", () => copyText(message.content, copy));
    this.tools = element("div", {className: "tools"}, copy, this.change);
    this.element = element("article", {className: `message ${message.role}`}, this.body,
      element("footer", {}, this.tools, this.facts));
    this.element.setAttribute("aria-label", this.isAnswer ? `Answer of ${message.model}` : "You");
    this.element.prepend(element("p", {className: "who", textContent: this.isAnswer ? message.model : "You"}));
    this.update(false);
  }

  // While an answer comes, nothing is asked anew.
  lock(isLocked) {
    this.change.disabled = isLocked;
  }

  get isEdited() {
    return Boolean(this.body.querySelector(".edit"));
  }

  // Draws the message as it is now; `isRunning` while more of it comes.
  update(isRunning) {
    const {content, reasoning = "", error = "", stopped = false, facts} = this.message;
    this.element.setAttribute("aria-busy", String(isRunning));
    this.tools.hidden = isRunning;
    if (!this.isAnswer) return;
    if (isRunning) this.error.setAttribute("role", "alert"); // that of an old answer is no news
    this.reasoning.show(reasoning, isRunning && Boolean(reasoning) && !content);
    this.markdown.show(content);
    this.markdown.element.hidden = !content;
    this.waiting.hidden = !isRunning || Boolean(reasoning || content);
    setText(this.error, error);
    this.error.hidden = !error;
    this.stopped.hidden = isRunning || !stopped;
    this.facts.replaceChildren(...(facts ? this.factItems(facts) : []));
  }

  factItems({rate, ttft, numTokens, numPromptTokens, numCachedTokens, finish}) {
    const items = [
      rate === null ? "" : `${amount(rate)} tok/s`,
      ttft === null ? "" : `first token ${amount(ttft)} ms`,
      `${amount(numTokens)} ${numTokens === 1 ? "token" : "tokens"}`,
      numPromptTokens ? `prompt ${amount(numPromptTokens)}${numCachedTokens ? `, ${amount(numCachedTokens)} cached` : ""}` : "",
      FINISHES[finish] ?? finish ?? "",
    ];
    return items.filter(Boolean).map(text => element("span", {textContent: text}));
  }

  edit(text) {
    const area = element("textarea", {value: text, rows: 3, className: "edit"});
    area.setAttribute("aria-label", "Your message");
    const close = () => {
      this.body.replaceChildren(...this.parts);
      this.tools.hidden = false;
      this.change.focus();
    };
    const send = () => area.value.trim() && this.onEdit(area.value.trim());
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
