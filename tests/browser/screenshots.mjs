// Takes the pictures of the documentation from a server that runs: `screenshots.mjs CHROMIUM URL FOLDER`.

import {chromium} from "playwright-core";

const [executablePath, url, folder] = process.argv.slice(2);
const QUESTIONS = [
  "What is the capital of France?",
  "Plan a quiet weekend by the sea.",
  "Write a Python function that merges two sorted lists.",
];
const KINDS = {
  light: {colorScheme: "light"},
  dark: {colorScheme: "dark"},
  mobile: {colorScheme: "dark", viewport: {width: 390, height: 844}, deviceScaleFactor: 2},
};

const browser = await chromium.launch({executablePath, args: ["--no-sandbox"]});
for (const [name, options] of Object.entries(KINDS)) {
  const context = await browser.newContext({viewport: {width: 1440, height: 900}, reducedMotion: "reduce", ...options});
  await context.addInitScript(() => localStorage.setItem("pagewire.sampling", '{"temperature":0,"max_tokens":220}'));
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(url);
  await page.locator("#status.ready").waitFor();
  for (const question of QUESTIONS) {
    await page.keyboard.press("Control+Shift+O");
    await page.getByLabel("Message", {exact: true}).fill(question);
    await page.keyboard.press("Enter");
    await page.locator(".message.assistant[aria-busy=false] .facts span").first().waitFor();
  }
  await page.screenshot({path: `${folder}/console-${name}.png`});
}
await browser.close();
