// The shop: takes orders, shows what becomes of them as it happens, and counts them at night.
//
//   POST /shop/api/orders   with {"customer", "item", "quantity"}: publishes the order, and answers 202 once it is durable
//   GET  /shop/api/live     the newest orders, again with each change: server-sent events
//   GET  /shop/api/report   what the last night's count came to
//
// Who packs an order is another function, `fulfil`. This one does not wait for it: the topic `orders` is between them.

import type { Handler, Message, ShopEnv } from "../../minnow.d.ts";

const ITEMS = ["anchovy", "herring", "sardine"];
const MAX_CUSTOMER = 40;
const MAX_QUANTITY = 1000;
/** How many orders the page shows. */
const SHOWN = 20;
/** How long an order is shown, in seconds. */
const KEPT_S = 7 * 24 * 3600;
/** How often the live page looks whether there is something new, in milliseconds. */
const LOOK_EVERY = 500;

interface Order {
  customer: string;
  item: string;
  quantity: number;
  placed_ms: number;
}

type Status = Order & { state: "packed" | "refused" };

export default {
  async fetch(request, env, ctx) {
    const { pathname } = new URL(request.url);
    switch (`${request.method} ${pathname}`) {
      case "POST /shop/api/orders":
        return await order(request, env);
      case "GET /shop/api/live":
        return live(request, env);
      case "GET /shop/api/report":
        return Response.json(await env.SHOP.get("report", "json") ?? { orders: 0, items: {} });
      default:
        return refuse(405, "use POST for orders, and GET for live and report");
    }
  },

  /** Orders that nobody could pack: copies of the dead letters of `fulfil`. */
  async queue(batch, env) {
    for (const message of batch.messages as Message<Order>[]) {
      const id = message.attributes.deadletterid ?? message.id;
      await put(env, id, { ...message.body, state: "refused" });
    }
  },

  /** Once a night, and with `minnow schedule run nightly`. */
  async scheduled(event, env) {
    const orders = (await newest(env)).filter(({ state }) => state === "packed");
    const items: Record<string, number> = {};
    for (const { item, quantity } of orders) items[item] = (items[item] ?? 0) + quantity;
    await env.SHOP.put("report", JSON.stringify({ due: new Date(event.scheduledTime), orders: orders.length, items }));
    console.log(`${event.name}: ${orders.length} orders are packed`);
  },
} satisfies Handler<ShopEnv>;

async function order(request: Request, env: ShopEnv): Promise<Response> {
  const { customer, item, quantity } = await request.json().catch(() => ({})) ?? {};
  if (typeof customer !== "string" || customer.trim() === "" || customer.length > MAX_CUSTOMER) {
    return refuse(400, `A customer has a name of at most ${MAX_CUSTOMER} characters.`);
  }
  if (!ITEMS.includes(item)) {
    return refuse(400, `An item is one of ${ITEMS.join(", ")}.`);
  }
  // 0 is for those who want to see a dead letter.
  if (!Number.isInteger(quantity) || quantity < 0 || quantity > MAX_QUANTITY) {
    return refuse(400, `A quantity is a whole number from 0 to ${MAX_QUANTITY}.`);
  }
  const placed: Order = { customer: customer.trim(), item, quantity, placed_ms: Date.now() };
  // The orders of one customer are packed one after the other.
  const { id } = await env.ORDERS.send(placed, { key: placed.customer, type: "order.placed", subject: item });
  return Response.json({ id }, { status: 202 });
}

async function put(env: ShopEnv, id: string, status: Status) {
  await env.SHOP.put(`order/${id}`, JSON.stringify(status), { expirationTtl: KEPT_S });
  await env.SHOP.increment("changes");
}

/** All orders that are shown, the newest first. */
async function newest(env: ShopEnv): Promise<(Status & { id: string })[]> {
  const { keys } = await env.SHOP.list({ prefix: "order/" });
  const found: (Status & { id: string })[] = [];
  for (let at = 0; at < keys.length; at += 100) {
    const names = keys.slice(at, at + 100).map(({ name }) => name);
    for (const [name, status] of await env.SHOP.get<Status>(names, "json")) {
      if (status) found.push({ id: name.slice("order/".length), ...status });
    }
  }
  return found.sort((one, other) => other.placed_ms - one.placed_ms);
}

/** Sends the orders whenever they have changed, until the browser goes or the invocation's time is over; it then asks again. */
function live(request: Request, env: ShopEnv): Response {
  let isOpen = true;
  request.signal.addEventListener("abort", () => isOpen = false);
  const encoder = new TextEncoder();
  const events = new ReadableStream<Uint8Array>({
    async start(controller) {
      let seen: string | null | undefined;
      while (isOpen) {
        const changes = await env.SHOP.get("changes");
        if (changes !== seen) {
          seen = changes;
          const orders = (await newest(env)).slice(0, SHOWN);
          controller.enqueue(encoder.encode(`data: ${JSON.stringify(orders)}\n\n`));
        }
        await new Promise((done) => setTimeout(done, LOOK_EVERY));
      }
      controller.close();
    },
    cancel() {
      isOpen = false;
    },
  });
  return new Response(events, { headers: { "content-type": "text/event-stream", "cache-control": "no-store" } });
}

function refuse(status: number, error: string): Response {
  return Response.json({ error }, { status });
}
