// Uses the console as a person does: `console.mjs CHROMIUM URL LOCKED_URL`, where the last needs the key "right".

import assert from "node:assert/strict";
import {test} from "node:test";
import {chromium} from "playwright-core";
import {violations} from "./accessibility.mjs";

const [executablePath, url, lockedUrl] = process.argv.slice(2);
const browser = await chromium.launch({executablePath, args: [
  "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP plain.test 127.0.0.1"]});
const WIDE = {width: 1440, height: 900};
const NARROW = {width: 390, height: 844};

// A fresh visitor. What the page logs and asks for is kept; nothing may come from elsewhere.
async function visit(options = {}) {
  const context = await browser.newContext({viewport: WIDE, reducedMotion: "reduce", ...options});
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.complaints = [];
  page.on("console", message => {
    if (["error", "warning"].includes(message.type())) page.complaints.push(message.text());
  });
  page.on("pageerror", error => page.complaints.push(String(error)));
  page.on("request", request => {
    const isOurs = request.url().startsWith(url) || request.url().startsWith("data:");
    if (!isOurs) page.complaints.push(`asked for ${request.url()}`);
  });
  await page.goto(url);
  await page.locator("#status.ready").waitFor();
  return page;
}

async function leave(page) {
  assert.deepEqual(page.complaints, []);
  await page.context().close();
}

async function say(page, text) {
  await page.getByLabel("Message", {exact: true}).fill(text);
  await page.keyboard.press("Enter");
}

const answers = page => page.locator(".message.assistant");
const saidBack = (page, text) => page.locator(".message.assistant", {hasText: text}).waitFor();
const isDone = page => page.getByRole("button", {name: "Send", exact: true}).waitFor();

test("a question is answered, with what it took", async () => {
  const page = await visit();
  await say(page, "Hello there");
  await isDone(page);
  assert.match(await answers(page).innerText(), /You said: Hello there \(temperature 0\)/);
  assert.match(await answers(page).locator(".facts").innerText(), /first token \d.* ms[^]*1 token[^]*prompt 24, 16 cached/);
  await page.reload();
  assert.match(await answers(page).innerText(), /Hello there/);
  await leave(page);
});

test("Markdown becomes elements, and nothing of it runs", async () => {
  const page = await visit();
  await say(page, "Explain paged attention, unsafely");
  await isDone(page);
  const answer = answers(page);
  assert.equal(await answer.locator("strong").first().innerText(), "Paged attention");
  assert.equal(await answer.locator("ol > li").count(), 2);
  assert.match(await answer.locator("pre code").innerText(), /^def num_blocks[^]*block_size\)$/);
  assert.equal(await answer.locator("img").count(), 0);
  const links = await answer.locator("a").evaluateAll(all => all.map(({href, rel}) => [href, rel]));
  assert.deepEqual(links, [["https://arxiv.org/abs/2309.06180", "noopener noreferrer nofollow"]]);
  assert.match(await answer.innerText(), /\[this\]\(javascript:alert\(1\)\) nor <img src=x/);
  assert.match(await answer.locator("details").textContent(), /what is lost/);
  await leave(page);
});

test("marks and code within a line do not take the rest of the text", async () => {
  const page = await visit();
  await say(page, "Try:\n```print('hi')``` prints it.\n## About C#\n## Closed ##\nEnd");
  await isDone(page);
  const answer = answers(page);
  assert.match(await answer.innerText(), /print\('hi'\) prints it\./);
  assert.deepEqual(await answer.locator("code").allInnerTexts(), ["print('hi')"]);
  assert.deepEqual(await answer.locator("h4").allInnerTexts(), ["About C#", "Closed"]);
  await leave(page);
});

const RUNS = [["a", "`", "b"], ["# a", " ", "b"], ["# a", " #", "b"], ["a |\n", " ", "b"], ["a |\n", "-", "b"], ["-", " ", "\rb"], ["", "a|", "\n-|"],
  ...["*", "_", "[", "~", "|", ">", "> ", "- ", "**a ", "*a ", "_a ", "~~a ", "[a", "[a](", "`a ``b ", "http://."].map(piece => ["a", piece, ""])];

test("runs of marks are drawn in a time that grows no faster than they do", {timeout: 60_000}, async () => {
  const page = await visit();
  for (const [before, piece, after] of RUNS) {
    const text = before + piece.repeat(30_000) + after;
    const milliseconds = await page.evaluate(long => {
      const from = performance.now();
      new Markdown("markdown").show(long);
      return performance.now() - from;
    }, text);
    assert.ok(milliseconds < 1500, `${JSON.stringify(piece)}: ${milliseconds} ms`);
  }
  await leave(page);
});

test("an answer is stopped by key and by button, and the next one works", async () => {
  const page = await visit();
  for (const stop of [() => page.keyboard.press("Escape"), () => page.getByRole("button", {name: "Stop"}).click()]) {
    await say(page, "Count forever");
    await page.getByText("0 1 2 3").last().waitFor();
    await stop();
    await isDone(page);
    await page.getByText("Stopped.").last().waitFor();
    assert.match(await answers(page).last().locator(".facts").innerText(), /tok\/s/);
    await page.getByRole("button", {name: "New chat"}).click();
  }
  await say(page, "And now?");
  await isDone(page);
  await saidBack(page, "You said: And now?");
  await leave(page);
});

// Long enough for many tokens to come, and to be drawn, meanwhile.
const WHILE_TOKENS_COME = 300;

test("what is drawn of an answer can be used while more of it comes", async () => {
  const page = await visit({permissions: ["clipboard-read", "clipboard-write"]});
  const focused = () => page.evaluate(() => document.activeElement.title || document.activeElement.textContent);
  await say(page, "Please ponder");
  const details = answers(page).locator("details");
  await details.getByText("0 1 2 3").waitFor();
  assert.equal(await details.evaluate(({open}) => open), true);
  await details.locator("summary").click({delay: WHILE_TOKENS_COME});
  assert.equal(await details.evaluate(({open}) => open), false);
  await page.waitForTimeout(WHILE_TOKENS_COME);
  assert.equal(await focused(), "Thinking …");
  assert.equal(await details.evaluate(({open}) => open), false);
  await page.getByRole("button", {name: "New chat"}).click();
  await isDone(page);

  await say(page, "Show code forever");
  await page.getByText("0 1 2 3").last().waitFor();
  for (const [index, text] of ["first", "0 1 2"].entries()) {
    const block = answers(page).last().locator(".code").nth(index);
    await block.getByRole("button", {name: "Copy the code"}).click({delay: WHILE_TOKENS_COME});
    await page.getByText("Copied.").waitFor({state: "attached"});
    assert.ok((await page.evaluate(() => navigator.clipboard.readText())).startsWith(text));
    await page.evaluate(() => announce(""));
    await page.waitForTimeout(WHILE_TOKENS_COME);
    assert.equal(await focused(), "Copy the code");
    await block.locator("code").evaluate(({firstChild}) => getSelection().setBaseAndExtent(firstChild, 0, firstChild, 5));
    await page.waitForTimeout(WHILE_TOKENS_COME);
    assert.equal(await page.evaluate(() => String(getSelection())), text);
  }
  await page.keyboard.press("Escape");
  await isDone(page);
  await leave(page);
});

test("answers are made again, and questions edited", async () => {
  const page = await visit();
  await page.getByLabel("Temperature", {exact: true}).fill("0.5");
  await say(page, "First");
  await isDone(page);
  await saidBack(page, "You said: First (temperature 0.5)");
  await page.getByLabel("Temperature", {exact: true}).fill("1.5");
  await page.getByRole("button", {name: "Answer again"}).click();
  await saidBack(page, "You said: First (temperature 1.5)");
  await isDone(page);
  assert.equal(await answers(page).count(), 1);
  await page.getByRole("button", {name: "Edit and send again"}).click();
  await page.getByLabel("Your message").fill("Second");
  await page.keyboard.press("Enter");
  await saidBack(page, "You said: Second");
  assert.equal(await page.locator(".message").count(), 2);
  await isDone(page);
  await page.getByRole("button", {name: "Set Temperature back to the default"}).click();
  assert.equal(await page.getByLabel("Temperature", {exact: true}).getAttribute("placeholder"), "0.2");
  await leave(page);
});

const LOADING = {status: "not ready", error: {message: "The model is loading.", type: "server_error", param: null, code: "not_ready"}};
const BUSY = {status: 429, json: {error: {message: "The server is busy.", type: "rate_limit_error", param: null, code: null}}};
const CHAT = "**/v1/chat/completions";
const said = page => page.locator(".message .body").allInnerTexts();

test("what was said stays where asking anew is refused or stopped", async () => {
  const page = await visit();
  for (const text of ["First", "Second"]) {
    await say(page, text);
    await saidBack(page, `You said: ${text}`);
    await isDone(page);
  }
  const before = await said(page);
  await page.route(CHAT, route => route.fulfill(BUSY));
  await page.getByRole("button", {name: "Answer again"}).first().click();
  await page.locator("#notice", {hasText: "The server is busy."}).waitFor();
  await isDone(page);
  assert.deepEqual(await said(page), before);

  await page.getByRole("button", {name: "Edit and send again"}).first().click();
  await page.getByLabel("Your message").fill("Other");
  await page.keyboard.press("Enter");
  await page.locator("#notice", {hasText: "The server is busy."}).waitFor();
  assert.equal(await page.getByLabel("Your message").inputValue(), "Other");
  await page.getByRole("button", {name: "Cancel"}).click();
  assert.deepEqual(await said(page), before);

  await page.unroute(CHAT);
  await page.route(CHAT, () => {});
  await page.getByRole("button", {name: "Answer again"}).first().click();
  await page.getByText("Waiting for the first token").waitFor();
  assert.equal(await page.locator("#notice").isHidden(), true);
  assert.equal(await page.getByRole("button", {name: "Edit and send again"}).isDisabled(), true);
  await page.reload();
  assert.deepEqual(await said(page), before);
  await page.locator("#status.ready").waitFor();
  await page.getByRole("button", {name: "Answer again"}).first().click();
  await page.getByText("Waiting for the first token").waitFor();
  await page.keyboard.press("Escape");
  await isDone(page);
  assert.deepEqual(await said(page), before);
  assert.equal(await page.getByRole("button", {name: "Edit and send again"}).first().isDisabled(), false);
  await page.context().close();
});

test("a question waits for the server in its own conversation alone", async () => {
  const page = await visit();
  await say(page, "First");
  await saidBack(page, "You said: First");
  await isDone(page);
  await page.getByRole("button", {name: "New chat"}).click();
  await page.route("**/health/ready", route => route.fulfill({status: 503, json: LOADING}));
  await page.evaluate(() => doubtReadiness());
  await page.getByText("The model is loading. Trying again").waitFor();
  await page.unroute("**/health/ready");
  await page.route("**/health/ready", async route => {
    await new Promise(resolve => { setTimeout(resolve, 500); });
    await route.continue();
  });
  const looked = page.waitForResponse("**/console/models");
  await page.locator(".idea").first().click();
  await page.getByRole("button", {name: "First", exact: true}).click();
  await looked;
  await page.locator("#status.ready").waitFor();
  assert.deepEqual(await page.locator(".said").allInnerTexts(), ["First"]);
  await page.context().close();
});

test("questions without an answer are sent as one with the next", async () => {
  const page = await visit();
  await page.route(CHAT, route => route.fulfill(BUSY), {times: 1});
  await say(page, "First");
  await answers(page).getByText("The server is busy.").waitFor();
  await isDone(page);
  const asked = page.waitForRequest(CHAT);
  await say(page, "Second");
  assert.deepEqual((await asked).postDataJSON().messages, [{role: "user", content: "First\n\nSecond"}]);
  await isDone(page);
  await page.context().close();
});

test("tabs with the same conversation lose nothing of it", async () => {
  const page = await visit();
  const exchange = async (tab, text) => {
    await say(tab, text);
    await saidBack(tab, `You said: ${text}`);
    await isDone(tab);
  };
  await exchange(page, "One");
  const other = await page.context().newPage();
  await other.goto(url);
  await other.locator("#status.ready").waitFor();
  await exchange(other, "Two");
  await saidBack(page, "You said: Two");
  await page.getByRole("button", {name: "Edit and send again"}).last().click();
  await page.getByLabel("Your message").fill("Half a thou");
  await exchange(other, "Three");
  await page.waitForFunction(() => conversations.current.messages.length === 6);
  assert.equal(await page.getByLabel("Your message").inputValue(), "Half a thou");
  await exchange(page, "Four");
  await saidBack(other, "You said: Four");
  for (const tab of [page, other]) {
    await tab.reload();
    assert.deepEqual(await tab.locator(".said").allInnerTexts(), ["One", "Two", "Three", "Four"]);
  }
  await leave(page);
});

test("conversations are kept, opened and deleted", async () => {
  const page = await visit();
  for (const text of ["One", "Two"]) {
    await page.keyboard.press("Control+Shift+O");
    await say(page, text);
    await isDone(page);
  }
  await page.reload();
  await page.getByRole("button", {name: "One", exact: true}).click();
  await saidBack(page, "You said: One");
  const other = await page.context().newPage();
  await other.goto(url);
  await other.getByRole("button", {name: "New chat"}).click();
  await say(other, "Three");
  await isDone(other);
  await page.getByRole("button", {name: "Three", exact: true}).waitFor();
  page.on("dialog", dialog => dialog.accept());
  await page.getByRole("button", {name: "Delete “One”"}).click();
  assert.deepEqual(await page.locator(".conversation").allInnerTexts(), ["Three", "Two"]);
  await leave(page);
});

test("the engine is shown and moves", async () => {
  const page = await visit();
  await page.locator(".line.main[d*=L]").first().waitFor({state: "attached"});
  const steps = () => page.locator(".totals dd").first().innerText();
  const before = await steps();
  await page.waitForFunction(text => document.querySelector(".totals dd").innerText !== text, before);
  assert.match(await page.locator("#engine").innerText(), /Generated[^]*tok\/s[^]*waiting[^]*62 %[^]*402 cached/);
  await leave(page);
});

const keyField = page => page.getByLabel("Key", {exact: true});

test("a key is asked for until it is right, kept in this tab and sent", async () => {
  const context = await browser.newContext({viewport: WIDE});
  const page = await context.newPage();
  await page.goto(lockedUrl);
  for (const key of ["wrong", "right"]) {
    await page.getByText("The API key is missing or not valid.").first().waitFor();
    await keyField(page).fill(key);
    await page.keyboard.press("Enter");
  }
  await page.locator("#status.ready").waitFor();
  await say(page, "Let me in");
  await saidBack(page, "You said: Let me in");
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("right")), false);
  await page.getByText("start the translator with --stats-target or --admin-target").waitFor();
  await context.close();
});

test("a key that no header can carry is refused where it is entered", async () => {
  const context = await browser.newContext({viewport: WIDE});
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  await page.goto(lockedUrl);
  for (const key of ["••••right", "ri ght"]) {
    await keyField(page).fill(key);
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("#key-dialog").evaluate(({open}) => open), true);
    assert.equal(await keyField(page).evaluate(field => field.matches(":invalid")), true);
  }
  await keyField(page).fill(" right ");
  await page.keyboard.press("Enter");
  await page.locator("#status.ready").waitFor();
  await context.close();
});

test("a key that comes with a later message lets it through, and the wait for it is not the server's", async () => {
  const context = await browser.newContext({viewport: WIDE});
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const bodies = [];
  page.on("request", request => request.method() === "POST" && bodies.push(request.postDataJSON()));
  const enterKeyLater = async () => {
    await keyField(page).fill("right");
    await page.waitForTimeout(2000);
    await page.keyboard.press("Enter");
  };
  const isQuick = async () => {
    const facts = await answers(page).last().locator(".facts").innerText();
    assert.ok(Number(/first token ([\d.,]+) ms/.exec(facts)[1].replace(",", "")) < 1500, facts);
  };
  await page.goto(lockedUrl);
  await keyField(page).waitFor();
  await page.keyboard.press("Escape");
  await page.getByText("No access").waitFor();
  await say(page, "Let me in");
  await keyField(page).waitFor();
  assert.equal(await page.getByLabel("Message", {exact: true}).inputValue(), "Let me in");
  await enterKeyLater();
  await saidBack(page, "You said: Let me in");
  await isDone(page);
  await page.locator("#status.ready").waitFor();
  assert.deepEqual(bodies.map(({model}) => model), ["org/tiny-model"]);
  await isQuick();

  await page.evaluate(() => server.keepKey("wrong"));
  await say(page, "Once more");
  await enterKeyLater();
  await saidBack(page, "You said: Once more");
  await isDone(page);
  await isQuick();
  await context.close();
});

test("a browser that keeps nothing still chats", async () => {
  const context = await browser.newContext({viewport: WIDE});
  await context.addInitScript(() => {
    for (const name of ["localStorage", "sessionStorage"]) {
      Object.defineProperty(window, name, {get() { throw new DOMException("Denied.", "SecurityError"); }});
    }
  });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  await page.goto(lockedUrl);
  await keyField(page).fill("right");
  await page.keyboard.press("Enter");
  await page.locator("#status.ready").waitFor();
  for (const text of ["One", "Two"]) {
    await say(page, text);
    await saidBack(page, `You said: ${text}`);
    await isDone(page);
  }
  assert.equal(await page.locator(".message").count(), 4);
  await context.close();
});

const LOST = 'data: {"error":{"message":"The engine ended.","type":"server_error","param":null,"code":"request_lost"}}\n\n';

test("a server that loads or is away is told of, and found again", async () => {
  const context = await browser.newContext({viewport: WIDE});
  const page = await context.newPage();
  await page.route("**/health/ready", route => route.fulfill({status: 503, json: LOADING}));
  await page.goto(url);
  await page.getByText("The model is loading. Trying again").waitFor();
  await page.unroute("**/health/ready");
  await page.route("**/health/ready", route => route.abort());
  await page.getByText("The server cannot be reached. Trying again").waitFor();
  await page.unroute("**/health/ready");
  await page.locator("#status.ready").waitFor();
  assert.equal(await page.locator("#notice").isHidden(), true);
  await context.close();
});

test("a server that is not ready any more is told of, and found again", async () => {
  const page = await visit();
  const statsPath = "**/console/stats";
  const losses = {
    "by the engine's figures": async () => {
      const response = await page.request.get(`${url}/console/stats`);
      await page.route(statsPath, async route => route.fulfill({json: {...await response.json(), ready: false}}));
    },
    "as the figures fail": () => page.route(statsPath, route => route.fulfill({status: 503, json: LOADING})),
    "as an answer fails": async () => {
      const path = "**/v1/chat/completions";
      await page.route(path, route => route.fulfill({contentType: "text/event-stream", body: LOST}), {times: 1});
      await say(page, "Hello there");
      await page.getByText("The engine ended.").waitFor();
    },
  };
  for (const lose of Object.values(losses)) {
    await page.route("**/health/ready", route => route.fulfill({status: 503, json: LOADING}));
    await lose();
    await page.getByText("The model is loading. Trying again").waitFor();
    assert.equal(await page.locator("#status-text").innerText(), "Not ready");
    await page.unroute(statsPath);
    await page.unroute("**/health/ready");
    await page.locator("#status.ready").waitFor();
    assert.equal(await page.locator("#notice").isHidden(), true);
  }
  await page.context().close();
});

test("an answer is copied without TLS, too, and it is told where that cannot be", async () => {
  const context = await browser.newContext({viewport: WIDE});
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const errors = [];
  page.on("pageerror", error => errors.push(String(error)));
  await page.goto(url.replace("127.0.0.1", "plain.test"));
  await page.locator("#status.ready").waitFor();
  assert.equal(await page.evaluate(() => window.isSecureContext), false);
  await say(page, "Copy me");
  await isDone(page);
  const copy = answers(page).getByRole("button", {name: "Copy the message"});
  await copy.click();
  await page.getByText("Copied.").waitFor({state: "attached"});
  assert.equal(await page.evaluate(() => document.activeElement.title), "Copy the message");
  await page.getByLabel("Message", {exact: true}).focus();
  await page.keyboard.press("Control+V");
  assert.match(await page.getByLabel("Message", {exact: true}).inputValue(), /^You said: Copy me/);
  await page.evaluate(() => { document.execCommand = () => false; });
  await copy.click();
  await page.getByText("This browser does not let the page copy").waitFor();
  assert.deepEqual(errors, []);
  await context.close();
});

test("focus goes on where the reader goes on", async () => {
  const page = await visit();
  page.on("dialog", dialog => dialog.accept());
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
  const press = async (button, key = "Enter") => {
    await button.focus();
    await page.keyboard.press(key);
  };
  const isSent = async () => {
    await isDone(page);
    assert.equal(await focused(), "prompt");
  };
  await press(page.locator(".idea").nth(1));
  await answers(page).getByText("You said").waitFor();
  await isSent();
  await press(page.getByRole("button", {name: "Answer again"}));
  await isSent();
  await press(page.getByRole("button", {name: "Edit and send again"}));
  await page.getByLabel("Your message").fill("One");
  await page.keyboard.press("Enter");
  await saidBack(page, "You said: One");
  await isSent();
  for (const text of ["Two", "Three"]) {
    await page.keyboard.press("Control+Shift+O");
    await say(page, text);
    await saidBack(page, `You said: ${text}`);
    await isDone(page);
  }
  await press(page.getByRole("button", {name: "One", exact: true}));
  assert.equal(await focused(), "One");
  for (const [gone, next] of [["Two", "One"], ["One", "Three"], ["Three", "new"]]) {
    await press(page.getByRole("button", {name: `Delete “${gone}”`}));
    assert.equal(await focused(), next);
  }
  await leave(page);
});

// Counts from now on how often something is written into an element.
function watchWrites(page, selector) {
  return page.evaluate(selector => {
    window.numWrites = 0;
    new MutationObserver(() => { window.numWrites += 1; })
      .observe(document.querySelector(selector), {childList: true, subtree: true, characterData: true});
  }, selector);
}

test("a doubt that proves wrong changes nothing", async () => {
  const page = await visit();
  await page.route("**/console/stats", route => route.fulfill({status: 503, json: LOADING}));
  await watchWrites(page, "main");
  const field = page.getByLabel("Presence penalty", {exact: true});
  await field.focus();
  await page.keyboard.press("-");
  for (let looks = 0; looks < 2; looks += 1) await page.waitForResponse("**/console/models");
  await page.keyboard.press("1");
  assert.equal(await field.inputValue(), "-1");
  assert.equal(await page.evaluate(() => window.numWrites), 0);
  await page.context().close();
});

test("what is wrong is said once", async () => {
  const page = await visit();
  await page.route("**/health/ready", route => route.fulfill({status: 503, json: LOADING}));
  await page.evaluate(() => doubtReadiness());
  await page.getByText("The model is loading. Trying again").waitFor();
  await watchWrites(page, "main");
  for (let looks = 0; looks < 2; looks += 1) await page.waitForResponse("**/health/ready");
  await page.waitForTimeout(100);
  assert.equal(await page.evaluate(() => window.numWrites), 0);
  await page.unroute("**/health/ready");
  await page.locator("#status.ready").waitFor();

  await page.route(CHAT, route => route.fulfill(BUSY));
  const errors = () => page.locator(".error:visible").evaluateAll(all => all.map(each => each.role));
  await say(page, "First");
  await page.locator(".error:visible").waitFor();
  assert.deepEqual(await errors(), ["alert"]);
  await isDone(page);
  await say(page, "Second");
  await page.locator(".error:visible").nth(1).waitFor();
  assert.deepEqual(await errors(), [null, "alert"]);
  await page.context().close();
});

test("the theme follows the system until it is chosen", async () => {
  const page = await visit({colorScheme: "dark"});
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await ground(), "rgb(14, 17, 19)");
  await page.getByRole("button", {name: "Theme: system"}).click();
  assert.equal(await ground(), "rgb(246, 247, 247)");
  await page.getByRole("button", {name: "Theme: light"}).click();
  await page.reload();
  assert.equal(await ground(), "rgb(14, 17, 19)");
  await leave(page);
});

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [WIDE, NARROW]) {
    test(`names, contrast and size: ${colorScheme}, ${viewport.width} wide`, async () => {
      const page = await visit({colorScheme, viewport});
      assert.deepEqual(await page.evaluate(violations), []);
      await say(page, "Explain paged attention");
      await isDone(page);
      await page.locator(".message.assistant details").evaluate(details => { details.open = true; });
      assert.deepEqual(await page.evaluate(violations), []);
      if (viewport === NARROW) {
        for (const name of ["Engine and sampling", "Conversations"]) {
          await page.getByRole("button", {name, exact: true}).click();
          assert.deepEqual(await page.evaluate(violations), []);
          await page.keyboard.press("Escape");
        }
      }
      await leave(page);
    });
  }
}

test("every control is reached by keyboard, and focus is seen", async () => {
  const page = await visit();
  const reached = new Set();
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press("Tab");
    const {id, outline} = await page.evaluate(() => {
      const {activeElement} = document;
      return {id: activeElement.id, outline: getComputedStyle(activeElement).outlineStyle};
    });
    if (id && id !== "prompt") assert.notEqual(outline, "none", id);
    reached.add(id);
  }
  for (const id of ["new", "theme", "change-key", "model", "prompt", "send", "system", "sampling-temperature", "sampling-seed"]) {
    assert.ok(reached.has(id), id);
  }
  await leave(page);
});

test.after(() => browser.close());
