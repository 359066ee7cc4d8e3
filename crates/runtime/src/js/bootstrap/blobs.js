// Buckets in `env`: the shape of Cloudflare R2. Content goes in pieces, both ways: of a blob that one answer does not hold, the
// node keeps a reader, and of one that one call does not hold, an upload. Both are the invocation's and end with it. They go by
// the invocation that began them: a stream is read from wherever the function hands it to.

const NativeByteController = ReadableByteStreamController;
const enqueue = uncurry(NativeByteController.prototype.enqueue);
const closeController = uncurry(NativeByteController.prototype.close);
const byobRequestOf = getter(NativeByteController.prototype, "byobRequest");
const respondToByob = uncurry(ReadableStreamBYOBRequest.prototype.respond);
const cancelReader = uncurry(ReadableStreamDefaultReader.prototype.cancel);
const blobStream = uncurry(Blob.prototype.stream);
const sliceBlob = uncurry(Blob.prototype.slice);
const blobSize = getter(Blob.prototype, "size");
const readBuffer = uncurry(Response.prototype.arrayBuffer);
const readBlob = uncurry(Response.prototype.blob);
const bodyUsed = getter(Response.prototype, "bodyUsed");
const timeOf = uncurry(Date.prototype.getTime);
const parseDate = Date.parse;

/**
 * Content leaves in pieces of this size: large enough that the way there and back costs little beside writing it to a disk,
 * small enough that many may be under way. js/data/blobs.rs answers with as much.
 */
const BLOB_PIECE_BYTES = 1 << 20;
/** A call for a bucket, of the current invocation or of `run`. */
async function askBlobs(store, blob, payload = [], run = currentId()) {
  const { answer, bytes } = await ask(store, { __proto__: null, blob }, payload, run);
  return { __proto__: null, answer: answer.blob, bytes };
}

/** The most keys in one call: what the node allows. */
const MAX_BLOB_KEYS = 1000;

/** Headers that are kept with a blob, by their names in `httpMetadata`. */
const HTTP_METADATA = freeze([
  freeze(["contentType", "content-type"]),
  freeze(["contentEncoding", "content-encoding"]),
  freeze(["contentLanguage", "content-language"]),
  freeze(["contentDisposition", "content-disposition"]),
  freeze(["cacheControl", "cache-control"]),
]);

const isHeaders = (value) => isPrototypeOf(NativeHeaders.prototype, value);

/** The options of each call, and of what is in them. */
const GET_OPTIONS = freeze(["onlyIf", "range"]);
const PUT_OPTIONS = freeze(["onlyIf", "httpMetadata", "customMetadata"]);
const LIST_OPTIONS = freeze(["prefix", "cursor", "startAfter", "delimiter", "limit", "include"]);
const COPY_OPTIONS = freeze(["onlyIf"]);
const SIGNED_URL_OPTIONS = freeze(["method", "expiresIn", "maxSize", "contentType"]);
const CONDITIONS = freeze(["etagMatches", "etagDoesNotMatch", "uploadedBefore", "uploadedAfter"]);
const RANGE = freeze(["offset", "length", "suffix"]);
const HTTP_METADATA_NAMES = freeze(HTTP_METADATA.map(({ 0: name }) => name));

/**
 * Options of which every one is among `names`. To pass over a misspelt condition would write what was not to be written; over
 * what R2 has and Minnow has not, keep a blob unchecked, or unencrypted, that was to be.
 */
function knownOptionsOf(what, value, names) {
  const options = optionsOf(what, value);
  const given = ownKeys(options);
  for (let i = 0; i < given.length; i++) {
    const name = given[i];
    if (typeof name !== "string" || isAmong(names, name)) continue;
    // What is undefined was not given; a property of its own is there, whatever the module has done to prototypes.
    const property = getOwnPropertyDescriptor(options, name);
    if (property === undefined || !property.enumerable || options[name] === undefined) continue;
    let known = "";
    for (let j = 0; j < names.length; j++) known += j === 0 ? names[j] : `, ${names[j]}`;
    throw new NativeTypeError(`${what}: there is no option \`${cut(name, MAX_SHOWN)}\` here; it has ${known}`);
  }
  return options;
}

function isAmong(names, name) {
  for (let i = 0; i < names.length; i++) if (names[i] === name) return true;
  return false;
}

/** The metadata of a `put` as the node takes it. */
function metaOf({ httpMetadata, customMetadata }) {
  const meta = { __proto__: null, custom: { __proto__: null } };
  if (httpMetadata !== undefined && httpMetadata !== null) {
    const fromHeaders = isHeaders(httpMetadata);
    if (!fromHeaders) knownOptionsOf("httpMetadata", httpMetadata, HTTP_METADATA_NAMES);
    for (let i = 0; i < HTTP_METADATA.length; i++) {
      const { 0: name, 1: header } = HTTP_METADATA[i];
      const value = fromHeaders ? headersGet(httpMetadata, header) : httpMetadata[name];
      if (value !== undefined && value !== null) meta[name] = stringOf(`httpMetadata.${name}`, value);
    }
  }
  if (customMetadata !== undefined && customMetadata !== null) {
    const custom = optionsOf("customMetadata", customMetadata);
    const names = ownKeys(custom);
    for (let i = 0; i < names.length; i++) {
      const name = names[i];
      if (typeof name !== "string") continue;
      meta.custom[toWellFormed(name)] = stringOf(`customMetadata.${cut(name, MAX_SHOWN)}`, custom[name]);
    }
  }
  return meta;
}

/** The etags of a condition: `"a", W/"b"` and `*` of a header, or what a function gives. A weak one is never the same. */
function etagsOf(what, value, isStrong) {
  if (value === undefined || value === null) return undefined;
  const texts = isArray(value) ? copyOf(value) : [value];
  const etags = [];
  for (let i = 0; i < texts.length; i++) {
    const text = stringOf(what, texts[i]);
    for (let start = 0; start <= text.length;) {
      let end = indexOf(text, ",", start);
      if (end < 0) end = text.length;
      let etag = trim(slice(text, start, end));
      start = end + 1;
      const isWeak = startsWith(etag, "W/");
      if (isWeak && isStrong) continue;
      if (isWeak) etag = slice(etag, 2);
      if (etag.length > 1 && startsWith(etag, '"') && endsWith(etag, '"')) etag = slice(etag, 1, -1);
      if (etag !== "") push(etags, etag);
    }
  }
  return etags;
}

function millisecondsOf(what, date) {
  if (date === undefined || date === null) return undefined;
  const ms = isPrototypeOf(NativeDate.prototype, date) ? timeOf(date) : NativeNumber.NaN;
  if (!isSafeInteger(ms)) throw new NativeTypeError(`${what} is a Date, not ${shown(date)}`);
  return ms > 0 ? ms : 0;
}

/** A date of HTTP, which has whole seconds; undefined for what is none: then the header does not count (RFC 9110, 13.1.3). */
function secondsOf(headers, name) {
  const value = headersGet(headers, name);
  const ms = value === null ? NativeNumber.NaN : parseDate(value);
  return isSafeInteger(ms) && ms >= 0 ? ms : undefined;
}

/** `onlyIf` as the node takes it. */
function conditionsOf(onlyIf) {
  if (onlyIf === undefined || onlyIf === null) return undefined;
  if (isHeaders(onlyIf)) {
    const ifMatch = etagsOf("If-Match", headersGet(onlyIf, "if-match"), true);
    const ifNoneMatch = etagsOf("If-None-Match", headersGet(onlyIf, "if-none-match"), false);
    const conditions = { __proto__: null, ifMatch, ifNoneMatch };
    // Where there are etags, dates do not count (RFC 9110, 13.2.2). A blob's time has milliseconds.
    const unmodified = ifMatch === undefined ? secondsOf(onlyIf, "if-unmodified-since") : undefined;
    if (unmodified !== undefined) conditions.uploadedBeforeMs = unmodified + 1000;
    const modified = ifNoneMatch === undefined ? secondsOf(onlyIf, "if-modified-since") : undefined;
    if (modified !== undefined) conditions.uploadedAfterMs = modified + 999;
    return conditions;
  }
  knownOptionsOf("onlyIf", onlyIf, CONDITIONS);
  const { etagMatches, etagDoesNotMatch, uploadedBefore, uploadedAfter } = onlyIf;
  return {
    __proto__: null,
    ifMatch: etagsOf("etagMatches", etagMatches, true),
    ifNoneMatch: etagsOf("etagDoesNotMatch", etagDoesNotMatch, false),
    uploadedBeforeMs: millisecondsOf("uploadedBefore", uploadedBefore),
    uploadedAfterMs: millisecondsOf("uploadedAfter", uploadedAfter),
  };
}

function count(name, value) {
  if (!isSafeInteger(value) || value < 0) throw new NativeTypeError(`${name} is a whole number of bytes, not ${shown(value)}`);
  return value;
}

/** A number of a header: digits. */
function digits(text) {
  if (text === "") return undefined;
  for (let i = 0; i < text.length; i++) if (text[i] < "0" || text[i] > "9") return undefined;
  const number = NativeNumber(text);
  return isSafeInteger(number) ? number : undefined;
}

/** The range of a `Range` header; undefined, which is the whole, where it asks for something else than one range of bytes. */
function rangeOfHeaders(headers) {
  const value = headersGet(headers, "range");
  // Whether that is true cannot be said before: the whole is always a right answer (RFC 9110, 14.2).
  if (value === null || headersHas(headers, "if-range")) return undefined;
  if (!startsWith(toLowerCase(value), "bytes=")) return undefined;
  const dash = indexOf(value, "-");
  if (dash < 0) return undefined;
  const first = trim(slice(value, 6, dash));
  const last = digits(trim(slice(value, dash + 1)));
  if (first === "") return last === undefined ? undefined : { __proto__: null, suffix: last };
  const offset = digits(first);
  if (offset === undefined) return undefined;
  if (trim(slice(value, dash + 1)) === "") return { __proto__: null, offset };
  return last === undefined || last < offset ? undefined : { __proto__: null, offset, length: last - offset + 1 };
}

/** `range` as the node takes it. */
function rangeOf(range) {
  if (range === undefined || range === null) return undefined;
  if (isHeaders(range)) return rangeOfHeaders(range);
  const { offset, length, suffix } = knownOptionsOf("range", range, RANGE);
  if (suffix !== undefined) {
    if (offset !== undefined || length !== undefined) {
      throw new NativeTypeError("range: a suffix stands alone, without offset and length");
    }
    return { __proto__: null, suffix: count("suffix", suffix) };
  }
  return {
    __proto__: null,
    offset: offset === undefined ? 0 : count("offset", offset),
    length: length === undefined ? undefined : count("length", length),
  };
}

/** What is known of a blob. */
class BucketObject {
  key;
  size;
  etag;
  httpEtag;
  uploaded;
  httpMetadata;
  customMetadata;
  range;
  constructor(blob, range) {
    this.key = blob.key;
    this.size = blob.size;
    this.etag = blob.etag;
    this.httpEtag = `"${blob.etag}"`;
    this.uploaded = new NativeDate(blob.uploadedMs);
    const http = {};
    for (let i = 0; i < HTTP_METADATA.length; i++) {
      const name = HTTP_METADATA[i][0];
      const value = blob[name];
      if (value !== undefined && value !== null) {
        defineProperty(http, name, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
      }
    }
    this.httpMetadata = http;
    this.customMetadata = blob.custom ?? {};
    this.range = range;
  }

  /** Sets the headers that were kept with the blob. */
  writeHttpMetadata(headers) {
    for (let i = 0; i < HTTP_METADATA.length; i++) {
      const { 0: name, 1: header } = HTTP_METADATA[i];
      const value = this.httpMetadata[name];
      if (value !== undefined && value !== null) headersSet(headers, header, `${value}`);
    }
  }
}
freeze(BucketObject);
freeze(BucketObject.prototype);

/** A blob with its content, which can be read once. */
class BucketObjectBody extends BucketObject {
  #response;
  constructor(blob, range, content) {
    super(blob, range);
    this.#response = new NativeResponse(content);
  }
  get body() {
    return responseBody(this.#response);
  }
  get bodyUsed() {
    return bodyUsed(this.#response);
  }
  async arrayBuffer() {
    return await readBuffer(this.#response);
  }
  async bytes() {
    return await readBytes(this.#response);
  }
  async text() {
    return await readText(this.#response);
  }
  async json() {
    return parseJson(await readText(this.#response));
  }
  async blob() {
    const blob = await readBlob(this.#response);
    return sliceBlob(blob, 0, blobSize(blob), this.httpMetadata.contentType ?? "");
  }
}
freeze(BucketObjectBody);
freeze(BucketObjectBody.prototype);

/**
 * The content that the node's reader of that number gives after the first piece. One piece is read ahead. `askOf` makes calls of the
 * reader's kind.
 */
function contentOf(reader, first, run, askOf) {
  return new NativeReadableStream({
    __proto__: null,
    type: "bytes",
    start(controller) {
      enqueue(controller, first);
    },
    async pull(controller) {
      const { answer, bytes } = await askOf("", { __proto__: null, read: { __proto__: null, reader } }, [], run);
      if (byteLengthOf(bytes) > 0) enqueue(controller, bytes);
      if (answer.piece.more) return;
      closeController(controller);
      const request = byobRequestOf(controller);
      if (request !== null) respondToByob(request, 0);
    },
    async cancel() {
      await askOf("", { __proto__: null, close: { __proto__: null, reader } }, [], run);
    },
  }, { __proto__: null, highWaterMark: BLOB_PIECE_BYTES });
}

/** A value in pieces of at most BLOB_PIECE_BYTES; null after the last. */
class Pieces {
  #bytes = null;
  #at = 0;
  #reader = null;
  /** What was read of the stream and goes with the next piece. */
  #rest = noBytes;
  /** What it is for, in errors. */
  #what;
  constructor(value, what) {
    this.#what = what;
    if (value === null) {
      this.#bytes = noBytes;
    } else if (isPrototypeOf(NativeBlob.prototype, value)) {
      this.#reader = getReader(blobStream(value));
    } else if (isPrototypeOf(NativeReadableStream.prototype, value)) {
      this.#reader = getReader(value);
    } else if (typeof value === "string" || isView(value) || isPrototypeOf(NativeArrayBuffer.prototype, value)) {
      this.#bytes = bytesOf(value);
    } else {
      throw new NativeTypeError(
        `${what} is a string, an ArrayBuffer, a view of one, a Blob, a ReadableStream or null, not ${shown(value)}`,
      );
    }
  }

  async next() {
    if (this.#reader !== null) return await this.#read();
    const size = byteLengthOf(this.#bytes);
    if (this.#at >= size) return null;
    const start = this.#at;
    this.#at = start + BLOB_PIECE_BYTES < size ? start + BLOB_PIECE_BYTES : size;
    return part(this.#bytes, start, this.#at);
  }

  async #read() {
    const piece = new NativeUint8Array(BLOB_PIECE_BYTES);
    let filled = 0;
    for (;;) {
      const rest = this.#rest;
      const room = BLOB_PIECE_BYTES - filled;
      if (byteLengthOf(rest) > room) {
        setBytes(piece, part(rest, 0, room), filled);
        this.#rest = part(rest, room);
        return piece;
      }
      setBytes(piece, rest, filled);
      filled += byteLengthOf(rest);
      this.#rest = noBytes;
      if (filled === BLOB_PIECE_BYTES) return piece;
      const { done, value } = await readChunk(this.#reader);
      if (done) return filled === 0 ? null : part(piece, 0, filled);
      if (isPrototypeOf(NativeArrayBuffer.prototype, value)) this.#rest = copyOfView(new NativeUint8Array(value));
      else if (isView(value)) this.#rest = copyOfView(value);
      else throw new NativeTypeError(`the stream of ${this.#what} gives bytes, not ${shown(value)}`);
    }
  }

  /** Nothing more is read of it. */
  abandon(reason) {
    // A stream that has failed says so again.
    if (this.#reader !== null) then(cancelReader(this.#reader, reason), nothing, nothing);
  }
}
freeze(Pieces.prototype);

const nothing = () => {};

/**
 * Sends a value: `begin` makes the call for the first piece, and is told whether there are more. Then `sink` says what to do with those,
 * from what `begin` was answered. Answers what the last call was answered.
 */
async function sendPieces(pieces, begin, sink) {
  let piece = await pieces.next() ?? noBytes;
  // A full piece may be the last.
  let next = byteLengthOf(piece) < BLOB_PIECE_BYTES ? null : await pieces.next();
  const begun = await begin(piece, next !== null);
  if (next === null) return begun;
  const { send, finish, abort } = sink(begun);
  try {
    while (next !== null) {
      piece = next;
      const sent = send(piece);
      // It may fail while the next piece is waited for.
      then(sent, nothing, nothing);
      next = await pieces.next();
      await sent;
    }
  } catch (error) {
    then(abort(), nothing, nothing);
    throw error;
  }
  return await finish();
}

/** What `env` has for a bucket: the shape of R2, with `copy` and `signedUrl`, without uploads in parts. */
class Bucket {
  #store;
  constructor(store) {
    this.#store = store;
  }

  /** What is known of the blob; null when there is none. */
  async head(key) {
    const { answer } = await askBlobs(this.#store, { __proto__: null, head: { __proto__: null, key: keyOf(key) } });
    const { blob } = answer.about;
    return blob === null ? null : new BucketObject(blob, undefined);
  }

  /** The blob; null when there is none, without content when `onlyIf` does not hold. */
  async get(key, options) {
    options = knownOptionsOf("get", options, GET_OPTIONS);
    const range = rangeOf(options.range);
    const run = currentId();
    const asked = { __proto__: null, key: keyOf(key), onlyIf: conditionsOf(options.onlyIf), range };
    const { answer, bytes } = await askBlobs(this.#store, { __proto__: null, get: asked }, [], run);
    const { blob, found } = answer.got;
    if (blob === null) return null;
    if (found === null) return new BucketObject(blob, undefined);
    const { offset, length, reader } = found;
    const content = reader === null ? bytes : contentOf(reader, bytes, run, askBlobs);
    return new BucketObjectBody(blob, range === undefined ? undefined : { offset, length }, content);
  }

  /** Durable when it settles; null when `onlyIf` does not hold. Nobody sees a part of the blob. */
  async put(key, value, options) {
    options = knownOptionsOf("put", options, PUT_OPTIONS);
    const asked = { __proto__: null, key: keyOf(key), meta: metaOf(options), onlyIf: conditionsOf(options.onlyIf), more: false };
    const pieces = new Pieces(value, "a blob");
    try {
      return await this.#put(asked, pieces, currentId());
    } catch (error) {
      pieces.abandon(error);
      throw error;
    }
  }

  async #put(asked, pieces, run) {
    const store = this.#store;
    const { answer } = await sendPieces(pieces, (piece, more) => {
      asked.more = more;
      return askBlobs(store, { __proto__: null, put: asked }, [piece], run);
    }, (begun) => {
      const { upload } = begun.answer.upload;
      return {
        __proto__: null,
        send: (piece) => askBlobs("", { __proto__: null, write: { __proto__: null, upload } }, [piece], run),
        finish: () => askBlobs("", { __proto__: null, finish: { __proto__: null, upload } }, [], run),
        abort: () => askBlobs("", { __proto__: null, abort: { __proto__: null, upload } }, [], run),
      };
    });
    return objectOf(answer);
  }

  /** Deletes a blob, or several: all or none. */
  async delete(keys) {
    const given = isArray(keys) ? copyOf(keys) : [keys];
    for (let i = 0; i < given.length; i++) given[i] = keyOf(given[i]);
    await askBlobs(this.#store, { __proto__: null, delete: { __proto__: null, keys: given } });
  }

  async list(options) {
    options = knownOptionsOf("list", options, LIST_OPTIONS);
    const { prefix, cursor, startAfter, delimiter, limit = MAX_BLOB_KEYS, include } = options;
    const asked = {
      __proto__: null,
      prefix: stringOf("prefix", prefix ?? ""),
      after: undefined,
      delimiter: undefined,
      limit: positive("limit", limit),
      http: false,
      custom: false,
    };
    const after = cursor ?? startAfter;
    if (after !== undefined && after !== null) asked.after = stringOf(cursor === after ? "cursor" : "startAfter", after);
    if (delimiter !== undefined && delimiter !== null) asked.delimiter = stringOf("delimiter", delimiter);
    if (include !== undefined && include !== null) {
      if (!isArray(include)) throw new NativeTypeError(`include is an array of names, not ${shown(include)}`);
      for (let i = 0; i < include.length; i++) {
        if (include[i] === "httpMetadata") asked.http = true;
        else if (include[i] === "customMetadata") asked.custom = true;
        else throw new NativeTypeError(`include has httpMetadata and customMetadata, not ${shown(include[i])}`);
      }
    }
    const { answer } = await askBlobs(this.#store, { __proto__: null, list: asked });
    const { blobs, prefixes, next } = answer.listed;
    const objects = [];
    for (let i = 0; i < blobs.length; i++) push(objects, new BucketObject(blobs[i], undefined));
    const listed = { objects, delimitedPrefixes: prefixes, truncated: next !== null };
    if (next !== null) listed.cursor = next;
    return listed;
  }

  /** Copies a blob of this bucket, with its metadata; null when it is not there or `onlyIf`, of the new key, does not hold. */
  async copy(from, to, options) {
    const { onlyIf } = knownOptionsOf("copy", options, COPY_OPTIONS);
    const asked = { __proto__: null, from: keyOf(from), to: keyOf(to), onlyIf: conditionsOf(onlyIf) };
    return objectOf((await askBlobs(this.#store, { __proto__: null, copy: asked })).answer);
  }

  /** A path on the app's host under which anybody may read the blob, or write it, for a while. */
  async signedUrl(key, options) {
    const { method = "GET", expiresIn, maxSize, contentType } = knownOptionsOf("signedUrl", options, SIGNED_URL_OPTIONS);
    if (method !== "GET" && method !== "PUT") throw new NativeTypeError(`signedUrl: method is GET or PUT, not ${shown(method)}`);
    const asked = {
      __proto__: null,
      key: keyOf(key),
      put: method === "PUT",
      expiresS: positive("expiresIn", expiresIn, "number of seconds"),
      maxSize: maxSize === undefined || maxSize === null ? undefined : count("maxSize", maxSize),
      contentType: contentType === undefined || contentType === null ? undefined : stringOf("contentType", contentType),
    };
    const { answer } = await askBlobs(this.#store, { __proto__: null, sign: asked });
    return answer.url.path;
  }
}
freeze(Bucket);
freeze(Bucket.prototype);

function objectOf({ about: { blob } }) {
  return blob === null ? null : new BucketObject(blob, undefined);
}
