// Orders in the shop of examples/tour as its customers do. The test `an_order_is_seen_on_its_way_in_chromium` runs it:
//
//   node shop.mjs URL PLAYWRIGHT CHROMIUM
//
// with the app's URL, the folder with playwright-core in node_modules, and the browser's program. Its last line is `well`.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [url, playwright, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(`${playwright}/`)("playwright-core");

/** How long anything may take, in milliseconds: far more than a busy machine with two cores needs. */
const PATIENCE = 60_000;
/** What would change the page if it were taken for HTML. */
const HARM = `<b onclick="1">Ada</b>`;

// Playwright starts Chromium without its own sandbox: as root it has none. It opens nothing here but the test's node.
const browser = await chromium.launch({ executablePath, timeout: PATIENCE });

/** A customer with a browser profile of their own, on the shop's page. */
async function customer() {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(PATIENCE);
  const troubles = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") troubles.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => troubles.push(`thrown: ${error.message}`));
  await page.goto(`${url}/shop/`);
  const rows = page.getByRole("table", { name: "Orders" }).locator("tbody tr");
  return { page, troubles, rows };
}

async function order({ page }, name, item, quantity) {
  await page.getByLabel("Customer").fill(name);
  await page.getByLabel("Item").selectOption(item);
  await page.getByLabel("Quantity").fill(String(quantity));
  await page.getByRole("button", { name: "Order" }).click();
}

const texts = (row) => row.locator("td").allTextContents();

async function run() {
  const ada = await customer();
  const grace = await customer();
  // Both see it without a reload, as text.
  await order(ada, HARM, "herring", 3);
  for (const { rows } of [ada, grace]) {
    await rows.filter({ hasText: "packed" }).first().waitFor();
    const [, who, what, state] = await texts(rows.first());
    assert.deepEqual([who, what, state], [HARM, "3 × herring", "packed"]);
    assert.equal(await rows.locator("b").count(), 0);
  }
  await ada.page.getByRole("status").filter({ hasText: "is taken" }).waitFor();
  // What nobody can pack is refused in the end.
  await order(grace, "Grace", "sardine", 0);
  for (const { rows } of [ada, grace]) {
    await rows.filter({ hasText: "refused" }).first().waitFor();
    assert.equal(await rows.count(), 2);
    assert.deepEqual((await texts(rows.first())).slice(1), ["Grace", "0 × sardine", "refused"]);
  }
  for (const { troubles } of [ada, grace]) assert.deepEqual(troubles, []);
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
