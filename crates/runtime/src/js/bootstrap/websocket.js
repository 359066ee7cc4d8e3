// WebSocket connections to the function: `Deno.upgradeWebSocket` of Deno, and `WebSocketPair` of Workers on top of it.

/** Messages for an end of a pair that nobody accepted yet; one more closes it. */
const MAX_WAITING = 1024;

/** Whether Deno made this request for a connection: a copy cannot be upgraded. */
const isServed = (request) => typeof request?.[REQUEST]?._wantsUpgrade === "function";

function upgradeWebSocket(request, options = undefined) {
  const invocation = current();
  const served = isServed(request) ? request : invocation?.request;
  if (served === undefined) throw new NativeTypeError("upgradeWebSocket takes the request that the handler got");
  const upgrade = options === undefined ? nativeUpgrade(served) : nativeUpgrade(served, options);
  if (invocation?.request === served) invocation.upgrade = upgrade;
  // Deno says 0 when the connection broke; the standard says 1006. First among the listeners.
  addListener(upgrade.socket, "close", (event) => {
    if (closeCode(event) === 0) defineProperty(event, "code", { __proto__: null, value: 1006, configurable: true });
  });
  return upgrade;
}

/** The end that a response carries: `new Response(null, { status: 101, webSocket })`. */
const responseSockets = new NativeWeakMap();

/** Whether a value is an end of a pair. */
let isEnd;
/** Makes `end` stand for the connection `native`: what is sent to the other end goes out, what comes in arrives there. */
let connectEnd;

/** One end of a pair: what is sent to it comes out of the other one. Not a `WebSocket` natively, but has its surface. */
class WebSocketEnd extends NativeEventTarget {
  #other = null;
  #accepted = false;
  /** Messages and the close that wait until this end is accepted or connected. */
  #waiting = [];
  /** Takes what arrives: dispatches it, or writes it to the connection. */
  #deliver = null;
  #readyState = 1;

  static pair() {
    const client = new WebSocketEnd();
    const server = new WebSocketEnd();
    client.#other = server;
    server.#other = client;
    return { client, server };
  }

  static {
    isEnd = (value) => typeof value === "object" && value !== null && #other in value;
    connectEnd = (end, native) => {
      if (end.#accepted) throw new NativeTypeError("a WebSocket that was accepted cannot be returned in a response");
      end.#accepted = true;
      const other = end.#other;
      addListener(native, "open", () => {
        end.#open(({ data, close }) => {
          if (close === undefined) socketSend(native, data);
          else closeNative(native, close);
        });
      });
      addListener(native, "message", (event) => other.#receive({ __proto__: null, data: event.data }));
      addListener(native, "close", (event) => {
        const code = closeCode(event) || 1006; // Deno says 0 when the connection broke.
        const close = { __proto__: null, code, reason: closeReason(event), wasClean: closeWasClean(event) };
        other.#receive({ __proto__: null, close });
      });
    };
  }

  get readyState() {
    return this.#readyState;
  }
  get url() {
    return null;
  }
  get protocol() {
    return "";
  }
  get extensions() {
    return "";
  }
  get binaryType() {
    return "arraybuffer";
  }

  accept() {
    if (this.#accepted) throw new NativeTypeError("this WebSocket was accepted or returned in a response already");
    this.#accepted = true;
    // Listeners may be added after this call, as Workers allows: deliver in a later turn.
    queueJob(() =>
      this.#open(({ data, close }) => {
        if (close === undefined) dispatch(this, new NativeMessageEvent("message", { __proto__: null, data }));
        else this.#closed(close);
      })
    );
  }

  send(data) {
    if (this.#readyState > 1) throw new NativeTypeError("send after close");
    this.#other.#receive({ __proto__: null, data: copyMessage(data) });
  }

  close(code = undefined, reason = undefined) {
    if (code !== undefined && !(code >= 1000 && code <= 1014) && !(code >= 3000 && code <= 4999)) {
      throw new NativeTypeError(`invalid WebSocket close code: ${code}`);
    }
    if (this.#readyState > 1) return;
    this.#readyState = 2;
    this.#other.#receive({
      __proto__: null,
      close: { __proto__: null, code: code ?? 1005, reason: reason === undefined ? "" : `${reason}`, wasClean: true },
    });
  }

  #receive(message) {
    if (this.#deliver !== null) this.#deliver(message);
    else if (this.#waiting.length < MAX_WAITING || message.close !== undefined) push(this.#waiting, message);
    else this.close(1013, "nobody accepts this WebSocket");
  }

  #open(deliver) {
    this.#deliver = deliver;
    while (this.#waiting.length > 0) deliver(shift(this.#waiting));
  }

  #closed(close) {
    if (this.#readyState === 3) return;
    // Answers the close of the other end; an end that began it is only told.
    if (this.#readyState === 1) this.#other.#receive({ __proto__: null, close });
    this.#readyState = 3;
    dispatch(this, new NativeCloseEvent("close", close));
  }
}
for (let i = 0; i < 4; i++) {
  const name = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"][i];
  defineProperty(WebSocketEnd.prototype, name, { __proto__: null, value: i, enumerable: true });
}
defineEventHandler(WebSocketEnd.prototype, "open");
defineEventHandler(WebSocketEnd.prototype, "message");
defineEventHandler(WebSocketEnd.prototype, "close");
defineEventHandler(WebSocketEnd.prototype, "error");
freeze(WebSocketEnd);

/** A binary message as its receiver owns it. */
function copyMessage(data) {
  if (typeof data === "string") return data;
  if (isView(data)) {
    const bytes = new NativeUint8Array(data.byteLength);
    setBytes(bytes, new NativeUint8Array(data.buffer, data.byteOffset, data.byteLength));
    return bufferOf(bytes);
  }
  if (core.isArrayBuffer(data)) return sliceBuffer(data, 0);
  return `${data}`;
}

function closeNative(native, { code, reason }) {
  // 1005 and 1006 say that there was no code, and are not sent.
  if (code === 1005 || code === 1006) socketClose(native);
  else socketClose(native, code, reason);
}

/** Lets `new Response` carry the end of a pair. Only from the first pair on: a proxy makes each response dearer. */
function carryWebSockets() {
  if (globalThis.Response !== NativeResponse) return;
  const Response = new NativeProxy(NativeResponse, {
    __proto__: null,
    construct(target, args, newTarget) {
      const response = construct(target, args, newTarget);
      const socket = args[1]?.webSocket;
      if (socket !== undefined && socket !== null) {
        if (!isEnd(socket)) throw new NativeTypeError("webSocket has to be an end of a WebSocketPair");
        mapSet(responseSockets, response, socket);
        defineProperty(response, "webSocket", { __proto__: null, value: socket });
      }
      return response;
    },
  });
  NativeResponse.prototype.constructor = Response;
  defineGlobal("Response", Response);
}

defineGlobal("WebSocketPair", function WebSocketPair() {
  if (new.target === undefined) throw new NativeTypeError("WebSocketPair is a constructor");
  carryWebSockets();
  const { client, server } = WebSocketEnd.pair();
  this[0] = client;
  this[1] = server;
});

/** Upgrades the request of an invocation for the end of a pair that its response carries. */
function upgradeForPair(invocation, response, end) {
  const protocol = headersGet(responseHeaders(response), "sec-websocket-protocol");
  const options = protocol === null ? undefined : { __proto__: null, protocol };
  const upgrade = nativeUpgrade(invocation.request, options);
  connectEnd(end, upgrade.socket);
  return upgrade;
}
