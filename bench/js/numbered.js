// The hello of which each function gets a copy of its own, with another number; `?loop` never ends.
const NUMBER = 0;

export default {
  fetch(request) {
    if (request.url.endsWith("?loop")) {
      for (;;) {}
    }
    return new Response("Hello, World!\n", { headers: { "content-type": "text/plain", "x-number": `${NUMBER}` } });
  },
};
