// The stores and locks that the function was granted, in `env`: calls to the node over a socket of their own.
//
// A frame, both ways: four bytes with the length of the rest (little endian), four with that of the head, the head in JSON,
// then the raw bytes that the head speaks of. Frames that wait leave together.

const nativeConnect = Deno.connect;
const NativeMap = Map;
const NativeDate = Date;
const mapSetEntry = uncurry(Map.prototype.set);
const encodeText = uncurry(TextEncoder.prototype.encode);
const readBytes = uncurry(Response.prototype.bytes);
const TypedArrayPrototype = getPrototypeOf(Uint8Array.prototype);
const byteLengthOf = getter(TypedArrayPrototype, "byteLength");
const byteOffsetOf = getter(TypedArrayPrototype, "byteOffset");
/** Undefined for what is no typed array. */
const kindOfArray = getter(TypedArrayPrototype, Symbol.toStringTag);
const viewBuffer = getter(DataView.prototype, "buffer");
const viewOffset = getter(DataView.prototype, "byteOffset");
const viewLength = getter(DataView.prototype, "byteLength");
const copyWithin = uncurry(Uint8Array.prototype.copyWithin);
const bufferLength = getter(ArrayBuffer.prototype, "byteLength");
const NativeArrayBuffer = ArrayBuffer;
const NativeReadableStream = ReadableStream;
const NativeBigInt = BigInt;
const NativeNumber = Number;
const { isSafeInteger, isFinite: isFiniteNumber } = Number;
const hasOwn = Object.hasOwn;
const now = Date.now;
const { floor } = Math;

/** The most bytes of one call: the largest value, with room for its key and what is said of it. */
const MAX_VALUE_BYTES = 25 << 20;
const MAX_CALL_BYTES = MAX_VALUE_BYTES + (1 << 20);

/** Frames up to this size are read and written together; a larger one has memory of its own. */
const PIECE_BYTES = 1 << 16;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
/** For values that are text as it is: a mark of the byte order at its start belongs to it. */
const wholeDecoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The most that a message repeats of what the function gave, in UTF-16 units. */
const MAX_SHOWN = 100;
const shown = (value) => cut(describe(value), MAX_SHOWN);

/**
 * A string as the node can read it: half of a surrogate pair becomes U+FFFD, as it does in a value. What is no string is
 * refused: `undefined` and `[object Object]` are keys that nobody means.
 */
function stringOf(what, value) {
  if (typeof value !== "string") throw new NativeTypeError(`${what} is a string, not ${shown(value)}`);
  return toWellFormed(value);
}

const keyOf = (value) => stringOf("a key", value);

/** The options that were given; a mistake there must not pass for none. */
function optionsOf(what, value) {
  if (value === undefined || value === null) return { __proto__: null };
  if (typeof value !== "object") throw new NativeTypeError(`${what}: the options are an object, not ${shown(value)}`);
  return value;
}

/** What the node says when a call fails; docs/data.md lists the codes. `connection` is made here alone. */
class StoreError extends NativeError {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}
defineProperty(StoreError.prototype, "name", { __proto__: null, value: "StoreError" });

let wire = null;
/** What the connection begins with, so that the node knows it for this script's; made in `environment`. */
let dataKey;

/** The connection: made with the first call, and again with the first one after it has failed. */
class Wire {
  #conn = null;
  #nextId = 1;
  #waiting = { __proto__: null };
  #queue = [];
  #writing = false;
  #hasFailed = false;

  /** Makes a call; answers with its result and the bytes that came with it. Nobody else may have the payload's memory. */
  call(store, call, payload, run) {
    const id = this.#nextId++;
    const head = encodeText(encoder, stringify({ __proto__: null, id, run: run || undefined, store, call }));
    let size = 0;
    for (let i = 0; i < payload.length; i++) size += byteLengthOf(payload[i]);
    if (4 + byteLengthOf(head) + size > MAX_CALL_BYTES) {
      throw new StoreError("too_large", `a call has ${byteLengthOf(head) + size} bytes, the most is ${MAX_VALUE_BYTES} for all of its values; divide it`);
    }
    const lengths = new NativeUint8Array(8);
    putLength(lengths, 0, 4 + byteLengthOf(head) + size);
    putLength(lengths, 4, byteLengthOf(head));
    const answer = new NativePromise((resolve, reject) => this.#waiting[id] = { __proto__: null, resolve, reject });
    push(this.#queue, lengths);
    push(this.#queue, head);
    for (let i = 0; i < payload.length; i++) push(this.#queue, payload[i]);
    if (!this.#writing) {
      // What the connection does is no invocation's.
      const context = getAsyncContext();
      setAsyncContext(undefined);
      this.#write();
      setAsyncContext(context);
    }
    return answer;
  }

  async #write() {
    this.#writing = true;
    try {
      if (this.#conn === null) {
        this.#conn = await nativeConnect({ __proto__: null, transport: "unix", path: dataPath });
        for (let at = 0; at < byteLengthOf(dataKey);) at += await this.#conn.write(part(dataKey, at));
        this.#read();
      }
      while (this.#queue.length > 0 && !this.#hasFailed) {
        const bytes = this.#next();
        for (let at = 0; at < byteLengthOf(bytes);) at += await this.#conn.write(part(bytes, at));
      }
    } catch (error) {
      this.#fail(error);
    }
    this.#writing = false;
  }

  /** What leaves next: small pieces together, a large one as it is. */
  #next() {
    const queue = this.#queue;
    let size = byteLengthOf(queue[0]);
    let count = 1;
    while (count < queue.length && size + byteLengthOf(queue[count]) <= PIECE_BYTES) size += byteLengthOf(queue[count++]);
    const pieces = splice(queue, 0, count);
    if (count === 1) return pieces[0];
    const bytes = new NativeUint8Array(size);
    for (let i = 0, at = 0; i < count; i++) {
      setBytes(bytes, pieces[i], at);
      at += byteLengthOf(pieces[i]);
    }
    return bytes;
  }

  async #read() {
    const buffer = new NativeUint8Array(PIECE_BYTES);
    let start = 0;
    let end = 0;
    try {
      for (;;) {
        while (end - start >= 4) {
          const length = 4 + lengthAt(buffer, start);
          if (length > PIECE_BYTES) {
            await this.#readLarge(part(buffer, start, end), length);
            start = end;
          } else if (end - start >= length) {
            this.#hear(buffer, start + 4, start + length, false);
            start += length;
          } else {
            break;
          }
        }
        if (start > 0) {
          copyWithin(buffer, 0, start, end);
          end -= start;
          start = 0;
        }
        end += await this.#receive(part(buffer, end));
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Reads a frame into memory of its own, so that its bytes need not be copied. */
  async #readLarge(begun, length) {
    const frame = new NativeUint8Array(length);
    setBytes(frame, begun, 0);
    for (let at = byteLengthOf(begun); at < length;) at += await this.#receive(part(frame, at));
    this.#hear(frame, 4, length, true);
  }

  async #receive(bytes) {
    const read = await this.#conn.read(bytes);
    if (read === null) throw new StoreError("connection", "the node has closed the connection to the stores");
    return read;
  }

  #hear(buffer, start, end, isOwn) {
    const head = start + 4 + lengthAt(buffer, start);
    const { 0: id, 1: answer } = parseJson(decode(decoder, part(buffer, start + 4, head)));
    const waiting = this.#waiting[id];
    if (waiting === undefined) return;
    delete this.#waiting[id];
    const failed = answer.failed;
    if (failed !== undefined) waiting.reject(new StoreError(failed.code, failed.message));
    // A buffer that is used again is copied.
    else waiting.resolve({ __proto__: null, answer, bytes: isOwn ? part(buffer, head, end) : copyBytes(buffer, head, end) });
  }

  /** Nobody knows what became of the calls that wait. The next one has a connection of its own. */
  #fail(error) {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    if (wire === this) wire = null;
    const why = isPrototypeOf(NativeError.prototype, error) ? error.message : describe(error);
    const failure = new StoreError(
      "connection",
      `the connection to the node's stores broke off (${why}); whether the call was made is not known`,
    );
    const waiting = this.#waiting;
    this.#waiting = { __proto__: null };
    this.#queue = [];
    const ids = ownKeys(waiting);
    for (let i = 0; i < ids.length; i++) waiting[ids[i]].reject(failure);
    try {
      this.#conn?.close();
    } catch {
      // It is closed already.
    }
  }
}
freeze(Wire.prototype);

function putLength(bytes, at, length) {
  for (let i = 0; i < 4; i++) bytes[at + i] = length >>> (8 * i);
}

function lengthAt(bytes, at) {
  return (bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | bytes[at + 3] << 24) >>> 0;
}

/** `subarray`, which would ask the function's module for a constructor. */
function part(bytes, start, end = byteLengthOf(bytes)) {
  return new NativeUint8Array(bufferOf(bytes), byteOffsetOf(bytes) + start, end - start);
}

function copyBytes(buffer, start, end) {
  const copy = new NativeUint8Array(end - start);
  setBytes(copy, part(buffer, start, end), 0);
  return copy;
}

const noBytes = new NativeUint8Array(0);
/** Makes a call of the current invocation, or of `run`. */
const ask = (store, call, payload = [], run = currentId()) => (wire ??= new Wire()).call(store, call, payload, run);

/** A copy of the bytes of a view, whose memory the function may change, or take away, at any time. */
function copyOfView(view) {
  const bytes = kindOfArray(view) === undefined
    ? new NativeUint8Array(viewBuffer(view), viewOffset(view), viewLength(view))
    : new NativeUint8Array(bufferOf(view), byteOffsetOf(view), byteLengthOf(view));
  return copyBytes(bytes, 0, byteLengthOf(bytes));
}

/** The bytes of what a function gives as a value, as they are now; null for a stream. */
function bytesOf(value) {
  if (typeof value === "string") return encodeText(encoder, value);
  if (isPrototypeOf(NativeArrayBuffer.prototype, value)) return copyOfView(new NativeUint8Array(value));
  if (isView(value)) return copyOfView(value);
  if (isPrototypeOf(NativeReadableStream.prototype, value)) return null;
  throw new NativeTypeError(`a value is a string, an ArrayBuffer, a view of one, or a ReadableStream, not ${shown(value)}`);
}

/** A value as `get` was asked for it. */
function asType(bytes, type) {
  switch (type) {
    case "text":
      return decode(wholeDecoder, bytes);
    case "json":
      return parseJson(decode(decoder, bytes));
    case "arrayBuffer": {
      const buffer = bufferOf(bytes);
      return byteLengthOf(bytes) === bufferLength(buffer) ? buffer : bufferOf(copyBytes(bytes, 0, byteLengthOf(bytes)));
    }
    case "bytes":
      return bytes;
    case "stream":
      return responseBody(new NativeResponse(bytes));
  }
}

const TYPES = freeze({ __proto__: null, text: true, json: true, arrayBuffer: true, bytes: true, stream: true });

/** The type for `asType`, before anything is asked. */
function typeOf(options) {
  const type = (typeof options === "object" && options !== null ? options.type : options) ?? "text";
  if (typeof type === "string" && TYPES[type] === true) return type;
  throw new NativeTypeError(`the type of a value is text, json, arrayBuffer, bytes or stream, not ${shown(type)}`);
}

function expiryOf(options) {
  const { expiration, expirationTtl } = options;
  if (expirationTtl !== undefined) return now() + positive("expirationTtl", expirationTtl, "number of seconds") * 1000;
  if (expiration !== undefined) return positive("expiration", expiration, "number of seconds since 1970") * 1000;
  return undefined;
}

function positive(name, value, what = "number") {
  const number = typeof value === "string" ? NativeNumber(value) : value;
  if (!isSafeInteger(number) || number <= 0) {
    throw new NativeTypeError(`${name} is a whole ${what}, at least 1, not ${shown(value)}`);
  }
  return number;
}

/** Metadata as the node keeps it: JSON. */
function metadataOf({ metadata }) {
  if (metadata === undefined || metadata === null) return undefined;
  const json = stringify(metadata);
  if (typeof json !== "string") throw new NativeTypeError(`metadata is what JSON can hold, not ${shown(metadata)}`);
  return json;
}

/** One write as the node takes it; its value as it is now, or the stream that gives it. */
function writeOf(key, value, options) {
  const bytes = bytesOf(value);
  const write = { __proto__: null, key: keyOf(key), bytes: 0, metadata: metadataOf(options), expiresMs: expiryOf(options) };
  return { write, bytes, stream: bytes === null ? value : null };
}

/** The bytes of a write, which it tells the node the length of. */
async function finish({ write, bytes, stream }) {
  if (bytes === null) {
    const read = await readBytes(new NativeResponse(stream));
    bytes = copyBytes(read, 0, byteLengthOf(read));
  }
  write.bytes = byteLengthOf(bytes);
  return bytes;
}

/** Metadata as it was given: other languages and the command line may have written text that is no JSON. */
function asMetadata(text) {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}

/** What `env` has for a key-value store: the shape of Workers KV, with `increment` and `compareAndSwap`. */
class KvNamespace {
  #store;
  constructor(store) {
    this.#store = store;
  }

  async #entries(keys) {
    const { answer, bytes } = await ask(this.#store, { __proto__: null, kvGet: { __proto__: null, keys } });
    const { entries } = answer.entries;
    const found = [];
    for (let i = 0, at = 0; i < entries.length; i++) {
      const entry = entries[i];
      if (entry !== null) {
        const value = entry.bytes === 0 ? noBytes : entry.bytes === byteLengthOf(bytes) ? bytes : copyBytes(bytes, at, at + entry.bytes);
        at += entry.bytes;
        entry.value = value;
      }
      push(found, entry);
    }
    return found;
  }

  async get(key, options) {
    const type = typeOf(options);
    if (!isArray(key)) {
      const { 0: entry } = await this.#entries([keyOf(key)]);
      return entry === null ? null : asType(entry.value, type);
    }
    const keys = [];
    const asked = [];
    for (let i = 0; i < key.length; i++) {
      push(keys, key[i]);
      push(asked, keyOf(keys[i]));
    }
    const found = await this.#entries(asked);
    const values = new NativeMap();
    for (let i = 0; i < keys.length; i++) {
      mapSetEntry(values, keys[i], found[i] === null ? null : asType(found[i].value, type));
    }
    return values;
  }

  /** `version` is what `compareAndSwap` expects; null when there is no such key. */
  async getWithMetadata(key, options) {
    const type = typeOf(options);
    const { 0: entry } = await this.#entries([keyOf(key)]);
    if (entry === null) return { value: null, metadata: null, version: null };
    const { value, metadata, version } = entry;
    return {
      value: asType(value, type),
      metadata: metadata === null ? null : asMetadata(metadata),
      version,
    };
  }

  /** Durable when it settles. */
  async put(key, value, options) {
    const one = writeOf(key, value, optionsOf("put", options));
    const bytes = await finish(one);
    await ask(this.#store, { __proto__: null, kvWrite: { __proto__: null, writes: [one.write] } }, [bytes]);
  }

  /** Deletes one key, or several at once. */
  async delete(key) {
    const keys = isArray(key) ? copyOf(key) : [key];
    const writes = [];
    for (let i = 0; i < keys.length; i++) push(writes, { __proto__: null, key: keyOf(keys[i]) });
    await ask(this.#store, { __proto__: null, kvWrite: { __proto__: null, writes } });
  }

  /** Sets several keys at once, all or none: `[{ key, value, expirationTtl, metadata }]`. */
  async putMany(entries) {
    if (!isArray(entries)) throw new NativeTypeError(`putMany takes an array of { key, value }, not ${shown(entries)}`);
    const writes = [];
    const payload = [];
    const all = [];
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i];
      if (typeof entry !== "object" || entry === null) {
        throw new NativeTypeError(`putMany takes an array of { key, value }, and ${shown(entry)} is in it`);
      }
      push(all, writeOf(entry.key, entry.value, entry));
    }
    for (let i = 0; i < all.length; i++) {
      push(payload, await finish(all[i]));
      push(writes, all[i].write);
    }
    await ask(this.#store, { __proto__: null, kvWrite: { __proto__: null, writes } }, payload);
  }

  async list(options) {
    const { prefix, limit = 1000, cursor } = optionsOf("list", options);
    const asked = { __proto__: null, prefix: stringOf("prefix", prefix ?? ""), after: undefined, limit: positive("limit", limit) };
    if (cursor !== undefined && cursor !== null) asked.after = stringOf("cursor", cursor);
    const { answer } = await ask(this.#store, { __proto__: null, kvList: asked });
    const { keys, next } = answer.page;
    const listed = [];
    for (let i = 0; i < keys.length; i++) {
      const { key, metadata, expiresMs } = keys[i];
      const listedKey = { name: key };
      if (expiresMs !== null) listedKey.expiration = floor((expiresMs + 999) / 1000);
      if (metadata !== null) listedKey.metadata = asMetadata(metadata);
      push(listed, listedKey);
    }
    return next === null ? { keys: listed, list_complete: true } : { keys: listed, list_complete: false, cursor: next };
  }

  /** Adds to a whole number, of which an absent one counts as 0; answers with the sum. */
  async increment(key, delta = 1) {
    if (!isSafeInteger(delta)) throw new NativeTypeError(`increment adds a whole number, not ${shown(delta)}`);
    const { answer } = await ask(this.#store, { __proto__: null, kvIncrement: { __proto__: null, key: keyOf(key), delta } });
    return integer(answer.sum.sum);
  }

  /** Sets the key if it has this version, as `getWithMetadata` gave it; null: if there is none. Answers whether it did. */
  async compareAndSwap(key, version, value, options) {
    const expected = version ?? undefined;
    if (expected !== undefined && (!isSafeInteger(expected) || expected < 0)) {
      throw new NativeTypeError(`compareAndSwap: the version is a number of getWithMetadata or null, not ${shown(version)}`);
    }
    const one = writeOf(key, value, optionsOf("compareAndSwap", options));
    const bytes = await finish(one);
    const asked = { __proto__: null, expected, write: one.write };
    const { answer } = await ask(this.#store, { __proto__: null, kvSwap: asked }, [bytes]);
    return answer.swapped.swapped;
  }
}
freeze(KvNamespace.prototype);

/** A number where one can hold it, else a BigInt. */
function integer(digits) {
  const number = NativeNumber(digits);
  return isSafeInteger(number) ? number : NativeBigInt(digits);
}

/** A parameter of a statement as the node takes it; its bytes go to `payload`. */
function wireValue(value, payload) {
  switch (typeof value) {
    case "string":
      return { __proto__: null, text: toWellFormed(value) };
    case "boolean":
      return { __proto__: null, int: value ? "1" : "0" };
    case "bigint":
      return { __proto__: null, int: `${value}` };
    case "number":
      if (isSafeInteger(value)) return { __proto__: null, int: `${value}` };
      return isFiniteNumber(value) ? { __proto__: null, real: value } : { __proto__: null, odd: `${value}` };
  }
  if (value === null) return "null";
  if (isPrototypeOf(NativeArrayBuffer.prototype, value)) value = new NativeUint8Array(value);
  if (isView(value)) {
    const bytes = copyOfView(value);
    push(payload, bytes);
    return { __proto__: null, blob: byteLengthOf(bytes) };
  }
  throw new NativeTypeError(`bind: ${shown(value)} is no value of SQL; give null, a number, bigint, string, boolean or bytes`);
}

class Statement {
  #database;
  #sql;
  #params;
  constructor(database, sql, params) {
    this.#database = database;
    this.#sql = sql;
    this.#params = params;
  }

  /** The statement with values for its parameters. */
  bind(...params) {
    return new Statement(this.#database, this.#sql, params);
  }

  /** As the node takes it; its bytes go to `payload`. `database` is where it is to run. */
  static wire(statement, payload, database) {
    if (typeof statement !== "object" || statement === null || !(#params in statement)) {
      throw new NativeTypeError(`a batch is made of statements as prepare() gives them, and ${shown(statement)} is in it`);
    }
    if (statement.#database !== database) {
      throw new NativeTypeError("a batch runs in one database, and a statement of another is in it");
    }
    const params = [];
    for (let i = 0; i < statement.#params.length; i++) push(params, wireValue(statement.#params[i], payload));
    return { __proto__: null, sql: toWellFormed(statement.#sql), params };
  }

  async #rows() {
    const { 0: found } = await run(this.#database, [this], false);
    return found;
  }

  /** `{ success, results, meta }` with a row as an object. */
  async all() {
    return resultOf(await this.#rows());
  }

  async run() {
    return resultOf(await this.#rows());
  }

  /** The first row, or one column of it; null when there is none. */
  async first(column) {
    const { results } = resultOf(await this.#rows());
    if (results.length === 0) return null;
    if (column === undefined) return results[0];
    if (!hasOwn(results[0], column)) throw new StoreError("bad_argument", `the result has no column ${shown(column)}`);
    return results[0][column];
  }

  /** Rows as arrays. */
  async raw(options = {}) {
    const { columns, rows } = await this.#rows();
    if (!options?.columnNames) return rows;
    const all = [columns];
    for (let i = 0; i < rows.length; i++) push(all, rows[i]);
    return all;
  }
}
freeze(Statement);
freeze(Statement.prototype);

async function run(store, statements, isBatch) {
  const began = now();
  const payload = [];
  const asked = [];
  for (let i = 0; i < statements.length; i++) push(asked, Statement.wire(statements[i], payload, store));
  const call = { __proto__: null, sqlRun: { __proto__: null, statements: asked, isBatch } };
  const { answer, bytes } = await ask(store, call, payload);
  const { results } = answer.rows;
  const duration = now() - began;
  let at = 0;
  for (let i = 0; i < results.length; i++) {
    const { rows } = results[i];
    results[i].duration = duration;
    for (let j = 0; j < rows.length; j++) {
      for (let k = 0; k < rows[j].length; k++) {
        const value = rows[j][k];
        if (value === "null") rows[j][k] = null;
        else if (value.text !== undefined) rows[j][k] = value.text;
        else if (value.int !== undefined) rows[j][k] = integer(value.int);
        else if (value.real !== undefined) rows[j][k] = value.real;
        else if (value.odd !== undefined) rows[j][k] = NativeNumber(value.odd === "inf" ? "Infinity" : value.odd === "-inf" ? "-Infinity" : value.odd);
        else {
          rows[j][k] = value.blob === 0 ? new NativeUint8Array(0) : copyBytes(bytes, at, at + value.blob);
          at += value.blob;
        }
      }
    }
  }
  return results;
}

function resultOf({ columns, rows, changes, lastInsertRowid, duration }) {
  const results = [];
  for (let i = 0; i < rows.length; i++) {
    const row = {};
    for (let j = 0; j < columns.length; j++) {
      defineProperty(row, columns[j], { __proto__: null, value: rows[i][j], writable: true, enumerable: true, configurable: true });
    }
    push(results, row);
  }
  return { success: true, results, meta: { changes, last_row_id: integer(lastInsertRowid), duration } };
}

/** What `env` has for a database: the shape of Cloudflare D1. */
class Database {
  #store;
  constructor(store) {
    this.#store = store;
  }

  prepare(sql) {
    if (typeof sql !== "string") throw new NativeTypeError(`prepare takes a statement as a string, not ${shown(sql)}`);
    return new Statement(this.#store, sql, []);
  }

  /** All statements in one transaction: all or nothing. */
  async batch(statements) {
    if (!isArray(statements)) throw new NativeTypeError(`batch takes an array of statements, not ${shown(statements)}`);
    const found = await run(this.#store, copyOf(statements), true);
    const results = [];
    for (let i = 0; i < found.length; i++) push(results, resultOf(found[i]));
    return results;
  }

  /** A script of statements, in one transaction. */
  async exec(sql) {
    const began = now();
    const { answer } = await ask(this.#store, { __proto__: null, sqlScript: { __proto__: null, sql: stringOf("a script", sql) } });
    return { count: answer.statements.statements, duration: now() - began };
  }
}
freeze(Database.prototype);

/** Milliseconds of an option. */
function milliseconds(name, value, otherwise) {
  if (value === undefined) return otherwise;
  if (!isSafeInteger(value) || value < 0) {
    throw new NativeTypeError(`${name} is a whole number of milliseconds, not ${shown(value)}`);
  }
  return value;
}

/** How long a lock is held unless it is renewed, in milliseconds, where the function does not say. */
const LEASE_MS = 30_000;

/** A lock that is held. It is released when the invocation ends, however it ends. */
class Lock {
  #number;
  /** Greater than that of all who held the lock before. */
  token;
  constructor(number, token) {
    this.#number = number;
    this.token = token;
  }

  /** Lets the lease begin anew. False: it had run out. */
  async renew(lease) {
    const leaseMs = milliseconds("lease", lease, LEASE_MS);
    const { answer } = await ask("", { __proto__: null, lockRenew: { __proto__: null, lock: this.#number, leaseMs } });
    return answer.held.held;
  }

  /** False: the lease had run out. */
  async release() {
    const { answer } = await ask("", { __proto__: null, lockRelease: { __proto__: null, lock: this.#number } });
    return answer.held.held;
  }

  async [Symbol.asyncDispose]() {
    await this.release();
  }
}
freeze(Lock.prototype);

/** `env.LOCKS`. */
class Locks {
  /** Takes a lock; null when others had it for all of `wait`. Both in milliseconds. */
  async acquire(name, options) {
    const { lease, wait } = optionsOf("acquire", options);
    const asked = {
      __proto__: null,
      name: stringOf("the name of a lock", name),
      leaseMs: milliseconds("lease", lease, LEASE_MS),
      waitMs: milliseconds("wait", wait, 0),
    };
    const { answer } = await ask("", { __proto__: null, lockAcquire: asked });
    const { lock, token } = answer.lock;
    return lock === null ? null : new Lock(lock, integer(token));
  }
}
freeze(Locks.prototype);

function storeOf(kind, name) {
  switch (kind) {
    case "kv":
      return new KvNamespace(name);
    case "sql":
      return new Database(name);
    case "blob":
      return new Bucket(name);
    case "files":
      return new Volume(name);
    case "topic":
      return new Topic(name);
  }
}

/** What the function finds in `env`: its variables, and the stores that it was granted. */
function environment(head) {
  dataKey = encodeText(encoder, head.data_key);
  const env = { __proto__: Object.prototype };
  const names = ownKeys(head.env);
  for (let i = 0; i < names.length; i++) env[names[i]] = head.env[names[i]];
  for (let i = 0; i < head.stores.length; i++) {
    const { kind, name, variable } = head.stores[i];
    env[variable] = storeOf(kind, name);
  }
  if (head.locks) env.LOCKS = new Locks();
  return freeze(env);
}
