// Records: one line of standard output each, which the node reads. It starts with RECORD, which a JSON text never contains.

const RECORD = "\x1e";
/**
 * A longer message is cut, in UTF-16 units. The node keeps 16 KiB of a message, and reads lines of six times that: a
 * character has up to six bytes as an escape of JSON, up to three otherwise.
 */
const MAX_MESSAGE = 16 * 1024;
/**
 * The same for why a module could not be loaded, which is a message and a stack: the node reads 64 KiB of both. In UTF-16
 * units too, so that twice 5 Ki fit at six bytes each.
 */
const MAX_LOAD_FAILURE = 5 * 1024;
/** By the number that Deno's console gives its printer; the last is `console.trace`. */
const LEVELS = freeze(["debug", "info", "warn", "error", "debug"]);
const TRACE = 4;

/** How stacks name the bundle: as `moduleName`, or by the URL from which it was imported. */
let moduleName;
let moduleUrl = null;
const bootUrl = import.meta.url;

function record(json) {
  try {
    // Blocks while the pipe is full, so that a line written right before an endless loop or a crash is not lost.
    print(`${RECORD}${json}\n`, false);
  } catch {
    // The node is gone; this process will be soon.
  }
}

function log(level, message, id = currentId()) {
  const text = stringify(tidy(cut(message)));
  record(`{"t":"log","l":"${level}","r":${id === "" ? null : `"${id}"`},"m":${text}}`);
}

const toWellFormed = uncurry(String.prototype.toWellFormed);

/** Also mends half characters, by a cut or the function's own: JSON would hold escapes that the node cannot read. */
function cut(message, max = MAX_MESSAGE) {
  const excess = message.length - max;
  return toWellFormed(excess > 0 ? `${slice(message, 0, max)}… (${excess} more characters)` : message);
}

/** Names the bundle instead of its blob URL, and leaves out the stack frames of this script and of Deno. */
function tidy(message) {
  if (moduleUrl !== null) {
    let named = "";
    let from = 0;
    for (let at = indexOf(message, moduleUrl); at >= 0; at = indexOf(message, moduleUrl, from)) {
      named += slice(message, from, at) + moduleName;
      from = at + moduleUrl.length;
    }
    message = named + slice(message, from);
  }
  return withAdvice(withoutFrames(withoutFrames(message, bootUrl), "ext:"));
}

/** Leaves out the lines of a stack that are in the script `place`. */
function withoutFrames(message, place) {
  let at = indexOf(message, place);
  while (at >= 0) {
    const start = lastIndexOf(message, "\n", at);
    const end = indexOf(message, "\n", at);
    if (start >= 0 && startsWith(trimStart(slice(message, start, at)), "at ")) {
      const line = end < 0 ? slice(message, start) : slice(message, start, end);
      message = slice(message, 0, start) + closing(line) + (end < 0 ? "" : slice(message, end));
      at = indexOf(message, place, start);
    } else at = indexOf(message, place, at + place.length);
  }
  return message;
}

/** What the console wrote after the last frame of a stack: an error's own properties begin there, or what it is part of ends. */
function closing(line) {
  let start = line.length;
  while (start > 0 && indexOf(" {}[],", line[start - 1]) >= 0) start--;
  return slice(line, start);
}

/** How Deno ends the message of an error when it may not do something, between these two the name of the permission. */
const ADVICE = ", run again with the --allow-";
const ADVICE_END = " flag";
/** What is true here in its place. */
const REASONS = freeze({
  __proto__: null,
  read: "a function has no files; import them, and they are in its bundle",
  write: "a function has no files",
  net: "a function reaches the network with fetch, WebSocket and EventSource only",
  import: "a function imports what is in its bundle",
  run: "a function starts no programs",
  ffi: "a function runs no native code",
  sys: "a function learns nothing about the machine",
});

/** Tells why something is refused. The errors themselves are Deno's: programs may look at them. */
function withAdvice(message) {
  for (let at = indexOf(message, ADVICE); at >= 0; at = indexOf(message, ADVICE, at + 1)) {
    const start = at + ADVICE.length;
    const end = indexOf(message, ADVICE_END, start);
    const reason = end < 0 ? undefined : REASONS[slice(message, start, end)];
    if (reason !== undefined) message = `${slice(message, 0, at)}: ${reason}${slice(message, end + ADVICE_END.length)}`;
  }
  return message;
}

/** A thrown value as the console shows it: with stack and causes. */
function describe(error) {
  try {
    return inspectArgs([error], { __proto__: null, colors: false });
  } catch {
    return "(a value that cannot be shown)";
  }
}

// Deno's own console with another printer: formatting, groups, counters and timers are as everywhere else.
const console = new internals.Console((message, level) => {
  if (level === TRACE && message === "\n") return; // The end of its line comes on its own.
  log(LEVELS[level] ?? "info", endsWith(message, "\n") ? slice(message, 0, -1) : message);
});
// There is no terminal to clear.
console.clear = () => {};
defineProperty(globalThis, "console", {
  __proto__: null,
  value: console,
  writable: true,
  enumerable: false,
  configurable: true,
});

// What nobody catches is logged and the process goes on: it serves other requests too. The request that waits for it, if
// one does, runs into its time limit, as on Workers.
addListener(globalThis, "unhandledrejection", (event) => {
  preventDefault(event);
  log("error", `Uncaught (in promise) ${describe(rejectionReason(event))}`);
});
addListener(globalThis, "error", (event) => {
  preventDefault(event);
  log("error", `Uncaught ${describe(errorOf(event))}`);
});
