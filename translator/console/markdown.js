// Markdown as models write it, made into elements. HTML within it stays text.

const MAX_DEPTH = 6;
// What a model writes may be long and odd: the time that each pattern takes grows no faster than its text.
const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(\S.*)?$/s;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/s;
const TABLE_RULE = /^\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?)?$/;
const INLINE = new RegExp(
  [
    "\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+.!~>|-])",
    "(?<!`)(?<ticks>`+)(?!`)(?<code>.+?)(?<!`)\\k<ticks>(?!`)",
    "\\*\\*(?<strong>[^\\s*](?:(?:(?!\\*\\*).)*?\\S)?)\\*\\*",
    "~~(?<struck>\\S(?:(?:(?!~~).)*?\\S)?)~~",
    "\\*(?<stressed>[^\\s*](?:[^*]*[^\\s*])?)\\*",
    "(?<!\\w)_(?<leaning>[^\\s_](?:[^_]*[^\\s_])?)_(?!\\w)",
    "\\[(?<label>[^\\[\\]]+)\\]\\((?<target>[^\\s()]+(?:\\([^\\s()]*\\))?)(?:\\s+\"[^\"]*\")?\\)",
    "(?<url>https?://[^\\s<>\"'`\\])]*[^\\s<>\"'`\\]).,:;!?])",
  ].join("|"),
  "gs",
);

// A text that grows. What is drawn of it already stays, with the focus, the selection and the clicks on it.
class Markdown {
  constructor(className) {
    this.element = element("div", {className});
    this.sources = [];
  }

  show(text) {
    const blocks = readBlocks(text.split("\n"), 0);
    const shown = [...this.element.children];
    blocks.forEach(({source, draw}, index) => {
      if (index >= shown.length) this.element.append(draw());
      else if (source !== this.sources[index]) renew(shown[index], draw());
    });
    shown.slice(blocks.length).forEach(each => each.remove());
    this.sources = blocks.map(({source}) => source);
  }
}

function readBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [draw, next] = readBlock(lines, at, depth);
    blocks.push({source: lines.slice(at, next).join("\n"), draw});
    at = next;
  }
  return blocks;
}

function drawBlocks(lines, depth) {
  return readBlocks(lines, depth).map(({draw}) => draw());
}

// Returns what draws the block that begins at this line, and the line after it.
function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readFence(lines, at);
  if (HEADING.test(line)) return readHeading(lines, at);
  if (RULE.test(line)) return [() => element("hr"), at + 1];
  if (isTable(lines, at)) return readTable(lines, at);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, depth);
  return readParagraph(lines, at);
}

function readHeading(lines, at) {
  const [, marks, text = ""] = HEADING.exec(lines[at]);
  const title = text.trimEnd().replace(/(^|\s)#+$/, "");
  // The page has its own first two levels.
  return [() => element(`h${Math.min(marks.length + 2, 6)}`, {}, renderInline(title)), at + 1];
}

function readFence(lines, at) {
  const [, mark, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(mark) && !lines[end].trim().replace(/[`~]/g, ""))) end += 1;
  return [() => codeBlock(lines.slice(at + 1, end).join("\n"), language), end + 1];
}

function codeBlock(text, language) {
  const copy = iconButton("copy", "Copy the code", () => copyText(copy.closest(".code").querySelector("code").textContent, copy));
  const pre = element("pre", {tabIndex: 0}, element("code", {textContent: text}));
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code in ${language}` : "Code");
  return element("div", {className: "code"},
    element("div", {className: "code-head"}, element("span", {textContent: language || "text"}), copy), pre);
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map(line => line.replace(QUOTE, ""));
  return [() => element("blockquote", {}, ...drawBlocks(inner, depth + 1)), end];
}

function readList(lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length > indent.length || /\d/.test(item[2]) !== isOrdered) break;
    const inner = [item[3]];
    end += 1;
    while (end < lines.length && belongsToItem(lines, end, indent.length)) {
      inner.push(lines[end].replace(new RegExp(`^\\s{0,${indent.length + 4}}`), spaces => {
        return " ".repeat(Math.max(0, spaces.length - indent.length - mark.length - 1));
      }));
      end += 1;
    }
    items.push(inner);
    while (end + 1 < lines.length && !lines[end].trim() && ITEM.test(lines[end + 1])) end += 1;
  }
  const properties = isOrdered ? {start: parseInt(mark, 10)} : {};
  return [() => element(isOrdered ? "ol" : "ul", properties, ...items.map(lines => listItem(lines, depth))), end];
}

function belongsToItem(lines, at, indent) {
  const line = lines[at].trim() ? lines[at] : lines[at + 1] || "";
  return line.search(/\S/) > indent;
}

function listItem(lines, depth) {
  const item = element("li", {}, ...drawBlocks(lines, depth + 1));
  const first = item.firstElementChild;
  if (first && first.tagName === "P") first.replaceWith(...first.childNodes);
  return item;
}

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && TABLE_RULE.test(lines[at + 1].trim());
}

function readTable(lines, at) {
  const cells = line => line.trim().replace(/^\||\|$/g, "").split("|").map(cell => cell.trim());
  const row = (line, name) => element("tr", {}, ...cells(line).map(cell => element(name, {}, renderInline(cell))));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const table = () => element("table", {}, element("thead", {}, row(lines[at], "th")),
    element("tbody", {}, ...lines.slice(at + 2, end).map(line => row(line, "td"))));
  return [() => element("div", {className: "table", tabIndex: 0, role: "region", ariaLabel: "Table"}, table()), end];
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !beginsBlock(lines, end)) end += 1;
  return [() => element("p", {}, renderInline(lines.slice(at, end).join("\n"))), end];
}

function beginsBlock(lines, at) {
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some(pattern => pattern.test(lines[at])) || isTable(lines, at);
}

function renderInline(text) {
  const made = document.createDocumentFragment();
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    appendText(made, text.slice(at, match.index));
    made.append(inlineNode(match[0], match.groups));
    at = match.index + match[0].length;
  }
  appendText(made, text.slice(at));
  return made;
}

function appendText(made, text) {
  text.split("\n").forEach((line, index) => made.append(...(index ? [element("br")] : []), line));
}

function inlineNode(whole, groups) {
  if (groups.escaped) return groups.escaped;
  if (groups.code) return element("code", {textContent: groups.code.trim() || groups.code});
  if (groups.strong) return element("strong", {}, renderInline(groups.strong));
  if (groups.struck) return element("s", {}, renderInline(groups.struck));
  if (groups.stressed || groups.leaning) return element("em", {}, renderInline(groups.stressed || groups.leaning));
  return link(groups.url || groups.target, groups.label || groups.url) || whole;
}

// Only where a link leads to another page: no script, no data, nothing of this page's own.
function link(target, label) {
  const url = URL.canParse(target) ? new URL(target) : null;
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return element("a", {href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", textContent: label});
}
