// What is no request of a client: messages of topics for `queue`, ticks of schedules for `scheduled`, in the shapes of Workers.
//
// Both come as the HTTP requests that functions of every language get, and are answered as those are. A header of the node says
// what they are; a module without a handler of that name gets them in `fetch`.

const EVENT = "x-minnow-event";
const BATCH_TYPE = "application/cloudevents-batch+json";
/** Of an answer that names the messages which are to come again. */
const ACKS_TYPE = "application/vnd.minnow.acks+json";

const RETRY_OPTIONS = ["delay", "delaySeconds"];
/** The longest wait that `retry` takes, in milliseconds: a day, the longest `backoff` too. A node reads 64 KiB of an answer. */
const MAX_RETRY_DELAY_MS = 24 * 60 * 60 * 1000;

const decodePercent = decodeURIComponent;
const fromBase64 = Uint8Array.fromBase64;
const endOf = (path) => slice(path, lastIndexOf(path, "/") + 1);

/** How long a message that is to come again waits; undefined for what the subscription says. */
function retryDelayOf(what, options) {
  const delayMs = delayOf(knownOptionsOf(what, options, RETRY_OPTIONS));
  if (delayMs > MAX_RETRY_DELAY_MS) {
    throw new NativeRangeError(`${what}: a message comes again within a day (${MAX_RETRY_DELAY_MS} ms), not after ${delayMs} ms`);
  }
  return delayMs;
}

/** What was said of a message: `isDone`, or how long it waits until it comes again. */
const DONE = freeze({ __proto__: null, isDone: true, delayMs: undefined });
const again = (delayMs) => ({ __proto__: null, isDone: false, delayMs });

/** The first word holds. */
let say;
let wordOf;
let sequenceOf;

/** A message in `queue`. */
class Message {
  #sequence;
  #word = null;
  constructor(attributes, body) {
    this.#sequence = attributes.sequence;
    this.id = attributes.id;
    this.timestamp = new NativeDate(attributes.time);
    this.body = body;
    this.attempts = NativeNumber(attributes.deliverycount);
    this.key = attributes.partitionkey ?? null;
    this.attributes = attributes;
  }
  ack() {
    say(this, DONE);
  }
  retry(options) {
    say(this, again(retryDelayOf("retry", options)));
  }
  static {
    say = (message, word) => message.#word ??= word;
    wordOf = (message) => message.#word;
    sequenceOf = (message) => message.#sequence;
  }
}
freeze(Message.prototype);

class MessageBatch {
  #messages;
  constructor(queue, messages) {
    this.#messages = messages;
    this.queue = queue;
    // A list of the function's own: it may sort it, or take from it.
    this.messages = copyOf(messages);
  }
  ackAll() {
    for (let i = 0; i < this.#messages.length; i++) say(this.#messages[i], DONE);
  }
  retryAll(options) {
    const word = again(retryDelayOf("retryAll", options));
    for (let i = 0; i < this.#messages.length; i++) say(this.#messages[i], word);
  }
}
freeze(MessageBatch.prototype);

/** What starts `scheduled`. */
class ScheduledEvent {
  constructor(name, attributes) {
    this.type = "scheduled";
    this.name = name;
    this.cron = attributes.cron ?? null;
    this.scheduledTime = timeOf(new NativeDate(attributes.time));
  }
  /** What Workers have for it. No tick is repeated. */
  noRetry() {}
}
freeze(ScheduledEvent.prototype);

/** The attributes of an event in binary mode. */
function attributesOfHeaders(list) {
  const attributes = {};
  for (let i = 0; i < list.length; i++) {
    const { 0: name, 1: value } = list[i];
    if (name === "content-type") attributes.datacontenttype = value;
    else if (startsWith(name, "ce-")) attributes[slice(name, 3)] = decodePercent(value);
  }
  return attributes;
}

const mediaOf = (contentType) => {
  const end = indexOf(contentType, ";");
  return toLowerCase(trim(end < 0 ? contentType : slice(contentType, 0, end)));
};
const isTextType = (contentType) => startsWith(toLowerCase(contentType), "text/");
function isJsonType(contentType) {
  const media = mediaOf(contentType);
  const kind = slice(media, indexOf(media, "/") + 1);
  return kind !== media && (kind === "json" || endsWith(kind, "+json"));
}

/** The data of a message as its type says: what JSON says, a string, or an ArrayBuffer. */
function bodyOfBytes(contentType = "", bytes) {
  if (isJsonType(contentType)) return byteLengthOf(bytes) === 0 ? null : parseJson(decode(decoder, bytes));
  if (isTextType(contentType)) return decode(wholeDecoder, bytes);
  if (contentType === "" && byteLengthOf(bytes) === 0) return null;
  const start = byteOffsetOf(bytes);
  return sliceBuffer(bufferOf(bytes), start, start + byteLengthOf(bytes));
}

/** The messages of a request: one in binary mode, or several in batch mode. */
async function messagesOf(request) {
  const attributes = attributesOfHeaders(request[REQUEST].headerList);
  const bytes = await readRequest(request);
  if (attributes.datacontenttype !== BATCH_TYPE) {
    return [new Message(attributes, bodyOfBytes(attributes.datacontenttype, bytes))];
  }
  const events = parseJson(decode(decoder, bytes));
  const messages = [];
  for (let i = 0; i < events.length; i++) {
    const event = events[i];
    const { data, data_base64, datacontenttype } = event;
    delete event.data;
    delete event.data_base64;
    let body = data;
    if (data === undefined) {
      const raw = data_base64 === undefined ? new NativeUint8Array(0) : apply(fromBase64, NativeUint8Array, [data_base64]);
      body = bodyOfBytes(datacontenttype, raw);
    }
    push(messages, new Message(event, body));
  }
  return messages;
}

/** Waits until what `waitUntil` was given has settled: as on Workers, it belongs to the event. */
async function drained(invocation) {
  if (invocation.open > 0) await new NativePromise((resolve) => invocation.drained = resolve);
}

/** Calls the handler, and waits for all that belongs to it. Answers what it threw, null for nothing. */
async function ran(handle, what, invocation) {
  let failed = null;
  try {
    await handle(what, new ExecutionContext(invocation));
  } catch (error) {
    failed = { __proto__: null, error };
  }
  await drained(invocation);
  return failed;
}

const noContent = (invocation) => withWait(new NativeResponse(null, { __proto__: null, status: 204 }), invocation);

async function serveQueue(handle, request, invocation) {
  const messages = await messagesOf(request);
  const failed = await ran(handle, new MessageBatch(endOf(requestUrl(request)), messages), invocation);
  const isWell = failed === null && !invocation.rejected;
  const retry = [];
  let isSpokenOf = false;
  for (let i = 0; i < messages.length; i++) {
    const word = wordOf(messages[i]);
    isSpokenOf ||= word !== null;
    if (word === null ? isWell : word.isDone) continue;
    push(retry, { __proto__: null, sequence: sequenceOf(messages[i]), after_ms: word?.delayMs });
  }
  // Without a word it failed as a whole. No memory, then the node takes the process for spent.
  if (!isWell && (!isSpokenOf || (failed !== null && isOutOfMemory(failed.error)))) return eventFailed(failed, invocation);
  if (failed !== null) log("error", `Uncaught ${describe(failed.error)}`, invocation.id);
  if (retry.length === 0) return noContent(invocation);
  return withWait(respond(200, "content-type", ACKS_TYPE, stringify({ __proto__: null, retry })), invocation);
}

async function serveTick(handle, request, invocation) {
  const attributes = attributesOfHeaders(request[REQUEST].headerList);
  const failed = await ran(handle, new ScheduledEvent(endOf(requestUrl(request)), attributes), invocation);
  return failed === null && !invocation.rejected ? noContent(invocation) : eventFailed(failed, invocation);
}

/** What was given to `waitUntil` is in the log already. */
function eventFailed(failed, invocation) {
  return failed === null ? withWait(failure("threw"), invocation) : threw(failed.error, invocation);
}

/** The handler for what the node sends, and who serves it; null where it is for `fetch`. */
function eventHandler(request) {
  const event = innerHeader(request[REQUEST], EVENT);
  if (event === "queue" && handlers.queue !== null) return { __proto__: null, serve: serveQueue, handle: handlers.queue };
  if (event === "scheduled" && handlers.scheduled !== null) return { __proto__: null, serve: serveTick, handle: handlers.scheduled };
  return null;
}
