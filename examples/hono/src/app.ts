import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { html } from "hono/html";
import { logger } from "hono/logger";
import { secureHeaders } from "hono/secure-headers";
import { streamSSE, streamText } from "hono/streaming";
import { boats, search } from "./boats.ts";
import { talk } from "./talk.ts";

/** The variables of `env` in minnow.toml. */
interface Env {
  GREETING: string;
}

const app = new Hono<{ Bindings: Env }>();

// Middleware. What `logger` prints is in the app's log, under the id of the request.
app.use(logger());
app.use(secureHeaders());
app.use(async (c, next) => {
  const start = performance.now();
  await next();
  c.header("server-timing", `app;dur=${(performance.now() - start).toFixed(1)}`);
});

// A page. `html` escapes what is put into it.
app.get("/", (c) =>
  c.html(html`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${c.env.GREETING}</title>
<link rel="stylesheet" href="/static/style.css">
<script src="/static/script.js" defer></script>
<h1>${c.env.GREETING}, ${c.req.query("name") ?? "world"}!</h1>
<p>It is <time id="clock">…</time>, as the stream <code>/clock</code> says.</p>
<form id="talk"><input name="line" placeholder="Say something" autocomplete="off"> <button>Say</button></form>
<ol id="lines"></ol>
</html>`));

// JSON.
app.get("/boats", (c) => c.json(search(c.req.query("type"))));
app.get("/boats/:name", (c) => {
  const boat = boats.get(c.req.param("name"));
  return boat ? c.json(boat) : c.json({ error: "there is no such boat" }, 404);
});
app.post("/count", bodyLimit({ maxSize: 64 * 1024 }), async (c) => {
  const text = await c.req.text();
  // What is given to waitUntil goes on after the response has been sent.
  c.executionCtx.waitUntil(note(text.length));
  return c.json({ characters: text.length, words: text.split(/\s+/).filter(Boolean).length });
});

async function note(characters: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 100));
  console.log(`counted ${characters} characters`);
}

// Streams: server-sent events, and text in pieces. They end when the client goes away.
app.get("/clock", (c) =>
  streamSSE(c, async (stream) => {
    for (let tick = 0; tick < 60 && !stream.aborted; tick++) {
      await stream.writeSSE({ id: `${tick}`, data: new Date().toISOString() });
      await stream.sleep(1000);
    }
  }));
app.get("/countdown/:from{[0-9]{1,2}}", (c) =>
  streamText(c, async (stream) => {
    for (let n = Number(c.req.param("from")); n > 0 && !stream.aborted; n--) {
      await stream.writeln(`${n}`);
      await stream.sleep(100);
    }
    await stream.writeln("go");
  }));

// A WebSocket.
app.get("/talk", (c) => talk(c.req.raw, c.env.GREETING));

// What a handler throws ends here; without this, the client gets Minnow's own answer, and the log has the stack as well.
app.get("/broken", () => {
  throw new Error("this boat leaks");
});
app.onError((error, c) => {
  console.error(error);
  return c.json({ error: "something went wrong" }, 500);
});
app.notFound((c) => c.json({ error: "there is nothing here" }, 404));

// Hono's app has a `fetch(request, env, ctx)`, which is what Minnow calls.
export default app;
