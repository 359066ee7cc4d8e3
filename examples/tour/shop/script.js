// The shop's page: sends orders, and shows what becomes of them as the app tells it.

const API = "/shop/api";

const find = (id) => document.getElementById(id);

/** An element with this text: never HTML, since strangers write it. */
function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function row({ customer, item, quantity, placed_ms, state }) {
  const placed = new Date(placed_ms);
  const time = element("time", placed.toLocaleTimeString());
  time.dateTime = placed.toISOString();
  const cell = document.createElement("td");
  cell.append(time);
  const made = document.createElement("tr");
  made.className = state;
  made.append(cell, element("td", customer), element("td", `${quantity} × ${item}`), element("td", state));
  return made;
}

// The browser asks again by itself when the stream ends.
new EventSource(`${API}/live`).addEventListener("message", ({ data }) => {
  find("orders").replaceChildren(...JSON.parse(data).map(row));
});

find("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  find("send").disabled = true;
  find("error").textContent = "";
  try {
    const { customer, item, quantity } = Object.fromEntries(new FormData(find("order")));
    const body = JSON.stringify({ customer, item, quantity: Number(quantity) });
    const response = await fetch(`${API}/orders`, { method: "POST", body });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error ?? answer.detail ?? `the answer was ${response.status}`);
    find("news").textContent = `Order ${answer.id} is taken.`;
  } catch (error) {
    find("error").textContent = error.message;
  } finally {
    find("send").disabled = false;
  }
});
