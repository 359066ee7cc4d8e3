// The server: takes the function's module, then serves its requests.

/** What `export default` or `Deno.serve` gave, by what it handles. */
const handlers = { __proto__: null, fetch: null, queue: null, scheduled: null };
let env;
/** How long a module without a default export may take to call `Deno.serve` after it was evaluated, as `main()` does. */
const LATE_SERVE_MS = 250;
let lateServe = null;
let loading = false;
let loaded = false;

class LoadError extends NativeError {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** Takes the function over: the body is a line of JSON, then the module's bytes. */
async function load(request) {
  if (loading) return answer(409, { message: "a function was loaded already" });
  loading = true;
  try {
    const body = await readRequest(request);
    const newline = indexOfByte(body, 10);
    const head = parseJson(decode(new NativeTextDecoder(), subarray(body, 0, newline)));
    moduleName = `${head.function}.js`;
    env = environment(head);
    seal(head.env);
    await importModule(subarray(body, newline + 1));
    loaded = true;
    return answer(200, { __proto__: null, handlers: handlerNames() });
  } catch (error) {
    return answer(422, loadFailure(error));
  }
}

/**
 * A response of this script. Its head is written to its inner state: Deno reads a `headers` option with iterators, which the
 * module may have replaced.
 */
function respond(status, name, value, body = null) {
  const response = new NativeResponse(body);
  responseHeaders(response); // Ends the fast path, which takes the head from elsewhere.
  const inner = response[RESPONSE];
  inner.status = status;
  inner.headerList = [[name, value]];
  return response;
}

const answer = (status, value) => respond(status, "content-type", "application/json", stringify(value));
const failure = (kind) => respond(500, "x-minnow-failure", kind);

/** Node's modules of V8 modules, once it was loaded. */
let vm;
/**
 * From this size on, `node:vm` is worth its own loading time. `import()` is ready at once, but Deno parses the bundle too:
 * 0.2 ms a KB, four times what V8 takes, against 35 ms for loading `node:vm` (both measured on a busy machine).
 */
const LARGE_BUNDLE_BYTES = 128 * 1024;

async function importModule(bytes) {
  if (bytes.length >= LARGE_BUNDLE_BYTES) vm ??= await import("node:vm");
  const namespace = await (vm !== undefined && await compile(bytes)) || await importBlob(bytes);
  if ("default" in namespace) takeExported(namespace.default);
  else handlers.fetch ??= await servedHandler(namespace);
}

/** What the module handles, for the node. */
function handlerNames() {
  const names = [];
  if (handlers.fetch !== null) push(names, "fetch");
  if (handlers.queue !== null) push(names, "queue");
  if (handlers.scheduled !== null) push(names, "scheduled");
  return names;
}

/** Evaluates the bundle with V8 alone. Nothing when it does not compile or link: `import()` says better where and why. */
async function compile(bytes) {
  let module;
  try {
    module = new vm.SourceTextModule(decode(new NativeTextDecoder(), bytes), {
      identifier: moduleName,
      importModuleDynamically: importBuiltin,
      initializeImportMeta: (meta) => {
        meta.url = `file:///${moduleName}`;
        meta.main = true;
      },
    });
    await module.link(linkBuiltin);
  } catch {
    return undefined;
  }
  const { namespace } = module;
  await module.evaluate();
  return namespace;
}

/** The code of the loader's errors, syntax errors among them. */
const NOT_FOUND = "ERR_MODULE_NOT_FOUND";

/** What a bundle may import: all else is in it. */
function importBuiltin(specifier) {
  if (startsWith(specifier, "node:") || startsWith(specifier, "data:") || startsWith(specifier, "blob:")) {
    return import(specifier);
  }
  const error = new NativeTypeError(`the bundle does not contain the module "${specifier}"`);
  error.code = NOT_FOUND;
  throw error;
}

async function linkBuiltin(specifier) {
  const namespace = await importBuiltin(specifier);
  const names = ownKeys(namespace);
  const exported = [];
  for (let i = 0; i < names.length; i++) if (typeof names[i] === "string") push(exported, names[i]);
  return new vm.SyntheticModule(exported, function () {
    for (let i = 0; i < exported.length; i++) this.setExport(exported[i], namespace[exported[i]]);
  });
}

async function importBlob(bytes) {
  moduleUrl = createObjectURL(new NativeBlob([bytes], { __proto__: null, type: "text/javascript" }));
  try {
    return await import(moduleUrl);
  } finally {
    revokeObjectURL(moduleUrl);
  }
}

/** Takes the handlers of a default export: an object's, or a class's as Workers have them. `Deno.serve` may have given `fetch`. */
function takeExported(exported) {
  const kind = typeof exported;
  if ((kind !== "object" && kind !== "function") || exported === null) {
    if (handlers.fetch !== null) return;
    throw new LoadError("no_fetch", `the default export is ${exported === null ? "null" : `a ${kind}`} and has no fetch`);
  }
  handlers.fetch ??= handlerOf(exported, "fetch");
  handlers.queue = handlerOf(exported, "queue");
  handlers.scheduled = handlerOf(exported, "scheduled");
  if (handlers.fetch !== null || handlers.queue !== null || handlers.scheduled !== null) return;
  let hint = "";
  if (kind === "function") hint = "; write `export default { fetch: … }` around the function";
  else if (typeof exported.handler === "function") hint = OF_LAMBDA;
  throw new LoadError("no_fetch", `the default export has no fetch, queue or scheduled${hint}`);
}

function handlerOf(exported, name) {
  const method = exported[name];
  if (typeof method === "function") return (what, ctx) => apply(method, exported, [what, env, ctx]);
  // A class: one instance for each invocation.
  if (typeof exported === "function" && typeof exported.prototype?.[name] === "function") {
    return (what, ctx) => construct(exported, [ctx, env])[name](what);
  }
  return null;
}

/** What to write in place of `exports.handler`. */
const OF_LAMBDA = "; `handler` is how AWS Lambda calls a function: here it gets a Request and returns a Response, as " +
  "`export default { fetch(request) { … } }`";

async function servedHandler(namespace) {
  await new NativePromise((resolve) => {
    createSystemTimer(resolve, LATE_SERVE_MS, true);
    lateServe = resolve;
  });
  if (handlers.fetch !== null) return handlers.fetch;
  let hint = "; write `export default { fetch(request) { … } }`";
  if ("queue" in namespace) hint = "; it exports queue by name: write `export default { queue }`";
  else if ("scheduled" in namespace) hint = "; it exports scheduled by name: write `export default { scheduled }`";
  if ("fetch" in namespace) hint = "; it exports fetch by name: write `export default { fetch }`";
  else if ("handler" in namespace) hint = OF_LAMBDA;
  else if (listensForFetch) hint = "; in place of `addEventListener(\"fetch\", …)` write `export default { fetch(request) { … } }`";
  throw new LoadError("no_default", `the module has no default export and does not call Deno.serve${hint}`);
}

/** Why the module could not be loaded, told apart by how Deno's loader words its errors. */
function loadFailure(error) {
  let kind = "throws";
  let message = describe(error);
  let stack = "";
  try {
    if (isPrototypeOf(LoadError.prototype, error)) {
      kind = error.kind;
      message = error.message;
    } else if (isPrototypeOf(NativeError.prototype, error)) {
      stack = tidy(message);
      message = `${error.message}`;
      const early = isPrototypeOf(NativeSyntaxError.prototype, error) && indexOf(stack, "\n    at ") < 0;
      if (error.code === NOT_FOUND) kind = startsWith(message, "SyntaxError: ") ? "syntax" : "import";
      else if (early) kind = indexOf(message, "does not provide an export") < 0 ? "syntax" : "import";
      // The stack of these is in the loader.
      if (kind !== "throws") stack = "";
    }
  } catch {
    // An error with a hostile `message`: what could be shown of it is enough.
  }
  return {
    __proto__: null,
    kind,
    message: tidy(cut(trim(message), MAX_LOAD_FAILURE)),
    stack: tidy(cut(stack, MAX_LOAD_FAILURE)),
  };
}

/** `Deno.serve` for the module: it names the handler; who listens is this script. */
function serve(first, second) {
  const options = typeof first === "function" ? second ?? {} : first ?? {};
  const named = typeof first === "function" ? first : second;
  const handler = typeof named === "function" ? named : options.handler ?? options.fetch;
  if (typeof handler !== "function") throw new NativeTypeError("Deno.serve: the handler has to be a function");
  if (handlers.fetch !== null) throw new Deno.errors.AddrInUse("Deno.serve: the function has a handler already");
  const { onError, onListen, signal } = options;
  handlers.fetch = (request, _ctx, invocation, info) => {
    const call = () => handler(request, new ServeHandlerInfo(invocation, info));
    return typeof onError === "function" ? caught(call, onError) : call();
  };
  lateServe?.();
  let finish;
  const finished = new NativePromise((resolve) => finish = resolve);
  const addr = freeze({ transport: "tcp", hostname: options.hostname ?? "0.0.0.0", port: options.port ?? 8000 });
  const server = {
    addr,
    finished,
    async shutdown() {
      handlers.fetch = null;
      finish();
    },
    ref() {},
    unref() {},
    [Symbol.asyncDispose]() {
      return server.shutdown();
    },
  };
  signal?.addEventListener("abort", () => server.shutdown());
  onListen?.(addr);
  return server;
}

async function caught(handle, onError) {
  try {
    return await handle();
  } catch (error) {
    return await onError(error);
  }
}

// Invocations: the hot path.

function serveRequest(request, info) {
  if (innerHeader === undefined) adapt(request[REQUEST]);
  const id = innerHeader(request[REQUEST], REQUEST_ID);
  if (id === null) return serveNode(request);
  const handle = handlers.fetch;
  if (!loaded) return withoutHandler();
  const event = handlers.queue === null && handlers.scheduled === null ? null : eventHandler(request);
  if (handle === null && event === null) return withoutFetch(id, request);
  const invocation = new Invocation(id, request);
  // Stays entered when this returns: what Deno does with the response belongs to the invocation too.
  enter(invocation);
  if (event !== null) return event.serve(event.handle, request, invocation);
  let response;
  try {
    response = handle(request, new ExecutionContext(invocation), invocation, info);
  } catch (error) {
    return threw(error, invocation);
  }
  if (isPrototypeOf(NativeResponse.prototype, response)) return answered(response, invocation);
  return settled(response, invocation);
}

async function settled(promise, invocation) {
  let response;
  try {
    response = await promise;
  } catch (error) {
    return threw(error, invocation);
  }
  return answered(response, invocation);
}

function answered(response, invocation) {
  if (!isPrototypeOf(NativeResponse.prototype, response)) {
    return response === undefined || response === null
      ? failed("no_response", "the handler returned nothing; it has to return a Response", invocation)
      : failed("not_a_response", `the handler returned no Response but ${describe(response)}`, invocation);
  }
  if (invocation.upgrade !== null) return answeredUpgraded(response, invocation);
  const inner = response[RESPONSE];
  if (inner === undefined || inner.type === "error") {
    return failed("not_a_response", `the handler returned ${describe(response)}, which cannot be sent`, invocation);
  }
  if (inner.status === 101) return answeredSwitching(response, invocation);
  return withWait(hasOwnHeader(inner.headerList) ? withoutOwnHeaders(response) : response, invocation);
}

/**
 * The response, which says whether work of `waitUntil` goes on after it: a record might come after it, and the node would take
 * the invocation for over.
 */
function withWait(response, invocation) {
  invocation.answered = true;
  if (invocation.open === 0 || invocation.waiting) return response;
  invocation.waiting = true;
  return withHeader(response, "x-minnow-waits", "1");
}

function copyOf(list) {
  const copy = [];
  for (let i = 0; i < list.length; i++) push(copy, list[i]);
  return copy;
}

function withHeader(response, name, value) {
  responseHeaders(response); // Ends the fast path, which has a copy of the list.
  const headers = copyOf(response[RESPONSE].headerList);
  push(headers, [name, value]);
  response[RESPONSE].headerList = headers;
  return response;
}

/** Whether a response uses headers of the node. Looks at the list itself: `response.headers` would end Deno's fast path. */
function hasOwnHeader(list) {
  for (let i = 0; i < list.length; i++) {
    const name = list[i][0];
    if ((name[0] === "x" || name[0] === "X") && startsWith(toLowerCase(name), OWN)) return true;
  }
  return false;
}

function withoutOwnHeaders(response) {
  const list = response[RESPONSE].headerList;
  const headers = [];
  for (let i = 0; i < list.length; i++) {
    if (!startsWith(toLowerCase(list[i][0]), OWN)) push(headers, list[i]);
  }
  responseHeaders(response); // Ends the fast path, which has a copy of the list.
  response[RESPONSE].headerList = headers;
  return response;
}

/** Deno ends the whole server when an upgraded request is answered with anything but its upgrade's response. */
function answeredUpgraded(response, invocation) {
  const upgrade = invocation.upgrade;
  // Middleware may have made another response of it, with headers of its own: what counts is that it switches protocols.
  if (response !== upgrade.response && response?.[RESPONSE]?.status !== 101) {
    if (response !== null) {
      log("error", "the request was upgraded, but the handler did not return the upgrade's response", invocation.id);
    }
    abandon(upgrade.socket);
  }
  invocationAnswered(invocation);
  return upgrade.response;
}

function abandon(socket) {
  const close = () => socketClose(socket, 1011, "the function failed");
  if (socket.readyState === 0) addListener(socket, "open", close);
  else close();
}

/** A record is early enough here: what became a WebSocket is not over with its head. */
function answeredSwitching(response, invocation) {
  const end = mapGet(responseSockets, response);
  if (end === undefined) {
    return failed("not_a_response", "status 101 needs `webSocket`, or the response of Deno.upgradeWebSocket", invocation);
  }
  let upgraded;
  try {
    upgraded = upgradeForPair(invocation, response, end).response;
  } catch (error) {
    return threw(error, invocation);
  }
  invocationAnswered(invocation);
  return upgraded;
}

function threw(error, invocation) {
  const kind = isOutOfMemory(error) ? "memory" : "threw";
  return failed(kind, `Uncaught ${describe(error)}`, invocation);
}

/** Whether V8 found no memory for a buffer: it throws then, where it ends the process for want of heap. */
function isOutOfMemory(error) {
  try {
    if (!isPrototypeOf(NativeRangeError.prototype, error)) return false;
    const message = `${error.message}`;
    return indexOf(message, "allocation failed") >= 0 || indexOf(message, "could not allocate") >= 0 ||
      indexOf(message, "Out of memory") >= 0 || indexOf(message, "Unable to grow") >= 0;
  } catch {
    return false;
  }
}

/** Logs why, and answers what the node turns into the documented problem. */
function failed(kind, message, invocation) {
  log("error", message, invocation.id);
  if (invocation.upgrade !== null) return answeredUpgraded(null, invocation);
  return withWait(failure(kind), invocation);
}

/** A request of the node itself: it has no request id. */
function serveNode(request) {
  if (innerHeader(request[REQUEST], "x-minnow-ping") !== null) {
    return new NativeResponse(null, { __proto__: null, status: 204 });
  }
  if (innerHeader(request[REQUEST], "x-minnow-boot") !== null) return load(request);
  return withoutHandler();
}

function withoutHandler() {
  return loaded ? failure("no_fetch") : new NativeResponse(null, { __proto__: null, status: 503 });
}

/** Publish has seen that there is a handler for all that the manifest names: somebody invoked the function directly. */
function withoutFetch(id, request) {
  return failed("no_fetch", "the function has no fetch, and so takes no requests", new Invocation(id, request));
}

/** Deno cannot send the response, or its body failed on the way; then the connection breaks and the answer is not used. */
function onError(error) {
  const message = describe(error);
  log("error", `Uncaught ${message}`);
  const response = failure(indexOf(message, "The body of the Response returned") >= 0 ? "not_a_response" : "threw");
  const invocation = current();
  if (invocation === undefined) return response;
  // What the response that cannot be sent would have said.
  return invocation.waiting ? withHeader(response, "x-minnow-waits", "1") : withWait(response, invocation);
}

/** How long a process waits for its function before it prepares: one from the pool waits, another gets it at once. */
const WARM_UP_MS = 20;

/** Loads what the function would wait for, in steps, as it may come at any time: tens of milliseconds and a few MB. */
async function warmUp() {
  const steps = [
    () => globalThis.setTimeout,
    () => globalThis.process,
    async () => vm ??= await import("node:vm"),
    egress,
  ];
  for (let i = 0; i < steps.length && !loading; i++) {
    await steps[i]();
    await sleep(0);
  }
}

/** Deno's server ends when it cannot accept a connection, as without a free descriptor. A process without it is of no use. */
function endWithServer(reason) {
  print(`it takes no more connections: ${describe(reason)}\n`, true);
  nativeExit(1);
}

const server = nativeServe({
  path: httpPath,
  automaticCompression: false,
  onListen: () => {
    record('{"t":"ready"}');
    createSystemTimer(warmUp, WARM_UP_MS, false);
  },
  onError,
}, serveRequest);
then(server.finished, endWithServer, endWithServer);
