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

  open(conversation) {
    this.current = conversation;
  }

  add() {
    this.current = this.blank();
  }

  remove({id}) {
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
    list.replaceChildren(...this.all.map(conversation => {
      const open = element("button", {type: "button", className: "conversation", textContent: conversation.title,
        title: conversation.title, onclick: () => onOpen(conversation)});
      if (conversation.id === this.current.id) open.setAttribute("aria-current", "true");
      return element("li", {}, open,
        iconButton("remove", `Delete “${conversation.title}”`, () => onRemove(conversation)));
    }));
    byId("no-conversations").hidden = this.all.length > 0;
  }
}
