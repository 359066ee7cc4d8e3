// The guestbook's page: shows the entries, and asks for news while somebody is looking.

const API = "/guestbook/api";
/** How often the page asks whether there is something new, in milliseconds. */
const LOOK_EVERY = 2000;
/** As the function that signs uploads has it; here so that nobody waits for an upload that is refused. */
const MAX_PHOTO_BYTES = 5 * 1024 * 1024;

const find = (id) => document.getElementById(id);
/** The number of the newest entry on the page. */
let newest = 0;
/** Whether the page has shown what was there when it was opened: what comes after that is news. */
let opened = false;

/** Calls the app, and answers with what it says; what it refuses is thrown in its own words. */
async function call(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(answer.error ?? answer.detail ?? answer.title ?? `the answer was ${response.status}`);
  }
  return answer;
}

const post = (path, value) => call(path, { method: "POST", body: JSON.stringify(value) });

/** An element with this text: never HTML, since strangers write it. */
function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function item({ name, text, photo, written_ms }) {
  const written = new Date(written_ms);
  const time = element("time", written.toLocaleString());
  time.dateTime = written.toISOString();
  const entry = document.createElement("li");
  entry.append(element("strong", name), time, element("p", text));
  if (photo) {
    const image = document.createElement("img");
    image.src = photo;
    image.alt = `Photo by ${name}`;
    image.loading = "lazy";
    entry.append(image);
  }
  return entry;
}

function showStats({ visits, entries, writers }) {
  find("visit-count").textContent = visits;
  find("entry-count").textContent = entries;
  const most = writers.map((writer) => `${writer.name} (${writer.entries})`).join(", ");
  find("writers").textContent = most && `Most are by ${most}.`;
}

/** Puts what was written after the newest entry on top of the list. */
async function showNewEntries() {
  const entries = (await call(`${API}/entries?after=${newest}`)).filter(({ id }) => id > newest);
  if (entries.length === 0) return;
  newest = entries[0].id;
  find("entries").prepend(...entries.map(item));
  if (opened) find("news").textContent = `New: ${entries.map(({ name }) => name).join(", ")}`;
}

/** One look at a time, so that no entry is shown twice. */
let looking = Promise.resolve();
function look() {
  looking = looking.then(showNewEntries, showNewEntries);
  return looking;
}

async function watch() {
  try {
    if (!document.hidden) {
      const stats = await call(`${API}/stats`);
      if (stats.newest > newest) await look();
      showStats(stats);
      opened = true;
      showTrouble("");
    }
  } catch (error) {
    showTrouble(`The guestbook cannot be reached now: ${error.message}`);
  }
  setTimeout(watch, LOOK_EVERY);
}

/** Says it once, however often it is tried again. */
function showTrouble(text) {
  if (find("trouble").textContent !== text) find("trouble").textContent = text;
}

/** Uploads a photo to the URL that the app signs for it. Answers with its key. */
async function upload(photo) {
  if (photo.size > MAX_PHOTO_BYTES) throw new Error("The photo has more than 5 MiB.");
  const { key, url } = await post(`${API}/photos`, { type: photo.type, size: photo.size });
  await call(url, { method: "PUT", headers: { "content-type": photo.type }, body: photo });
  return key;
}

find("sign").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const photo = find("photo").files[0];
  find("error").textContent = "";
  find("send").disabled = true;
  try {
    const entry = Object.fromEntries(new FormData(form));
    if (photo) entry.photo = await upload(photo);
    await post(`${API}/entries`, entry);
    form.reset();
    await look();
    showStats(await call(`${API}/stats`));
  } catch (error) {
    find("error").textContent = error.message;
  } finally {
    find("send").disabled = false;
  }
});

// A visit is counted once for each page that is opened.
post(`${API}/visits`, {}).then(watch, watch);
