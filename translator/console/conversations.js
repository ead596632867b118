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

const CONVERSATIONS = "pagewire.conversations";

class Conversations {
  constructor() {
    this.reload();
    this.current = this.all[0] || this.blank();
  }

  // Other tabs write too, so what is kept is read anew before it is changed.
  reload() {
    this.all = stored(CONVERSATIONS, this.all || []);
  }

  blank() {
    return {id: crypto.randomUUID ? crypto.randomUUID() : String(Date.now()), title: "", messages: []};
  }

  // Takes over what another tab made of the current one. Returns whether it is different now.
  renew() {
    const kept = this.find(this.current.id);
    if (!kept || JSON.stringify(kept) === JSON.stringify(this.current)) return false;
    this.current = kept;
    return true;
  }

  find(id) {
    return this.all.find(each => each.id === id);
  }

  open(id) {
    this.current = this.find(id) || this.current;
  }

  add() {
    this.current = this.blank();
  }

  remove(id) {
    this.reload();
    this.all = this.all.filter(each => each.id !== id);
    if (this.current.id === id) this.current = this.all[0] || this.blank();
    store(CONVERSATIONS, this.all);
  }

  // Keeps a conversation, newest first.
  save(conversation) {
    this.reload();
    conversation.title = conversation.messages[0].content.trim().split("\n")[0].slice(0, 80) || "Untitled";
    this.all = [conversation, ...this.all.filter(({id}) => id !== conversation.id)];
    store(CONVERSATIONS, this.all);
  }

  // Keeps what has changed of it, unless it was deleted meanwhile.
  update(conversation) {
    this.reload();
    this.all = this.all.map(each => each.id === conversation.id ? conversation : each);
    store(CONVERSATIONS, this.all);
  }

  draw(list, onOpen, onRemove) {
    list.replaceChildren(...this.all.map(({id, title}) => {
      const open = element("button", {type: "button", className: "conversation", textContent: title, title,
        onclick: () => onOpen(id)});
      if (id === this.current.id) open.setAttribute("aria-current", "true");
      return element("li", {}, open, iconButton("remove", `Delete “${title}”`, () => onRemove(id)));
    }));
    byId("no-conversations").hidden = this.all.length > 0;
  }
}
