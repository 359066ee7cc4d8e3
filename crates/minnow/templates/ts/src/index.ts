import type { Env, ExecutionContext, Handler } from "../minnow.d.ts";

export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    if (url.pathname === "/" && ["GET", "HEAD"].includes(request.method)) {
      return greet(url.searchParams.get("name") || "world", env);
    }
    if (url.pathname === "/count" && request.method === "POST") {
      return count(await request.text(), ctx);
    }
    return new Response("There is nothing here.\n", { status: 404 });
  },
} satisfies Handler<Env>;

function greet(name: string, env: Env): Response {
  console.log(`greeting ${name}`);
  const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${html(env.GREETING)}</title>
<link rel="stylesheet" href="/static/style.css">
<main>
<h1>${html(env.GREETING)}, ${html(name)}!</h1>
<p>This page was made by <code>src/index.ts</code>.</p>
<form><input name="name" placeholder="Your name"> <button>Greet</button></form>
</main>
`;
  return new Response(page, { headers: { "content-type": "text/html; charset=utf-8" } });
}

/** Answers how long the text in the request's body is. */
function count(text: string, ctx: ExecutionContext): Response {
  const answer = {
    bytes: new TextEncoder().encode(text).length,
    words: text.split(/\s+/).filter(Boolean).length,
  };
  // What is given to waitUntil may go on after the response has been sent.
  ctx.waitUntil(note(answer.words));
  return Response.json(answer);
}

async function note(words: number): Promise<void> {
  console.log(`counted ${words} words`);
}

/** The text, so that a browser shows it as it is. */
function html(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
