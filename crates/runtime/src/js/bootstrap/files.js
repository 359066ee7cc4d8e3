// Volumes in `env`: the methods of node:fs/promises that are for whole files, and streams. What one call holds goes in one; a longer
// file goes in pieces, as a blob does (blobs.js), and is the invocation's until then.

/** A call for a volume, of the current invocation or of `run`. */
async function askFiles(store, file, payload = [], run = currentId()) {
  const { answer, bytes } = await ask(store, { __proto__: null, file }, payload, run);
  return { __proto__: null, answer: answer.file, bytes };
}

/** What one `readFile` or `writeFile` has of bytes: what the node allows (js/data/files.rs). */
const MAX_CONTENT_BYTES = 16 << 20;

const READ_OPTIONS = freeze(["encoding", "offset", "length"]);
const STREAM_OPTIONS = freeze(["offset", "length"]);
const WRITE_OPTIONS = freeze(["flag", "offset", "sync", "encoding"]);
const READDIR_OPTIONS = freeze(["withFileTypes"]);
const MKDIR_OPTIONS = freeze(["recursive"]);
const RM_OPTIONS = freeze(["recursive", "force"]);

const pathOf = (value) => stringOf("a path", value);

/** Whether the content is text. Node knows more encodings; what is no text is bytes here. */
function isText(what, encoding) {
  if (encoding === undefined || encoding === null || encoding === "buffer") return false;
  const name = typeof encoding === "string" ? toLowerCase(encoding) : "";
  if (name === "utf8" || name === "utf-8") return true;
  throw new NativeTypeError(`${what}: the encoding is "utf8", or none for bytes, not ${shown(encoding)}`);
}

function flagOption(what, name, value, otherwise) {
  if (value === undefined) return otherwise;
  if (typeof value !== "boolean") throw new NativeTypeError(`${what}: ${name} is true or false, not ${shown(value)}`);
  return value;
}

/** What is read of a file, as the node takes it. */
function partOf(path, { offset, length }, stream) {
  return {
    __proto__: null,
    path,
    offset: offset === undefined || offset === null ? 0 : count("offset", offset),
    length: length === undefined || length === null ? undefined : count("length", length),
    stream,
  };
}

/** Where a file is written, as the node takes it. */
function howOf({ flag, offset }) {
  if (offset !== undefined && offset !== null) {
    if (flag !== undefined) throw new NativeTypeError("writeFile: an offset stands alone, without a flag");
    return { __proto__: null, offset: count("offset", offset) };
  }
  if (flag === undefined) return "w";
  if (flag === "w" || flag === "wx" || flag === "a") return flag;
  throw new NativeTypeError(`writeFile: the flag is "w", "wx" or "a", not ${shown(flag)}`);
}

/** Something in a folder. */
class Dirent {
  name;
  #kind;
  constructor(name, kind) {
    this.name = name;
    this.#kind = kind;
  }
  isFile() {
    return this.#kind === "f";
  }
  isDirectory() {
    return this.#kind === "d";
  }
  isSymbolicLink() {
    return this.#kind === "l";
  }
}
freeze(Dirent);
freeze(Dirent.prototype);

/** What is known of a file or folder. */
class Stats {
  size;
  mtimeMs;
  mtime;
  #kind;
  constructor({ kind, size, modifiedMs }) {
    this.size = size;
    this.mtimeMs = modifiedMs;
    this.mtime = new NativeDate(modifiedMs);
    this.#kind = kind;
  }
  isFile() {
    return this.#kind === "f";
  }
  isDirectory() {
    return this.#kind === "d";
  }
}
freeze(Stats);
freeze(Stats.prototype);

/** What `env` has for a volume. */
class Volume {
  #store;
  constructor(store) {
    this.#store = store;
  }

  /** The content as bytes, or with `encoding: "utf8"` as a string; a part of it with `offset` and `length`. */
  async readFile(path, options) {
    if (typeof options === "string") options = { __proto__: null, encoding: options };
    options = knownOptionsOf("readFile", options, READ_OPTIONS);
    const asText = isText("readFile", options.encoding);
    const run = currentId();
    const asked = partOf(pathOf(path), options, false);
    const { answer, bytes } = await askFiles(this.#store, { __proto__: null, open: asked }, [], run);
    const { length, reader } = answer.opened;
    const content = reader === null ? bytes : await restOf(reader, bytes, length, run);
    return asText ? decode(wholeDecoder, content) : content;
  }

  /** The same as a stream, which may be of any length. */
  async stream(path, options) {
    options = knownOptionsOf("stream", options, STREAM_OPTIONS);
    const run = currentId();
    const asked = partOf(pathOf(path), options, true);
    const { answer, bytes } = await askFiles(this.#store, { __proto__: null, open: asked }, [], run);
    const { reader } = answer.opened;
    return reader === null ? responseBody(new NativeResponse(bytes)) : contentOf(reader, bytes, run, askFiles);
  }

  /** On the disk when it settles, unless `sync` is false. */
  async writeFile(path, data, options) {
    if (typeof options === "string") options = { __proto__: null, encoding: options };
    options = knownOptionsOf("writeFile", options, WRITE_OPTIONS);
    isText("writeFile", options.encoding);
    const asked = {
      __proto__: null,
      path: pathOf(path),
      how: howOf(options),
      sync: flagOption("writeFile", "sync", options.sync, true),
      more: false,
    };
    const run = currentId();
    if (isPrototypeOf(NativeReadableStream.prototype, data) || isPrototypeOf(NativeBlob.prototype, data)) {
      await this.#writeStream(asked, data, run);
      return;
    }
    const bytes = contentBytes(data);
    if (byteLengthOf(bytes) > MAX_CONTENT_BYTES) {
      throw new StoreError(
        "EFBIG",
        `EFBIG: a writeFile has ${byteLengthOf(bytes)} bytes, the most at once is ${MAX_CONTENT_BYTES}; write parts with \`offset\`, or a stream`,
      );
    }
    await askFiles(this.#store, { __proto__: null, write: asked }, [bytes], run);
  }

  async #writeStream(asked, data, run) {
    const pieces = new Pieces(data, "a file");
    const store = this.#store;
    try {
      await sendPieces(pieces, (piece, more) => {
        asked.more = more;
        return askFiles(store, { __proto__: null, write: asked }, [piece], run);
      }, ({ answer }) => {
        const { writer } = answer.writer;
        return {
          __proto__: null,
          send: (piece) => askFiles("", { __proto__: null, append: { __proto__: null, writer } }, [piece], run),
          finish: () => askFiles("", { __proto__: null, finish: { __proto__: null, writer } }, [], run),
          abort: () => askFiles("", { __proto__: null, abort: { __proto__: null, writer } }, [], run),
        };
      });
    } catch (error) {
      pieces.abandon(error);
      throw error;
    }
  }

  /** The names in a folder, sorted; with `withFileTypes` what each of them is. */
  async readdir(path, options) {
    const { withFileTypes } = knownOptionsOf("readdir", options, READDIR_OPTIONS);
    const isTyped = flagOption("readdir", "withFileTypes", withFileTypes, false);
    const { answer } = await askFiles(this.#store, { __proto__: null, list: { __proto__: null, path: pathOf(path) } });
    const { names, kinds } = answer.listed;
    if (!isTyped) return names;
    const entries = [];
    for (let i = 0; i < names.length; i++) push(entries, new Dirent(names[i], kinds[i]));
    return entries;
  }

  /** With `recursive` the folders on the way to it are made, too, and it may be there. */
  async mkdir(path, options) {
    const { recursive } = knownOptionsOf("mkdir", options, MKDIR_OPTIONS);
    const asked = { __proto__: null, path: pathOf(path), recursive: flagOption("mkdir", "recursive", recursive, false) };
    await askFiles(this.#store, { __proto__: null, makeFolder: asked });
  }

  /** Removes a file, with `recursive` also a folder; with `force` it need not be there. */
  async rm(path, options) {
    const { recursive, force } = knownOptionsOf("rm", options, RM_OPTIONS);
    const asked = {
      __proto__: null,
      path: pathOf(path),
      recursive: flagOption("rm", "recursive", recursive, false),
      force: flagOption("rm", "force", force, false),
    };
    await askFiles(this.#store, { __proto__: null, remove: asked });
  }

  /** It takes the place of a file that is there. Whoever reads `to` sees the one or the other. */
  async rename(from, to) {
    const asked = { __proto__: null, from: pathOf(from), to: pathOf(to) };
    await askFiles(this.#store, { __proto__: null, rename: asked });
  }

  async stat(path) {
    const { answer } = await askFiles(this.#store, { __proto__: null, stat: { __proto__: null, path: pathOf(path) } });
    return new Stats(answer.found);
  }

  /** What is beyond `length` goes; what is missing up to there is zeros. */
  async truncate(path, length = 0) {
    const asked = { __proto__: null, path: pathOf(path), bytes: count("length", length) };
    await askFiles(this.#store, { __proto__: null, resize: asked });
  }

  /** Whether there is a file or folder. */
  async exists(path) {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      if (isPrototypeOf(StoreError.prototype, error) && (error.code === "ENOENT" || error.code === "ENOTDIR")) return false;
      throw error;
    }
  }
}
freeze(Volume);
freeze(Volume.prototype);

/** The bytes of what is written in one go, as they are now. */
function contentBytes(data) {
  if (typeof data === "string" || isPrototypeOf(NativeArrayBuffer.prototype, data) || isView(data)) return bytesOf(data);
  throw new NativeTypeError(`a file is a string, an ArrayBuffer, a view of one, a Blob or a ReadableStream, not ${shown(data)}`);
}

/** All of what the node's reader gives, with the first bytes; shorter where the file has become so meanwhile. */
async function restOf(reader, first, length, run) {
  const content = new NativeUint8Array(length);
  setBytes(content, first, 0);
  let at = byteLengthOf(first);
  for (let more = true; more;) {
    const { answer, bytes } = await askFiles("", { __proto__: null, read: { __proto__: null, reader } }, [], run);
    setBytes(content, bytes, at);
    at += byteLengthOf(bytes);
    more = answer.piece.more;
  }
  return at === length ? content : copyBytes(content, 0, at);
}
