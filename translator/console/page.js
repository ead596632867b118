// The page: what happens when.

const READINESS_MS = 2000;
const THEMES = ["system", "light", "dark"];
const IDEAS = [
  "Explain paged attention in three sentences.",
  "Write a Python function that merges two sorted lists.",
  "Plan a quiet weekend by the sea.",
];

const conversations = new Conversations();
const sampling = new Sampling(byId("sampling"));
const engineView = new EngineView(byId("engine"), doubtReadiness);
let models = [];
let views = [];
let generation = null;
let looking = null;
let readinessTimer = null;
let isReady = false;

function showNotice(text, kind = "") {
  const notice = byId("notice");
  notice.hidden = !text;
  notice.className = kind;
  setText(notice, text);
}

function setStatus(kind, text) {
  byId("status").className = kind;
  setText(byId("status-text"), text);
}

// Models and readiness

function currentModel() {
  return models.find(model => model.id === byId("model").value);
}

// One look at a time: who asks meanwhile waits for the same.
function watchReadiness() {
  looking ??= look().finally(() => { looking = null; });
  return looking;
}

async function look() {
  clearTimeout(readinessTimer);
  let found = [];
  let reason = await server.notReadyReason();
  try {
    if (!reason) found = (await server.json("console/models")).models;
  } catch (error) {
    if (!error.isServers) {
      notReady("No access", error.message);
      return;
    }
    reason = error.message;
  }
  if (reason) {
    notReady("Not ready", `${reason} Trying again …`);
    readinessTimer = setTimeout(watchReadiness, READINESS_MS);
    return;
  }
  byId("reference").hidden = Boolean(server.key); // a link cannot show it
  const isNew = JSON.stringify(found) !== JSON.stringify(models);
  if (isReady && !isNew) return;
  isReady = true;
  setStatus("ready", "Ready");
  engineView.start();
  if (isNew) showModels(found);
  else explainModel();
}

function notReady(text, notice) {
  isReady = false;
  setStatus("waiting", text);
  showNotice(notice, "warning");
}

function doubtReadiness() {
  if (isReady) watchReadiness();
}

function showModels(found) {
  models = found;
  const select = byId("model");
  const chosen = select.value || stored("pagewire.model", "");
  select.replaceChildren(...models.map(({id}) => element("option", {value: id, textContent: id})));
  select.value = models.some(({id}) => id === chosen) ? chosen : models[0].id;
  modelChanged();
}

function modelChanged() {
  const model = currentModel();
  sampling.setDefaults(model);
  byId("send").disabled = !model.can_generate;
  explainModel();
  if (!conversations.current.messages.length) showConversation();
}

// Says why the chosen model cannot chat, if it cannot.
function explainModel() {
  const model = currentModel();
  if (!model.can_generate) showNotice(`${model.id} turns texts into vectors and does not chat: see /v1/embeddings.`);
  else if (!model.has_chat_template) showNotice(`${model.id} has no chat template, so it cannot chat: see /v1/completions.`);
  else showNotice("");
}

// Whether the current conversation can be answered now. Where the server was not ready, for want of a key say, it is looked
// for first, and another conversation may be opened meanwhile.
async function canAnswer() {
  const {current} = conversations;
  if (!isReady) await watchReadiness();
  return isReady && conversations.current === current && currentModel().can_generate;
}

// Messages

function showConversation() {
  showMessages(conversations.current.messages);
}

function showMessages(messages) {
  views = messages.map((message, index) => viewOf(message, index));
  byId("log").replaceChildren(...(views.length ? views.map(view => view.element) : [welcome()]));
  showConversations();
  scrollDown(true);
}

function showConversations() {
  conversations.draw(byId("conversations"), openConversation, removeConversation);
}

function viewOf(message, index) {
  return new MessageView(message, {
    onEdit: text => goOnFrom(index, text),
    onRetry: () => goOnFrom(index),
  });
}

function welcome() {
  const model = currentModel();
  const facts = model ? [model.architecture, model.dtype, model.device, `${amount(model.max_model_len)} tokens of context`] : [];
  return element("div", {className: "welcome"},
    element("h2", {textContent: "What shall we find out?"}),
    element("p", {className: "hint", textContent: facts.filter(Boolean).join(" · ")}),
    element("div", {className: "ideas"}, ...IDEAS.map(idea => element("button", {type: "button", className: "idea",
      textContent: idea, onclick: () => send(idea)}))));
}

function scrollDown(always = false) {
  const log = byId("log");
  if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
}

// Questions that were never answered are one with the next: chat templates want the roles to take turns.
function requestBody(said) {
  const messages = [];
  for (const {role, content} of said.filter(each => each.content)) {
    if (messages.at(-1)?.role === role) messages.at(-1).content += `\n\n${content}`;
    else messages.push({role, content});
  }
  const system = byId("system").value.trim();
  if (system) messages.unshift({role: "system", content: system});
  return {model: byId("model").value, messages, ...sampling.members()};
}

function send(text) {
  goOnFrom(conversations.current.messages.length, text);
}

// Says `text` in place of the messages from this one on; without a text, asks anew what stands before it.
async function goOnFrom(index, text) {
  if (!(await canAnswer()) || generation) return;
  const conversation = conversations.current;
  const said = conversation.messages.slice(0, index);
  if (text) said.push({role: "user", content: text});
  const isKept = await answer(said);
  if (text && !isKept && conversations.current === conversation) views[index].edit(text);
}

// What is said already and not in `said` is forgotten once the answer begins. Returns whether it did.
async function answer(said) {
  const conversation = conversations.current;
  const body = requestBody(said);
  const message = {role: "assistant", content: "", model: body.model};
  const isKept = () => conversation.messages.at(-1) === message;
  const keep = () => {
    if (isKept()) return;
    conversation.messages = [...said, message];
    conversations.save(conversation);
    showConversations();
  };
  explainModel();
  if (!conversation.messages.slice(said.length).some(({content}) => content)) keep();
  showMessages([...said, message]);
  const view = views.at(-1);
  const running = new Generation(message, keep, () => {
    view.update(generation === running);
    scrollDown();
  });
  generation = running;
  view.update(true);
  showRunning(true);
  scrollDown(true);
  byId("prompt").focus();
  const failure = await running.run(body);
  generation = null;
  showRunning(false);
  if (!failure && !message.stopped) keep();
  if (isKept()) {
    view.update(false);
    scrollDown();
    conversations.update(conversation);
  } else {
    if (conversations.current === conversation) showConversation();
    if (failure) showNotice(failure.message, "warning");
  }
  announce(failure ? "" : message.stopped ? "Stopped." : `Answer: ${message.content}`);
  if (failure?.isServers) doubtReadiness();
  return isKept();
}

function showRunning(isRunning) {
  const button = byId("send");
  button.replaceChildren(icon(isRunning ? "stop" : "send"));
  button.title = isRunning ? "Stop (Esc)" : "Send (Enter)";
  button.setAttribute("aria-label", isRunning ? "Stop" : "Send");
  button.classList.toggle("stops", isRunning);
  for (const view of views) view.lock(isRunning);
}

function stop() {
  if (generation) generation.stop();
}

// Conversations

function openConversation(id) {
  if (id === conversations.current.id) {
    closeDrawer();
    return;
  }
  stop();
  conversations.open(id);
  closeDrawer();
  showConversation();
  byId("conversations").querySelector("[aria-current]")?.focus();
}

function removeConversation(id) {
  if (!confirm(`Delete “${conversations.find(id).title}”?`)) return;
  const isCurrent = id === conversations.current.id;
  const index = conversations.all.findIndex(each => each.id === id);
  if (isCurrent) stop();
  conversations.remove(id);
  if (isCurrent) showConversation();
  else showConversations();
  const left = [...byId("conversations").querySelectorAll(".conversation")];
  (left[index] || left.at(-1) || byId("new")).focus();
}

function newConversation() {
  stop();
  conversations.add();
  closeDrawer();
  showConversation();
  byId("prompt").focus();
}

// Another tab has written. While an answer comes, this tab's conversation is its own.
function storageChanged({key}) {
  if (key && key !== CONVERSATIONS) return;
  conversations.reload();
  const isRenewed = !generation && conversations.renew();
  if (isRenewed && !views.some(view => view.isEdited)) showConversation();
  else showConversations();
}

// Looks

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme-text").textContent = `Theme: ${theme}`;
  store("pagewire.theme", theme);
}

function toggleTheme() {
  const theme = document.documentElement.dataset.theme || "system";
  setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
}

// On a narrow screen both sides are drawers, and one at most is open.
function toggleDrawer(name) {
  const {dataset} = document.body;
  const isOpen = dataset.drawer !== name;
  dataset.drawer = isOpen ? name : "";
  for (const side of ["menu", "panel"]) {
    byId(`open-${side}`).setAttribute("aria-expanded", String(dataset.drawer === side));
  }
  (isOpen ? byId(name).querySelector("button") : byId(`open-${name}`)).focus();
}

function closeDrawer() {
  if (document.body.dataset.drawer) toggleDrawer(document.body.dataset.drawer);
}

function fitPrompt() {
  const prompt = byId("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${Math.min(prompt.scrollHeight, 220)}px`;
}

async function submitPrompt() {
  const prompt = byId("prompt");
  if (generation || !prompt.value.trim() || !(await canAnswer())) return;
  const text = prompt.value.trim();
  prompt.value = "";
  fitPrompt();
  if (text) send(text);
}

function keyPressed(event) {
  if (event.ctrlKey && event.shiftKey && event.code === "KeyO") {
    event.preventDefault();
    newConversation();
  } else if (event.key === "Escape" && !byId("key-dialog").open) {
    if (document.body.dataset.drawer) closeDrawer();
    else stop();
  }
}

async function changeKey() {
  closeDrawer();
  if (await server.askForKey("It stays in this tab until you close it. Leave it empty to forget it.")) watchReadiness();
}

function main() {
  for (const [id, name] of [["open-menu", "menu"], ["open-panel", "chart"], ["new", "add"], ["theme", "theme"],
    ["change-key", "key"], ["reference", "book"], ["close-panel", "close"]]) byId(id).prepend(icon(name));
  setTheme(stored("pagewire.theme", "system"));
  showRunning(false);
  byId("open-menu").onclick = () => toggleDrawer("menu");
  byId("open-panel").onclick = () => toggleDrawer("panel");
  byId("close-panel").onclick = closeDrawer;
  byId("scrim").onclick = closeDrawer;
  byId("new").onclick = newConversation;
  byId("theme").onclick = toggleTheme;
  byId("change-key").onclick = changeKey;
  byId("key-cancel").onclick = () => byId("key-dialog").close("");
  byId("model").onchange = () => {
    store("pagewire.model", byId("model").value);
    modelChanged();
  };
  byId("prompt").oninput = fitPrompt;
  byId("prompt").onkeydown = event => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    submitPrompt();
  };
  byId("composer").onsubmit = event => {
    event.preventDefault();
    if (generation) stop();
    else submitPrompt();
  };
  document.onkeydown = keyPressed;
  window.onstorage = storageChanged;
  showConversation();
  watchReadiness();
  byId("prompt").focus();
}

main();
