// A hundred gets, one after the other, from a store of Minnow's: `?n=` says how many. The answer is how long one took, in
// nanoseconds. redis-gets.js does the same with Redis.
export default {
  async fetch(request, env) {
    const count = Number(new URL(request.url).searchParams.get("n"));
    let bytes = 0;
    const began = performance.now();
    for (let i = 0; i < count; i++) {
      bytes += (await env.ITEMS.get("k")).length;
    }
    return Response.json({ bytes, each_ns: ((performance.now() - began) * 1e6) / count });
  },
};
