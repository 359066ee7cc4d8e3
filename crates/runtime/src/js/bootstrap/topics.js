// Topics in `env`: what is published becomes a CloudEvent, and is on the node's disk when the call settles.

const MESSAGE_OPTIONS = ["contentType", "delay", "delaySeconds", "key", "id", "type", "subject", "attributes"];
const BATCH_OPTIONS = ["delay", "delaySeconds"];

/** How long a message is held back, in milliseconds: `delay` is milliseconds, `delaySeconds` what Workers have. */
function delayOf({ delay, delaySeconds }) {
  if (delay !== undefined && delaySeconds !== undefined) {
    throw new NativeTypeError("`delay` (milliseconds) and `delaySeconds` say the same; give one of them");
  }
  if (delaySeconds === undefined) return milliseconds("delay", delay, undefined);
  if (!isFiniteNumber(delaySeconds) || delaySeconds < 0) {
    throw new NativeTypeError(`delaySeconds is a number of seconds, not ${shown(delaySeconds)}`);
  }
  return floor(delaySeconds * 1000);
}

/** The data of a message and their type: JSON, unless they are bytes or the type says otherwise. */
function dataOf(body, contentType) {
  const isBytes = isPrototypeOf(NativeArrayBuffer.prototype, body) || isView(body);
  const type = contentType ?? (isBytes ? "bytes" : "json");
  if (typeof type !== "string") throw new NativeTypeError(`contentType is a string, not ${shown(type)}`);
  if (type === "json") {
    const json = stringify(body);
    if (typeof json !== "string") throw new NativeTypeError(`a message is what JSON can hold, not ${shown(body)}`);
    return { __proto__: null, type: "application/json", bytes: encodeText(encoder, json) };
  }
  if (type === "text") {
    return { __proto__: null, type: "text/plain; charset=utf-8", bytes: encodeText(encoder, stringOf("a message of the type text", body)) };
  }
  if (type === "bytes" && !isBytes) {
    throw new NativeTypeError(`a message of the type bytes is an ArrayBuffer or a view of one, not ${shown(body)}`);
  }
  if (type !== "bytes" && indexOf(type, "/", 0) < 0) {
    throw new NativeTypeError(`contentType is json, text, bytes or a media type such as text/csv, not ${shown(type)}`);
  }
  if (!isBytes && typeof body !== "string") {
    throw new NativeTypeError(`a message of the type ${cut(type, MAX_SHOWN)} is a string, an ArrayBuffer or a view of one, not ${shown(body)}`);
  }
  return { __proto__: null, type: type === "bytes" ? "application/octet-stream" : toWellFormed(type), bytes: bytesOf(body) };
}

/** An attribute of the options; undefined where it is not given. */
function textOf(what, value) {
  return value === undefined || value === null ? undefined : stringOf(what, value);
}

/** Further attributes: CloudEvents have strings, whole numbers and truth values. */
function attributesOf(value) {
  const attributes = { __proto__: null };
  if (value === undefined || value === null) return attributes;
  const given = optionsOf("attributes", value);
  const names = ownKeys(given);
  for (let i = 0; i < names.length; i++) {
    const name = names[i];
    const attribute = given[name];
    if (typeof name !== "string" || attribute === undefined || attribute === null) continue;
    const isValue = typeof attribute === "string" || typeof attribute === "boolean" || isSafeInteger(attribute);
    if (!isValue) {
      throw new NativeTypeError(`attributes.${cut(name, MAX_SHOWN)} is a string, a whole number or a boolean, not ${shown(attribute)}`);
    }
    attributes[toWellFormed(name)] = toWellFormed(`${attribute}`);
  }
  return attributes;
}

/** One message as the node takes it, and its data as they are now. */
function messageOf(body, options, delayMs) {
  const { type, bytes } = dataOf(body, options.contentType);
  const message = {
    __proto__: null,
    bytes: byteLengthOf(bytes),
    contentType: type,
    delayMs: delayOf(options) ?? delayMs,
    key: textOf("key", options.key),
    id: textOf("id", options.id),
    kind: textOf("type", options.type),
    subject: textOf("subject", options.subject),
    attributes: attributesOf(options.attributes),
  };
  return { __proto__: null, message, bytes };
}

/** What `env` has for a topic: the shape of Workers Queues, with the attributes of CloudEvents. */
class Topic {
  #store;
  constructor(store) {
    this.#store = store;
  }

  async #publish(messages, payload) {
    const { answer } = await ask(this.#store, { __proto__: null, topicSend: { __proto__: null, messages } }, payload);
    const { sent } = answer.sent;
    const all = [];
    for (let i = 0; i < sent.length; i++) {
      const { id, position, duplicate } = sent[i];
      push(all, { id, position, duplicate });
    }
    return all;
  }

  /** Publishes one message. Durable when it settles. */
  async send(body, options) {
    const { message, bytes } = messageOf(body, knownOptionsOf("send", options, MESSAGE_OPTIONS), 0);
    const { 0: sent } = await this.#publish([message], [bytes]);
    return sent;
  }

  /** Publishes several messages at once, all or none: `[{ body, key, … }]`. */
  async sendBatch(messages, options) {
    const delayMs = delayOf(knownOptionsOf("sendBatch", options, BATCH_OPTIONS)) ?? 0;
    if (typeof messages !== "object" || messages === null) {
      throw new NativeTypeError(`sendBatch takes { body } one after the other, not ${shown(messages)}`);
    }
    const all = [];
    const payload = [];
    for (const entry of messages) {
      if (typeof entry !== "object" || entry === null) {
        throw new NativeTypeError(`sendBatch takes { body } one after the other, and ${shown(entry)} is among them`);
      }
      if (all.length >= MAX_BATCH_MESSAGES) {
        throw new StoreError("too_large", `sendBatch takes at most ${MAX_BATCH_MESSAGES} messages; send the rest after them`);
      }
      const { message, bytes } = messageOf(entry.body, entry, delayMs);
      push(all, message);
      push(payload, bytes);
    }
    return all.length === 0 ? [] : await this.#publish(all, payload);
  }
}
freeze(Topic.prototype);

/** As many as the node takes at once; an iterable may have no end. */
const MAX_BATCH_MESSAGES = 100;
