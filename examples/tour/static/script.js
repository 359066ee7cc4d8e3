// The tour's page in the browser: each form calls another function of the same app.

const find = (id) => document.getElementById(id);

find("greet")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = new FormData(event.target).get("name") || "stranger";
  location.href = `/hello/${encodeURIComponent(name)}`;
});

find("shout")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData(event.target).get("text");
  const response = await fetch("/cgi/shout", { method: "POST", body });
  find("shouted").textContent = await response.text();
});

if (find("clock")) {
  // The API's clock is a stream of server-sent events; the browser connects again when it ends.
  new EventSource("/api/clock").onmessage = (event) => {
    find("clock").textContent = new Date(event.data).toLocaleTimeString();
  };
}
