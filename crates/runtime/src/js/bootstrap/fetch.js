// The way out: fetch, WebSocket and EventSource go through the node, over one unix socket, and in no other way.
//
// A request leaves as `http://HOST/…`, whatever its scheme, which a header tells: TLS is the node's. Redirects are
// followed here, so that each hop passes the function's egress rules.

const MAX_REDIRECTS = 20;
let client;
/** Made for the first request: it loads the root certificates, which takes milliseconds. */
const egress = () => client ??= createHttpClient({ proxy: { transport: "unix", path: egressPath } });
const BODY_HEADERS = freeze(["content-encoding", "content-language", "content-location", "content-type", "content-length"]);
const SECRET_HEADERS = freeze(["authorization", "proxy-authorization", "cookie"]);
/** Of an error's text that the node sends. */
const MAX_REASON = 4096;

const isRedirect = (status) =>
  status === 301 || status === 302 || status === 303 || status === 307 || status === 308;

/** The URL with which `url` is asked of the node: the same, without TLS. */
function wireUrl(url, scheme) {
  const href = urlHref(url);
  return scheme + slice(href, indexOf(href, ":"));
}

/** Tells the node what `wireUrl` lost, and whose request it is. */
function setWireHeaders(headers, url) {
  const protocol = urlProtocol(url);
  headersSet(headers, "x-minnow-scheme", slice(protocol, 0, -1));
  // Port 80 is the default of the URL on the wire, and is dropped from it.
  if (urlPort(url) === "80") headersSet(headers, "x-minnow-port", "80");
  else headersDelete(headers, "x-minnow-port");
  headersSet(headers, REQUEST_ID, currentId());
  // A request that is passed on names this function's host; the URL's is meant.
  headersDelete(headers, "host");
}

async function outboundFetch(input, init) {
  let request = new NativeRequest(input, init);
  let url = new NativeURL(requestUrl(request));
  const protocol = urlProtocol(url);
  if (protocol === "data:" || protocol === "blob:") return await nativeFetch(request);
  if (protocol !== "http:" && protocol !== "https:") {
    throw new NativeTypeError(`fetch cannot open ${protocol} URLs: ${urlHref(url)}`);
  }
  const signal = requestSignal(request);
  // A request that the function received has no redirect mode.
  const mode = request[REQUEST].redirectMode ?? "follow";
  const urls = [urlHref(url)];
  for (;;) {
    const inner = request[REQUEST];
    const source = inner.body === null ? null : inner.body.source;
    const hasBody = inner.body !== null;
    const response = await sendHop(request, url);
    const status = responseStatus(response);
    const location = isRedirect(status) && mode !== "manual" ? headersGet(responseHeaders(response), "location") : null;
    if (location === null) {
      response[RESPONSE].urlList = urls;
      return response;
    }
    discard(response);
    if (mode === "error") throw new NativeTypeError(`fetch failed: ${urlHref(url)} redirects, and redirect is "error"`);
    if (urls.length > MAX_REDIRECTS) {
      throw new NativeTypeError(`fetch failed: more than ${MAX_REDIRECTS} redirects, the last from ${urlHref(url)}`);
    }
    const next = redirectTarget(url, location);
    request = redirected(request, url, next, status, hasBody, source, signal);
    url = next;
    push(urls, urlHref(url));
  }
}

/** Sends one request to the node and waits for the head of its response. */
async function sendHop(request, url) {
  const inner = request[REQUEST];
  const target = wireUrl(url, "http");
  inner.urlList = [() => target];
  inner.urlListProcessed = [];
  inner.redirectMode = "manual";
  inner.blobUrlEntry = null;
  setWireHeaders(requestHeaders(request), url);
  let response;
  try {
    response = await nativeFetch(request, { __proto__: null, client: egress() });
  } catch (error) {
    if (aborted(requestSignal(request)) || !isPrototypeOf(NativeTypeError.prototype, error)) throw error;
    throw new NativeTypeError(`fetch failed: ${urlHref(url)} cannot be reached`, { __proto__: null, cause: error });
  }
  if (responseStatus(response) !== 599) return response;
  const code = headersGet(responseHeaders(response), "x-minnow-egress-error");
  if (code === null) return response;
  const reason = slice(await readText(response), 0, MAX_REASON);
  const cause = new NativeError(reason);
  defineProperty(cause, "code", { __proto__: null, value: code, enumerable: true });
  throw new NativeTypeError(`fetch failed: ${reason || code}`, { __proto__: null, cause });
}

function redirectTarget(url, location) {
  let next;
  try {
    next = new NativeURL(location, urlHref(url));
  } catch {
    throw new NativeTypeError(`fetch failed: ${urlHref(url)} redirects to an invalid URL`);
  }
  if (urlProtocol(next) !== "http:" && urlProtocol(next) !== "https:") {
    throw new NativeTypeError(`fetch failed: ${urlHref(url)} redirects to a ${urlProtocol(next)} URL`);
  }
  if (urlHash(next) === "") setUrlHash(next, urlHash(url));
  return next;
}

/** The request for the next hop: https://fetch.spec.whatwg.org/#http-redirect-fetch. */
function redirected(request, from, to, status, hasBody, source, signal) {
  let method = requestMethod(request);
  const headers = new NativeHeaders(requestHeaders(request));
  let body = null;
  if (
    ((status === 301 || status === 302) && method === "POST") ||
    (status === 303 && method !== "GET" && method !== "HEAD")
  ) {
    method = "GET";
    deleteAll(headers, BODY_HEADERS);
  } else if (hasBody) {
    if (source === null) {
      throw new NativeTypeError("fetch failed: a body that is a stream cannot be sent again after a redirect");
    }
    body = source;
    // A form gets another boundary when it is written again.
    if (isPrototypeOf(NativeFormData.prototype, source)) headersDelete(headers, "content-type");
  }
  if (urlOrigin(from) !== urlOrigin(to)) deleteAll(headers, SECRET_HEADERS);
  return new NativeRequest(urlHref(to), { __proto__: null, method, headers, body, signal });
}

function deleteAll(headers, names) {
  for (let i = 0; i < names.length; i++) headersDelete(headers, names[i]);
}

/** Frees the connection of a response that nobody reads. */
function discard(response) {
  const body = responseBody(response);
  if (body !== null) then(cancelStream(body), undefined, () => {});
}

function defineGlobal(name, value) {
  defineProperty(globalThis, name, { __proto__: null, value, writable: true, enumerable: false, configurable: true });
}

defineGlobal("fetch", function fetch(input, init = undefined) {
  if (arguments.length === 0) return outboundFetch();
  return outboundFetch(input, init);
});

/** The symbol under which a socket keeps its URL. */
let socketUrl;

// A proxy and no subclass, so that sockets of `Deno.upgradeWebSocket` are instances too.
const OutboundWebSocket = new NativeProxy(NativeWebSocket, {
  __proto__: null,
  construct(target, args, newTarget) {
    if (args.length === 0) return construct(target, args, newTarget);
    let url;
    try {
      url = new NativeURL(args[0]);
    } catch (error) {
      throw new NativeDOMException(error.message, "SyntaxError");
    }
    const protocol = urlProtocol(url);
    const scheme = protocol === "https:" || protocol === "wss:" ? "wss" : "ws";
    // Anything else fails in Deno's own checks, before it connects.
    if (protocol !== "http:" && protocol !== "https:" && protocol !== "ws:" && protocol !== "wss:") {
      return construct(target, args, newTarget);
    }
    const real = new NativeURL(wireUrl(url, scheme));
    const given = args[1];
    const init = { __proto__: null, protocols: undefined, headers: undefined, client: egress() };
    if (typeof given === "string") init.protocols = [given];
    else if (isArray(given)) init.protocols = given;
    else if (given !== undefined && given !== null) {
      init.protocols = given.protocols;
      init.headers = given.headers;
    }
    init.headers = new NativeHeaders(init.headers);
    setWireHeaders(init.headers, real);
    const socket = construct(target, [wireUrl(url, "ws"), init], newTarget);
    socket[socketUrl ??= symbolOf(socket, "[[url]]")] = urlHref(real);
    return socket;
  },
});
NativeWebSocket.prototype.constructor = OutboundWebSocket;
defineGlobal("WebSocket", OutboundWebSocket);

// Deno's own EventSource does not take a client, so this one reads the stream with the fetch above:
// https://html.spec.whatwg.org/multipage/server-sent-events.html
class EventSource extends NativeEventTarget {
  #url;
  #controller = new NativeAbortController();
  #readyState = 0;
  #lastEventId = "";
  #retryMs = 3000;
  #withCredentials;

  constructor(url, init = undefined) {
    super();
    try {
      this.#url = urlHref(new NativeURL(url));
    } catch (error) {
      throw new NativeDOMException(error.message, "SyntaxError");
    }
    this.#withCredentials = init?.withCredentials === true;
    this.#run();
  }
  get url() {
    return this.#url;
  }
  get readyState() {
    return this.#readyState;
  }
  get withCredentials() {
    return this.#withCredentials;
  }
  close() {
    this.#readyState = 2;
    abort(this.#controller);
  }

  async #run() {
    while (this.#readyState !== 2) {
      let again = false;
      try {
        again = await this.#read();
      } catch {
        again = true;
      }
      if (this.#readyState === 2) return;
      this.#readyState = again ? 0 : 2;
      dispatch(this, new NativeEvent("error"));
      if (again) await sleep(this.#retryMs);
    }
  }

  /** Reads one response to its end. True: connect again. */
  async #read() {
    const headers = new NativeHeaders();
    headersSet(headers, "accept", "text/event-stream");
    if (this.#lastEventId !== "") headersSet(headers, "last-event-id", this.#lastEventId);
    const response = await outboundFetch(this.#url, {
      __proto__: null,
      headers,
      signal: abortSignalOf(this.#controller),
    });
    const type = toLowerCase(headersGet(responseHeaders(response), "content-type") ?? "");
    if (responseStatus(response) !== 200 || !startsWith(type, "text/event-stream")) {
      discard(response);
      return false;
    }
    this.#readyState = 1;
    dispatch(this, new NativeEvent("open"));
    const reader = getReader(responseBody(response));
    const decoder = new NativeTextDecoder();
    const event = { __proto__: null, type: "", data: "", id: this.#lastEventId };
    let text = "";
    for (;;) {
      const { done, value } = await readChunk(reader);
      if (done) return true;
      text += decode(decoder, value, { __proto__: null, stream: true });
      for (;;) {
        const newline = indexOf(text, "\n");
        const feed = indexOf(text, "\r");
        const end = feed >= 0 && (newline < 0 || feed < newline) ? feed : newline;
        // A carriage return at the end may be the first half of a line's end.
        if (end < 0 || (end === feed && end === text.length - 1)) break;
        this.#line(slice(text, 0, end), event, urlOrigin(new NativeURL(this.#url)));
        text = slice(text, end === feed && newline === feed + 1 ? end + 2 : end + 1);
      }
    }
  }

  #line(line, event, origin) {
    if (line === "") {
      this.#lastEventId = event.id;
      if (event.data !== "" && this.#readyState !== 2) {
        dispatch(this, new NativeMessageEvent(event.type || "message", {
          __proto__: null,
          data: slice(event.data, 0, -1),
          origin,
          lastEventId: event.id,
        }));
      }
      event.type = event.data = "";
      return;
    }
    const colon = indexOf(line, ":");
    const field = colon < 0 ? line : slice(line, 0, colon);
    let value = colon < 0 ? "" : slice(line, colon + 1);
    if (startsWith(value, " ")) value = slice(value, 1);
    if (field === "data") event.data += `${value}\n`;
    else if (field === "event") event.type = value;
    else if (field === "id" && indexOf(value, "\0") < 0) event.id = value;
    else if (field === "retry" && +value >= 0) this.#retryMs = +value;
  }
}
for (let i = 0; i < 3; i++) {
  const constant = { __proto__: null, value: i, enumerable: true };
  defineProperty(EventSource, ["CONNECTING", "OPEN", "CLOSED"][i], constant);
  defineProperty(EventSource.prototype, ["CONNECTING", "OPEN", "CLOSED"][i], constant);
}
defineEventHandler(EventSource.prototype, "open");
defineEventHandler(EventSource.prototype, "message");
defineEventHandler(EventSource.prototype, "error");
defineGlobal("EventSource", EventSource);
