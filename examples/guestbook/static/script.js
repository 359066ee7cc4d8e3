const [form, list, stats, error] = ["form", "entries", "stats", "error"].map((id) => document.getElementById(id));

async function call(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? answer.title ?? `the answer was ${response.status}`);
  return answer;
}

function item({ name, text, written_ms }) {
  const [entry, head, time, body] = ["li", "strong", "time", "p"].map((tag) => document.createElement(tag));
  head.textContent = name;
  time.dateTime = new Date(written_ms).toISOString();
  time.textContent = ` ${new Date(written_ms).toLocaleString()}`;
  body.textContent = text;
  entry.append(head, time, body);
  return entry;
}

async function showStats() {
  const { visits, entries, writers } = await call("/api/stats");
  const most = writers.length > 0 ? `; most by ${writers.map(({ name, entries }) => `${name} (${entries})`).join(", ")}` : "";
  stats.textContent = `${entries} entries, ${visits} visits${most}`;
}

async function show() {
  list.replaceChildren(...(await call("/api/entries")).map(item));
  await showStats();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.textContent = "";
  try {
    const entry = Object.fromEntries(new FormData(form));
    list.prepend(item(await call("/api/entries", { method: "POST", body: JSON.stringify(entry) })));
    form.reset();
    await showStats();
  } catch (problem) {
    error.textContent = problem.message;
  }
});

show().catch((problem) => error.textContent = problem.message);
