// The script that runs in every process before the function's module. Its files are joined in this order into one ES
// module: intrinsics, records, invocation, fetch, websocket, data, blobs, files, topics, events, seal, load.
//
// The function's module shares this realm and may replace whatever it can reach: `Promise.prototype.then`,
// `JSON.stringify`, `Headers`. So all that is used after that module was imported is taken here, before, and kept in module
// scope, which no other module sees; no `for … of`, spread, destructuring of arrays, or method call on a value that the
// module has touched. It also leans on internals of Deno (`Deno[Deno.internal]`, the symbols of Request and Response), as
// its release is pinned.

const { apply, construct, getPrototypeOf, ownKeys } = Reflect;
const { defineProperty, freeze, getOwnPropertyDescriptor } = Object;
const { bind, call } = Function.prototype;
/** A method as a function whose first argument is `this`. */
const uncurry = bind.bind(call);
/** The getter of an accessor as a function of the object. */
const getter = (object, name) => uncurry(getOwnPropertyDescriptor(object, name).get);

const internals = Deno[Deno.internal];
const { core, inspectArgs, defineEventHandler } = internals;
// Timers of the core: the global ones load Node's modules at their first use, which takes 20 ms.
const { createSystemTimer, getAsyncContext, setAsyncContext, print } = core;

const NativeRequest = Request;
const NativeResponse = Response;
const NativeWebSocket = WebSocket;
const nativeFetch = fetch;
const nativeUpgrade = Deno.upgradeWebSocket;
const nativeServe = Deno.serve;
const nativeExit = Deno.exit;
const { createHttpClient } = Deno;
const NativeURL = URL;
const NativeBlob = Blob;
const NativeProxy = Proxy;
const NativeHeaders = Headers;
const NativeEventTarget = EventTarget;
const NativeEvent = Event;
const NativeMessageEvent = MessageEvent;
const NativeCloseEvent = CloseEvent;
const NativeDOMException = DOMException;
const NativeAbortController = AbortController;
const NativeTypeError = TypeError;
const NativeError = Error;
const NativeSyntaxError = SyntaxError;
const NativeRangeError = RangeError;
const NativePromise = Promise;
const NativeWeakMap = WeakMap;
const NativeUint8Array = Uint8Array;
const NativeTextDecoder = TextDecoder;
const NativeFormData = FormData;

const stringify = JSON.stringify;
const parseJson = JSON.parse;
const createObjectURL = URL.createObjectURL;
const revokeObjectURL = URL.revokeObjectURL;
const isView = ArrayBuffer.isView;
const isArray = Array.isArray;
const queueJob = queueMicrotask;

const isPrototypeOf = uncurry(Object.prototype.isPrototypeOf);
const indexOf = uncurry(String.prototype.indexOf);
const lastIndexOf = uncurry(String.prototype.lastIndexOf);
const slice = uncurry(String.prototype.slice);
const startsWith = uncurry(String.prototype.startsWith);
const endsWith = uncurry(String.prototype.endsWith);
const toLowerCase = uncurry(String.prototype.toLowerCase);
const trim = uncurry(String.prototype.trim);
const trimStart = uncurry(String.prototype.trimStart);
const push = uncurry(Array.prototype.push);
const shift = uncurry(Array.prototype.shift);
const splice = uncurry(Array.prototype.splice);
const sliceBuffer = uncurry(ArrayBuffer.prototype.slice);
const mapGet = uncurry(WeakMap.prototype.get);
const mapSet = uncurry(WeakMap.prototype.set);
const then = uncurry(Promise.prototype.then);
const headersGet = uncurry(Headers.prototype.get);
const headersSet = uncurry(Headers.prototype.set);
const headersHas = uncurry(Headers.prototype.has);
const headersDelete = uncurry(Headers.prototype.delete);
const decode = uncurry(TextDecoder.prototype.decode);
const addListener = uncurry(EventTarget.prototype.addEventListener);
const dispatch = uncurry(EventTarget.prototype.dispatchEvent);
const preventDefault = uncurry(Event.prototype.preventDefault);
const abort = uncurry(AbortController.prototype.abort);
const abortSignalOf = getter(AbortController.prototype, "signal");
const aborted = getter(AbortSignal.prototype, "aborted");
const readRequest = uncurry(Request.prototype.bytes);
const requestUrl = getter(Request.prototype, "url");
const requestHeaders = getter(Request.prototype, "headers");
const requestMethod = getter(Request.prototype, "method");
const requestSignal = getter(Request.prototype, "signal");
const readText = uncurry(Response.prototype.text);
const responseStatus = getter(Response.prototype, "status");
const responseHeaders = getter(Response.prototype, "headers");
const responseBody = getter(Response.prototype, "body");
const cancelStream = uncurry(ReadableStream.prototype.cancel);
const getReader = uncurry(ReadableStream.prototype.getReader);
const readChunk = uncurry(ReadableStreamDefaultReader.prototype.read);
const urlHref = getter(URL.prototype, "href");
const urlProtocol = getter(URL.prototype, "protocol");
const urlOrigin = getter(URL.prototype, "origin");
const urlPort = getter(URL.prototype, "port");
const urlHash = getter(URL.prototype, "hash");
const setUrlHash = uncurry(getOwnPropertyDescriptor(URL.prototype, "hash").set);
const socketSend = uncurry(WebSocket.prototype.send);
const socketClose = uncurry(WebSocket.prototype.close);
const rejectionReason = getter(PromiseRejectionEvent.prototype, "reason");
const errorOf = getter(ErrorEvent.prototype, "error");
const closeCode = getter(CloseEvent.prototype, "code");
const closeReason = getter(CloseEvent.prototype, "reason");
const closeWasClean = getter(CloseEvent.prototype, "wasClean");
const setBytes = uncurry(Uint8Array.prototype.set);
const subarray = uncurry(Uint8Array.prototype.subarray);
const indexOfByte = uncurry(Uint8Array.prototype.indexOf);
const bufferOf = getter(getPrototypeOf(Uint8Array.prototype), "buffer");

/** The symbol under which Deno keeps an object's inner state. */
function symbolOf(object, description) {
  const keys = ownKeys(object);
  for (let i = 0; i < keys.length; i++) {
    if (typeof keys[i] === "symbol" && keys[i].description === description) return keys[i];
  }
  throw new NativeError(`this release of Deno has no ${description}`);
}

const REQUEST = symbolOf(new NativeRequest("http://minnow.invalid/"), "request");
const RESPONSE = symbolOf(new NativeResponse(null), "response");

const httpPath = Deno.args[0] ?? "/run/http";
const egressPath = Deno.args[1] ?? "/run/egress";
const dataPath = Deno.args[2] ?? "/run/data";

const sleep = (ms) => new NativePromise((resolve) => createSystemTimer(resolve, ms, true));
