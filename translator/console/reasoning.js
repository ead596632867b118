// What the model thinks before it answers.

class Reasoning {
  constructor() {
    this.isThinking = false;
    this.summary = element("summary", {textContent: "Reasoning"});
    this.thoughts = new Markdown("thoughts");
    this.element = element("details", {}, this.summary, this.thoughts.element);
  }

  // It unfolds as the thinking begins and folds as it ends; in between it is as its reader has it.
  show(text, isThinking) {
    this.element.hidden = !text;
    this.thoughts.show(text);
    if (isThinking === this.isThinking) return;
    this.isThinking = isThinking;
    this.element.open = isThinking;
    this.summary.textContent = isThinking ? "Thinking …" : "Reasoning";
  }
}
