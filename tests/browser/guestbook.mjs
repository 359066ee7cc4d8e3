// Signs the guestbook of examples/tour as its visitors do. The test `a_guestbook_is_signed_in_chromium` runs it:
//
//   node guestbook.mjs URL PLAYWRIGHT CHROMIUM
//
// with the app's URL, the folder with playwright-core in node_modules, and the browser's program. Its last line is `well`.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [url, playwright, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(`${playwright}/`)("playwright-core");

/** How long anything may take, in milliseconds: far more than a busy machine with two cores needs. */
const PATIENCE = 60_000;
/** What would change the page if it were taken for HTML. */
const HARM = `<script>window.harmed = true</script><img src="x" onerror="window.harmed = true"> & that's it`;
/** A red pixel. */
const PIXEL = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==",
  "base64",
);

// Playwright starts Chromium without its own sandbox: as root it has none. It opens nothing here but the test's node.
const browser = await chromium.launch({ executablePath, timeout: PATIENCE });

/** A visitor with a browser profile of their own, on the guestbook's page. */
async function visitor(name) {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(PATIENCE);
  const troubles = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") troubles.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => troubles.push(`thrown: ${error.message}`));
  page.on("requestfailed", (request) => {
    // What was under way when a page was left.
    if (request.failure()?.errorText !== "net::ERR_ABORTED") troubles.push(`no answer: ${request.url()}`);
  });
  await page.goto(`${url}/guestbook/`);
  await mark(page);
  const entries = page.getByRole("list", { name: "Entries" }).getByRole("listitem");
  return { name, page, troubles, entries };
}

/** Leaves a mark on the page, which a reload takes away. */
const mark = (page) => page.evaluate(() => void (window.marked = true));
const isMarked = (page) => page.evaluate(() => window.marked === true);

/** Waits until an element has this text. */
async function shows(locator, text) {
  const element = await locator.elementHandle();
  const became = locator.page().waitForFunction(([element, text]) => element.textContent === text, [element, text]);
  await became.catch(async (error) => {
    assert.fail(`\`${await element.textContent()}\` never became \`${text}\`: ${error.message}`);
  });
}

const visits = ({ page }, text) => shows(page.locator("#visit-count"), text);
const count = ({ page }, text) => shows(page.locator("#entry-count"), text);

/** Waits until a field of the form is empty, as it is once the entry was taken. */
async function isEmpty(field) {
  await field.page().waitForFunction((field) => field.value === "", await field.elementHandle());
}

async function sign({ page, name }, text, photo) {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Text").fill(text);
  if (photo) await page.getByLabel("Photo").setInputFiles(photo);
  await page.getByRole("button", { name: "Sign" }).click();
}

async function run() {
  const ada = await visitor("Ada <b>L.</b>");
  await visits(ada, "1");
  await count(ada, "0");

  // An entry is there without a reload, and is text.
  await sign(ada, HARM);
  const first = ada.entries.first();
  assert.equal(await first.locator("p").textContent(), HARM);
  assert.equal(await first.locator("strong").textContent(), ada.name);
  assert.equal(await first.locator("p *, strong *").count(), 0);
  assert.equal(await ada.page.evaluate(() => window.harmed), undefined);
  await count(ada, "1");
  await isEmpty(ada.page.getByLabel("Text"));

  // Another visitor sees it, is counted, and writes; the first sees that without a reload.
  const grace = await visitor("Grace");
  assert.equal(await grace.entries.first().locator("p").textContent(), HARM);
  await visits(grace, "2");
  await visits(ada, "2");
  await sign(grace, "A second one");
  await ada.entries.nth(1).waitFor();
  assert.equal(await ada.entries.first().locator("p").textContent(), "A second one");
  await shows(ada.page.getByRole("status").filter({ hasText: "New" }), "New: Grace");
  await count(ada, "2");
  assert.ok(await isMarked(ada.page), "the page was not loaded again");
  await shows(ada.page.locator("#writers"), `Most are by ${ada.name} (1), Grace (1).`);

  // Both are there after a reload, the newest first.
  await ada.page.reload();
  assert.ok(!await isMarked(ada.page));
  await ada.entries.nth(1).waitFor();
  assert.deepEqual(await ada.entries.locator("p").allTextContents(), ["A second one", HARM]);
  assert.equal(await ada.page.evaluate(() => window.harmed), undefined);
  await visits(ada, "3");

  // A photo goes to the gateway and comes from there, by signed URLs.
  await mark(ada.page);
  const puts = [];
  ada.page.on("request", (request) => request.method() === "PUT" && puts.push(new URL(request.url()).pathname));
  await sign(ada, "With a photo", { name: "pixel.png", mimeType: "image/png", buffer: PIXEL });
  for (const { page, entries } of [ada, grace]) {
    const photo = entries.first().getByRole("img", { name: `Photo by ${ada.name}` });
    await photo.scrollIntoViewIfNeeded();
    await photo.evaluate((image) => image.decode());
    assert.equal(await photo.evaluate((image) => image.naturalWidth), 1);
    const { pathname, searchParams } = new URL(await photo.getAttribute("src"), url);
    assert.ok(pathname.startsWith("/.minnow/blob/photos/") && searchParams.has("signature"), pathname);
    assert.deepEqual(puts, [pathname], "it was uploaded where it is read");
    assert.ok(await isMarked(page), "the page was not loaded again");
  }
  await isEmpty(ada.page.getByLabel("Photo"));
  await count(grace, "3");

  for (const { name, troubles } of [ada, grace]) assert.deepEqual(troubles, [], `${name} saw no errors`);

  // What is no photo is refused in words, and what was written stays in the form.
  const refused = [
    [{ name: "a.svg", mimeType: "image/svg+xml", buffer: Buffer.from("<svg/>") }, "A photo is one of image/avif"],
    [{ name: "a.png", mimeType: "image/png", buffer: Buffer.alloc(5 * 1024 * 1024 + 1) }, "more than 5 MiB"],
  ];
  for (const [photo, words] of refused) {
    await sign(grace, "Not this", photo);
    await grace.page.getByRole("alert").filter({ hasText: words }).waitFor();
    assert.equal(await grace.page.getByLabel("Text").inputValue(), "Not this");
  }
  assert.equal(await grace.entries.count(), 3);
  await count(grace, "3");
}

try {
  await run();
  console.log("well");
} catch (error) {
  console.error(error);
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    console.error(`${page.url()} shows:\n${await page.innerText("body").catch((error) => error.message)}`);
  }
  process.exitCode = 1;
} finally {
  await browser.close();
}
