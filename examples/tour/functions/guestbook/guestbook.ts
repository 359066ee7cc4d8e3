// The guestbook's figures, and the upload of photos:
//
//   GET  /guestbook/api/stats    how many entries and visits there are, the newest entry's number, who writes most
//   POST /guestbook/api/visits   counts a visit
//   POST /guestbook/api/photos   with {"type", "size"}: a key, and a URL to which the browser may PUT one photo

import type { GuestbookEnv, Handler } from "../../minnow.d.ts";

/** What browsers show in an <img>. SVG is not in it: it can carry scripts. */
const PHOTO_TYPES = ["image/avif", "image/gif", "image/jpeg", "image/png", "image/webp"];
const MAX_PHOTO_BYTES = 5 * 1024 * 1024;
/** How long an upload may wait to begin, in seconds. */
const UPLOAD_EXPIRES_S = 600;

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    switch (`${request.method} ${pathname.slice(pathname.lastIndexOf("/") + 1)}`) {
      case "GET stats":
        return Response.json(await stats(env));
      case "POST visits":
        return Response.json({ visits: Number(await env.COUNTERS.increment("visits")) });
      case "POST photos":
        return await photo(request, env);
      default:
        return refuse(405, "use GET for stats, and POST for visits and photos");
    }
  },
} satisfies Handler<GuestbookEnv>;

async function stats(env: GuestbookEnv) {
  const [counters, newest, writers] = await Promise.all([
    env.COUNTERS.get(["visits", "entries"]),
    env.MAIN.prepare("SELECT max(id) AS id FROM entry").first<number>("id"),
    env.MAIN.prepare("SELECT name, count(*) AS entries FROM entry GROUP BY name ORDER BY entries DESC, name LIMIT 3")
      .all<{ name: string; entries: number }>(),
  ]);
  const counter = (name: string) => Number(counters.get(name) ?? 0);
  return { visits: counter("visits"), entries: counter("entries"), newest: newest ?? 0, writers: writers.results };
}

/** Signs a URL for one upload. The photo does not pass through this function: the gateway takes it, and holds it to this. */
async function photo(request: Request, env: GuestbookEnv): Promise<Response> {
  const { type, size } = await request.json().catch(() => ({})) ?? {};
  if (!PHOTO_TYPES.includes(type)) {
    return refuse(400, `A photo is one of ${PHOTO_TYPES.join(", ")}.`);
  }
  if (!Number.isInteger(size) || size < 1 || size > MAX_PHOTO_BYTES) {
    return refuse(400, "A photo has 1 byte to 5 MiB.");
  }
  const key = crypto.randomUUID();
  const url = await env.PHOTOS.signedUrl(key, {
    method: "PUT",
    expiresIn: UPLOAD_EXPIRES_S,
    maxSize: size,
    contentType: type,
  });
  return Response.json({ key, url });
}

function refuse(status: number, error: string): Response {
  return Response.json({ error }, { status });
}
