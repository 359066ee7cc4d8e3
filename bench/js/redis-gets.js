// What kv-gets.js does, in Deno and with Redis, over one connection that is kept.
import { createClient } from "redis";

const redis = await createClient({ url: Deno.env.get("REDIS_URL") }).connect();

export default {
  async fetch(request) {
    const count = Number(new URL(request.url).searchParams.get("n"));
    let bytes = 0;
    const began = performance.now();
    for (let i = 0; i < count; i++) {
      bytes += (await redis.get("k")).length;
    }
    return Response.json({ bytes, each_ns: ((performance.now() - began) * 1e6) / count });
  },
};
