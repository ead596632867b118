// What was said, kept in this browser and nowhere else.

function stored(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise; // spoiled by hand, or this browser keeps nothing
  }
}

function store(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    showNotice("This browser has no room left, so new messages are not kept. Delete old conversations.", "warning");
  }
}

class Conversations {
  constructor() {
    this.all = stored("pagewire.conversations", []);
    this.current = this.all[0] || this.blank();
  }

  blank() {
    return {id: crypto.randomUUID ? crypto.randomUUID() : String(Date.now()), title: "", messages: []};
  }

  open(conversation) {
    this.current = conversation;
  }

  add() {
    this.current = this.blank();
  }

  remove(conversation) {
    this.all = this.all.filter(each => each !== conversation);
    if (this.current === conversation) this.current = this.all[0] || this.blank();
    store("pagewire.conversations", this.all);
  }

  // Keeps the current one, newest first; one in which nothing was said is not kept.
  save() {
    const current = this.current;
    if (!current.messages.length) return;
    current.title = current.messages[0].content.trim().split("\n")[0].slice(0, 80) || "Untitled";
    this.all = [current, ...this.all.filter(each => each !== current)];
    store("pagewire.conversations", this.all);
  }

  draw(list, onOpen, onRemove) {
    list.replaceChildren(...this.all.map(conversation => {
      const open = element("button", {type: "button", className: "conversation", textContent: conversation.title,
        title: conversation.title, onclick: () => onOpen(conversation)});
      if (conversation === this.current) open.setAttribute("aria-current", "true");
      return element("li", {}, open,
        iconButton("remove", `Delete “${conversation.title}”`, () => onRemove(conversation)));
    }));
    byId("no-conversations").hidden = this.all.length > 0;
  }
}
