// An invocation: one request to the function, from its head to the end of its `waitUntil` work.

/** The header with which the node names the request; all that start with OWN are the node's, and hidden. */
const REQUEST_ID = "x-minnow-request";
const OWN = "x-minnow-";

class Invocation {
  constructor(id, request) {
    this.id = id;
    this.request = request;
    /** `{response, socket}` of Deno once the request was upgraded: it has to be answered with that response then. */
    this.upgrade = null;
    this.answered = false;
    /** Promises of `waitUntil` that have not settled. */
    this.open = 0;
    /** One of them was rejected. */
    this.rejected = false;
    /** Called when the last of them has settled: an event is not answered before. */
    this.drained = null;
    this.waiting = false;
  }
}

// The current invocation is an entry of V8's async context, beside those of AsyncLocalStorage, which copies it along. To
// enter it costs one object; `AsyncLocalStorage.run` a WeakMap entry and two copies.
const enter = (invocation) => setAsyncContext({ minnow: invocation });
const current = () => getAsyncContext()?.minnow;
const currentId = () => current()?.id ?? "";

function invocationAnswered(invocation) {
  invocation.answered = true;
  if (invocation.open > 0) announceWait(invocation);
}

function announceWait(invocation) {
  if (invocation.waiting) return;
  invocation.waiting = true;
  record(`{"t":"wait","r":"${invocation.id}"}`);
}

async function waitFor(promise, invocation) {
  invocation.open++;
  if (invocation.answered) announceWait(invocation);
  try {
    await promise;
  } catch (error) {
    invocation.rejected = true;
    log("error", `waitUntil: ${describe(error)}`, invocation.id);
  }
  invocation.open--;
  if (invocation.open === 0) invocation.drained?.();
  if (invocation.open === 0 && invocation.waiting) {
    invocation.waiting = false;
    record(`{"t":"done","r":"${invocation.id}"}`);
  }
}

class ExecutionContext {
  #invocation;
  constructor(invocation) {
    this.#invocation = invocation;
  }
  waitUntil(promise) {
    const { request, answered } = this.#invocation;
    if (!answered) {
      // Deno forgets the head of a request once it is answered; the work that goes on may ask for it.
      requestUrl(request);
      headersHas(requestHeaders(request), "host");
    }
    waitFor(promise, this.#invocation);
  }
  passThroughOnException() {}
}
freeze(ExecutionContext.prototype);

/** What `Deno.serve` hands its handler beside the request. */
class ServeHandlerInfo {
  #invocation;
  #info;
  constructor(invocation, info) {
    this.#invocation = invocation;
    this.#info = info;
  }
  get remoteAddr() {
    const chain = headersGet(requestHeaders(this.#invocation.request), "x-forwarded-for") ?? "";
    const end = indexOf(chain, ",");
    return { transport: "tcp", hostname: trim(end < 0 ? chain : slice(chain, 0, end)), port: 0 };
  }
  get completed() {
    return this.#info.completed;
  }
}
freeze(ServeHandlerInfo.prototype);

/** Reads a header of a request's inner object; set by `adapt`. */
let innerHeader;

/**
 * Makes Deno's inner request show the function's view: its public URL and no headers of the node. It has to be there that
 * `Request`, copies and clones take them from; nothing is computed for a request that nobody asks about.
 */
function adapt(inner) {
  const prototype = getPrototypeOf(inner);
  const nativeHeader = uncurry(prototype.header);
  const nativeUrl = uncurry(prototype.url);
  const nativeHeaders = getter(prototype, "headerList");
  innerHeader = nativeHeader;
  prototype.url = function () {
    const url = nativeUrl(this);
    if (!startsWith(url, "http+unix:")) return url;
    let scheme = "http";
    try {
      if (nativeHeader(this, "x-forwarded-proto") === "https") scheme = "https";
    } catch {
      // Answered already: the scheme is lost with the headers. `waitUntil` reads the URL while there is time.
    }
    return scheme + slice(url, 9);
  };
  prototype.header = function (name) {
    return startsWith(toLowerCase(name), OWN) ? null : nativeHeader(this, name);
  };
  defineProperty(prototype, "headerList", {
    __proto__: null,
    get() {
      const list = nativeHeaders(this);
      for (let i = list.length - 1; i >= 0; i--) {
        if (startsWith(list[i][0], OWN)) splice(list, i, 1);
      }
      return list;
    },
  });
  freeze(prototype);
}
