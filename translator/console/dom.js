// Making elements. All text goes in as text: nothing that a model or a person writes can become markup.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  book: "M5 5.5A1.5 1.5 0 0 1 6.5 4H19v13H6.5A1.5 1.5 0 0 0 5 18.5zM5 18.5A1.5 1.5 0 0 0 6.5 20H19v-3",
  add: "M12 5v14M5 12h14",
  chart: "M4 19V5M4 19h16M8 15l3-4 3 2 5-6",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  done: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13.5 6.5l4 4",
  key: "M8 8a4 4 0 1 0 .01 0zM12 12h9M17 12v3.5M20.5 12v2.5",
  menu: "M4 7h16M4 12h16M4 17h16",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  retry: "M19 12a7 7 0 1 1-2.200-5.100M19 4v4.500h-4.5",
  send: "M12 20V5M5.5 11.500L12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
};

function byId(id) {
  return document.getElementById(id);
}

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function icon(name) {
  return drawn("svg", {class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true"}, drawn("path", {d: ICONS[name]}));
}

function iconButton(name, label, onclick) {
  const button = element("button", {type: "button", className: "icon-button", title: label, onclick}, icon(name));
  button.setAttribute("aria-label", label);
  return button;
}

// Leaves a text that is right alone: to write it again may be to say it again.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes `old` look like `made`. Nodes of the same kind stay, with the focus and the selection in them.
function renew(old, made) {
  if (old instanceof Text && made instanceof Text && made.data.startsWith(old.data)) {
    old.appendData(made.data.slice(old.length));
  } else if (old instanceof Element && old.cloneNode().isEqualNode(made.cloneNode())) {
    const before = [...old.childNodes];
    const after = [...made.childNodes];
    after.forEach((node, index) => index < before.length ? renew(before[index], node) : old.append(node));
    before.slice(after.length).forEach(node => node.remove());
  } else {
    old.replaceWith(made);
  }
}

async function copyText(text, button) {
  const isDone = await isCopied(text);
  button.focus();
  if (!isDone) {
    showNotice("This browser does not let the page copy: select the text instead.", "warning");
    return;
  }
  button.replaceChildren(icon("done"));
  announce("Copied.");
  setTimeout(() => button.replaceChildren(icon("copy")), 1500);
}

// A page that came without TLS from elsewhere has no clipboard to write to, but may copy what is selected.
async function isCopied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", {value: text, className: "sr"});
    document.body.append(area);
    area.focus();
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}

// For those who hear the page: the answer itself is read when it is whole, not token by token.
function announce(text) {
  byId("announcer").textContent = text;
}

function amount(value) {
  return value.toLocaleString("en", {maximumFractionDigits: value < 10 ? 1 : 0});
}
