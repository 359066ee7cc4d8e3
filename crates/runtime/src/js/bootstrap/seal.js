// What the function's module must not use, or must see differently. Deno's permissions and the sandbox are the walls; this
// gives the reason in place of an obscure failure, and keeps a slip (`process.exit()`) from ending the requests beside it.

/** Replaces a property of an object that Deno defined. */
function replace(object, name, value) {
  defineProperty(object, name, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
}

const { NotCapable } = Deno.errors;
const ObjectPrototype = Object.prototype;
const tryToDefine = Reflect.defineProperty;

function refuse(object, name, reason) {
  // No arrow function: it may be called with `new`.
  replace(object, name, function () {
    throw new NotCapable(reason);
  });
}

const ONE_THREAD = "Worker: a function runs on one thread; concurrent requests share it";

// The Worker of `node:worker_threads` too: V8 ends the process when it finds no room for the code of a second thread. Deno
// loads that module when it is first needed, first tells its internals of it, and then assigns its exports to an empty object:
// all in one go, so nobody else sees the setter on Object.prototype. Where the function has frozen that, it keeps Deno's Worker.
defineProperty(internals, "__initWorkerThreads", {
  __proto__: null,
  set(init) {
    replace(internals, "__initWorkerThreads", init);
    tryToDefine(ObjectPrototype, "Worker", {
      __proto__: null,
      set() {
        delete ObjectPrototype.Worker;
        refuse(this, "Worker", ONE_THREAD);
      },
      configurable: true,
    });
  },
  configurable: true,
});

/** Whether the module waits for `fetch` events, as service workers do: there are none here. */
let listensForFetch = false;
const nativeAddEventListener = globalThis.addEventListener;
defineGlobal("addEventListener", function addEventListener(type) {
  if (type === "fetch") listensForFetch = true;
  return apply(nativeAddEventListener, this, arguments);
});

// What `process.argv` is made of when it is first needed, in place of how the node calls Deno.
internals.__nodeBootstrapArgs.denoArgs = [];
replace(Deno, "mainModule", "file:///function.js");

/** Called before the function's module is imported. */
function seal(env) {
  delete Deno[Deno.internal];

  const listens = ["listen", "listenTls", "listenDatagram", "serveHttp"];
  for (let i = 0; i < listens.length; i++) {
    refuse(Deno, listens[i], `Deno.${listens[i]}: a function does not listen; use Deno.serve or a default export`);
  }
  const connects = ["connect", "connectTls", "connectQuic", "startTls", "resolveDns", "createHttpClient"];
  for (let i = 0; i < connects.length; i++) {
    refuse(Deno, connects[i], `Deno.${connects[i]}: a function reaches the network with fetch and WebSocket only`);
  }
  // `process.exit` ends here too.
  refuse(Deno, "exit", "Deno.exit: a function's process serves other requests too");
  refuse(Deno, "kill", "Deno.kill: a function has no processes but its own");
  refuse(globalThis, "close", "close: a function's process serves other requests too");
  refuse(globalThis, "Worker", ONE_THREAD);
  // They keep files, which a function has no place for.
  delete globalThis.localStorage;
  delete globalThis.caches;
  replace(Deno, "serve", serve);
  replace(Deno, "upgradeWebSocket", upgradeWebSocket);
  replace(Deno, "args", []);

  // The process's environment is the function's: what the node started it with goes.
  const inherited = ownKeys(Deno.env.toObject());
  for (let i = 0; i < inherited.length; i++) Deno.env.delete(inherited[i]);
  const names = ownKeys(env);
  for (let i = 0; i < names.length; i++) Deno.env.set(names[i], env[names[i]]);

  // What stays: `env` for the above, `net` for fetch, and for the socket to the node, which Deno checks for each connection,
  // `write` of it and `read` of its folder, which is the working directory: `process.cwd()` needs that. The node trusts
  // nothing that comes over the socket.
  const permissions = [
    { name: "write", path: httpPath },
    { name: "import" },
    { name: "run" },
    { name: "ffi" },
  ];
  for (let i = 0; i < permissions.length; i++) Deno.permissions.revokeSync(permissions[i]);
}
