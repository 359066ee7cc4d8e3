// CPU work, for Minnow, `deno serve` and node alike: each iteration writes a document as JSON, reads it back, and hashes the
// JSON with SHA-256. `?n=` says how many iterations, the path how they hash:
//
// - `/script`: SHA-256 written in JavaScript, so that all of the work is the engine's.
// - `/node`: createHash of node:crypto.
// - `/subtle`: crypto.subtle.digest, one promise an iteration.
//
// The answer is the last hash: each iteration's document holds the hash before it, so that none can be left out.
import { createHash } from "node:crypto";

const UTF8 = new TextEncoder();

const HASHES = {
  "/script": (text) => hex(sha256(UTF8.encode(text))),
  "/node": (text) => createHash("sha256").update(text).digest("hex"),
  "/subtle": async (text) => hex(new Uint8Array(await crypto.subtle.digest("SHA-256", UTF8.encode(text)))),
};

export default {
  async fetch(request) {
    const url = new URL(request.url);
    const hash = HASHES[url.pathname];
    const iterations = Number(url.searchParams.get("n"));
    if (!hash || !(iterations > 0)) {
      return new Response("no such work\n", { status: 404 });
    }
    let last = "";
    for (let i = 0; i < iterations; i++) {
      const text = JSON.stringify(documentAfter(last, i));
      const read = JSON.parse(text);
      const hashed = hash(text + read.orders.length);
      // No promise where there is none to wait for.
      last = typeof hashed === "string" ? hashed : await hashed;
    }
    return new Response(last + "\n", { headers: { "content-type": "text/plain" } });
  },
};

/** About 900 bytes of JSON, as an API would answer with. */
function documentAfter(previous, number) {
  const orders = [];
  for (let i = 0; i < 8; i++) {
    orders.push({ id: number * 8 + i, item: `part ${i}`, price: i * 1.25, tags: ["new", "small"], paid: i % 2 === 0, note: null });
  }
  return { previous, number, customer: { name: "Ada Lovelace", city: "London" }, orders };
}

function hex(bytes) {
  let text = "";
  for (const byte of bytes) {
    text += byte.toString(16).padStart(2, "0");
  }
  return text;
}

// FIPS 180-4, section 6.2: the constants are the fractional parts of the roots of the first primes.
const PRIMES = [];
for (let candidate = 2; PRIMES.length < 64; candidate++) {
  if (PRIMES.every((prime) => candidate % prime !== 0)) {
    PRIMES.push(candidate);
  }
}
const fraction = (root) => ((root - Math.floor(root)) * 2 ** 32) | 0;
const START = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const ROUNDS = Int32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));
const WORDS = new Int32Array(64);

function sha256(message) {
  const length = Math.ceil((message.length + 9) / 64) * 64;
  const bytes = new Uint8Array(length);
  bytes.set(message);
  bytes[message.length] = 0x80;
  const view = new DataView(bytes.buffer);
  view.setUint32(length - 8, Math.floor(message.length / 2 ** 29));
  view.setUint32(length - 4, message.length << 3);
  const hash = Int32Array.from(START);
  for (let block = 0; block < length; block += 64) {
    for (let t = 0; t < 16; t++) {
      WORDS[t] = view.getInt32(block + t * 4);
    }
    for (let t = 16; t < 64; t++) {
      const a = WORDS[t - 15];
      const b = WORDS[t - 2];
      const s0 = rotate(a, 7) ^ rotate(a, 18) ^ (a >>> 3);
      const s1 = rotate(b, 17) ^ rotate(b, 19) ^ (b >>> 10);
      WORDS[t] = (WORDS[t - 16] + s0 + WORDS[t - 7] + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let t = 0; t < 64; t++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const one = (h + s1 + ((e & f) ^ (~e & g)) + ROUNDS[t] + WORDS[t]) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + one) | 0;
      d = c;
      c = b;
      b = a;
      a = (one + two) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] += value));
  }
  const result = new DataView(new ArrayBuffer(32));
  hash.forEach((value, i) => result.setInt32(i * 4, value));
  return new Uint8Array(result.buffer);
}

function rotate(word, by) {
  return (word >>> by) | (word << (32 - by));
}
