// What the wasm guests answer, for all servers alike: Minnow, `deno serve` and workerd run this very file.
export default {
  fetch() {
    return new Response("Hello, World!\n", { headers: { "content-type": "text/plain" } });
  },
};
