//! Every key of `minnow.toml`: what the parser accepts and what the manifest reference says come from these tables.

use std::fmt::Write as _;

/// One key of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDoc {
    pub key: &'static str,
    /// What the value is, as an error and the reference say it: `string`, `list of strings`.
    pub kind: &'static str,
    /// The value when the key is absent; `None` for a key that must be there.
    pub default: Option<&'static str>,
    /// What it does, with bounds and the reason for the default.
    pub meaning: &'static str,
    /// A whole line (or table) that can be pasted.
    pub example: &'static str,
}

/// One table of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableDoc {
    /// The table as it is written; empty for the top level.
    pub header: &'static str,
    pub meaning: &'static str,
    pub keys: &'static [KeyDoc],
}

impl TableDoc {
    /// How a sentence names the table.
    pub(super) fn called(&self) -> String {
        if self.header.is_empty() { "the top level".into() } else { format!("`{}`", self.header) }
    }

    pub(super) fn find(&self, key: &str) -> Option<&'static KeyDoc> {
        self.keys.iter().find(|doc| doc.key == key)
    }
}

pub(super) static APP: TableDoc = TableDoc {
    header: "",
    meaning: "The app itself.",
    keys: &[
        KeyDoc {
            key: "name",
            kind: "string",
            default: None,
            meaning: "The app's name: 1–63 of `a-z`, `0-9` and `-`, not at the ends (a DNS label). The app answers at \
                      `NAME.DOMAIN`.",
            example: r#"name = "hello""#,
        },
        KeyDoc {
            key: "version",
            kind: "string",
            default: Some("none"),
            meaning: "A [semantic version](https://semver.org). `minnow publish` without a version uses it.",
            example: r#"version = "0.1.0""#,
        },
        KeyDoc {
            key: "sticky",
            kind: "table",
            default: Some("none"),
            meaning: "What names a client while two versions are live, so that it stays on one of them.",
            example: r#"sticky = { cookie = "session" }"#,
        },
        KeyDoc {
            key: "functions",
            kind: "table",
            default: Some("none"),
            meaning: "One table for each function, under its name: 1–63 of `a-z`, `0-9` and `-`, not at the ends. At most \
                      1000. An app needs a function or a static folder.",
            example: "[functions.api]",
        },
        KeyDoc {
            key: "static",
            kind: "table",
            default: Some("none"),
            meaning: "URL prefix to folder. The gateway serves the files in the folder without starting a function. The \
                      folder is relative to the manifest and stays inside its folder. At most 100.",
            example: "[static]\n\"/\" = \"public\"",
        },
        KeyDoc {
            key: "kv",
            kind: "table",
            default: Some("none"),
            meaning: "One table for each key-value store of the app, under its name: 1–63 of `a-z`, `0-9` and `-`, not at the \
                      ends. At most 100. A store appears when the app is deployed, belongs to the app, and is the same for \
                      all its versions. One that is no longer named keeps what it holds.",
            example: "[kv.sessions]",
        },
        KeyDoc {
            key: "sql",
            kind: "table",
            default: Some("none"),
            meaning: "One table for each SQL store of the app, a SQLite database, under its name as for `kv`. At most 100.",
            example: "[sql.main]",
        },
        KeyDoc {
            key: "blob",
            kind: "table",
            default: Some("none"),
            meaning: "One table for each bucket of blobs of the app, under its name as for `kv`. At most 100.",
            example: "[blob.uploads]",
        },
        KeyDoc {
            key: "files",
            kind: "table",
            default: Some("none"),
            meaning: "One table for each volume of files of the app, under its name as for `kv`. At most 100.",
            example: "[files.data]",
        },
        KeyDoc {
            key: "topic",
            kind: "table",
            default: Some("none"),
            meaning: "One table for each topic of the app, under its name as for `kv`. At most 100. What is published to a topic \
                      is kept, and each function that follows it gets every message. [Events](events.md) says how.",
            example: "[topic.orders]",
        },
        KeyDoc {
            key: "lock",
            kind: "table",
            default: Some("none"),
            meaning: "The app has locks, which functions with `locks = true` can take.",
            example: "[lock]",
        },
    ],
};

pub(super) static STICKY: TableDoc = TableDoc {
    header: "sticky",
    meaning: "Exactly one of the two.",
    keys: &[
        KeyDoc {
            key: "cookie",
            kind: "string",
            default: Some("none"),
            meaning: "The name of a cookie that the client sends.",
            example: r#"sticky = { cookie = "session" }"#,
        },
        KeyDoc {
            key: "header",
            kind: "string",
            default: Some("none"),
            meaning: "The name of a header that the client sends.",
            example: r#"sticky = { header = "x-user" }"#,
        },
    ],
};

pub(super) static FUNCTION: TableDoc = TableDoc {
    header: "[functions.NAME]",
    meaning: "One function.",
    keys: &[
        KeyDoc {
            key: "wasm",
            kind: "string",
            default: Some("none, if there is `js`"),
            meaning: "The code: a WebAssembly component or core module. Relative to the manifest and inside its folder, with \
                      `/` between folders. A function has either `wasm` or `js`.",
            example: r#"wasm = "api.wasm""#,
        },
        KeyDoc {
            key: "js",
            kind: "string",
            default: Some("none, if there is `wasm`"),
            meaning: "The code: an ES module in JavaScript or TypeScript that exports the function, `.js`, `.mjs`, `.ts`, \
                      `.mts`, `.jsx` or `.tsx`. `minnow build`, `dev` and `publish` bundle it with everything that it \
                      imports, packages in `node_modules` included; types are removed and not checked. Relative to the \
                      manifest and inside its folder, with `/` between folders.",
            example: r#"js = "src/api.ts""#,
        },
        KeyDoc {
            key: "build",
            kind: "string",
            default: Some("none"),
            meaning: "A shell command that makes the code. `minnow build`, `dev` and `publish` run it in the manifest's folder, \
                      for `js` before they bundle.",
            example: r#"build = "cargo build --release --target wasm32-wasip2""#,
        },
        KeyDoc {
            key: "watch",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "Globs, relative to the manifest: `minnow dev` runs `build` again when a file that matches changes. \
                      `**` stands for any folders. Needs `build`; what `js` imports is watched without it. At most 100.",
            example: r#"watch = ["src/**", "Cargo.toml"]"#,
        },
        KeyDoc {
            key: "routes",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The requests that reach the function: `[METHOD ]PATH`. In PATH `{name}` is one segment that is not \
                      empty, and `{*rest}` at the end is the rest, also empty. The most specific route wins: a literal over \
                      `{name}` over `{*rest}`, segment by segment from the left, then a route with a method over one \
                      without. A route that does not match the method steps back for the next one. `GET` also answers \
                      `HEAD`. At most 100, and 10000 in all functions. Without routes the function is only reached by `minnow invoke`.",
            example: r#"routes = ["/api/{*rest}", "POST /submit"]"#,
        },
        KeyDoc {
            key: "env",
            kind: "table of strings",
            default: Some("{}"),
            meaning: "Environment variables of the function. At most 256, and 64 KiB in all. They are part of the published \
                      version and readable for everyone who can read it.",
            example: r#"env = { GREETING = "hello" }"#,
        },
        KeyDoc {
            key: "egress",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The hosts that the function may call: `[SCHEME://]HOST[:PORT]`. Without a scheme both `http` and `https`; \
                      without a port the scheme's own (80, 443). `*.example.org` is every host below `example.org`, `*` is \
                      every host. Private addresses are refused unless the node's configuration names them. At most 100. \
                      Nothing by default, so that code cannot send data anywhere unseen.",
            example: r#"egress = ["https://api.example.com", "*.example.org"]"#,
        },
        KeyDoc {
            key: "kv",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The key-value stores that the function reaches: `STORE`, or `APP/STORE` for another app's, which has to \
                      name this app in its `share`. `:ro` after it lets the function only read. In JavaScript the store is \
                      found in `env` under its name in upper case, with `_` for `-` and `/`: `order-log` is `env.ORDER_LOG`, \
                      `shop/catalog` is `env.SHOP_CATALOG`. These names, those of `env` and those of `secrets` have to \
                      differ. `kv`, `sql`, `blob`, `files`, `locks`, `secrets` and `publish` are at most 100 grants together. Nothing by default, so that \
                      code reaches only what it needs.",
            example: r#"kv = ["sessions", "shop/catalog:ro"]"#,
        },
        KeyDoc {
            key: "sql",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The SQL stores that the function reaches, written as in `kv`.",
            example: r#"sql = ["main"]"#,
        },
        KeyDoc {
            key: "blob",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The buckets that the function reaches, written as in `kv`.",
            example: r#"blob = ["uploads"]"#,
        },
        KeyDoc {
            key: "files",
            kind: "table",
            default: Some("none"),
            meaning: "The volumes that the function reaches: their names, written as in `kv`, and for each an absolute path of \
                      its own, up to 255 bytes, not in `/tmp`. WebAssembly finds the volume there in its file system; in \
                      JavaScript it is found in `env`, and takes paths below that one. A name with `/` or `:` is quoted.",
            example: r#"files = { data = "/data" }"#,
        },
        KeyDoc {
            key: "locks",
            kind: "`true` or `false`",
            default: Some("false"),
            meaning: "Whether the function can take the app's locks. Needs `[lock]`. In JavaScript they are `env.LOCKS`.",
            example: "locks = true",
        },
        KeyDoc {
            key: "secrets",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The secrets that the function sees as environment variables, by their names: up to 128 of `A-Z`, `0-9` \
                      and `_`, no digit first. `minnow secret set` writes their values, which are in no bundle.",
            example: r#"secrets = ["STRIPE_KEY"]"#,
        },
        KeyDoc {
            key: "publish",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The topics of the app that the function may publish to. In JavaScript a topic is found in `env` under its \
                      name in upper case, as a store is: `order-log` is `env.ORDER_LOG`. A topic of another app cannot be named.",
            example: r#"publish = ["orders"]"#,
        },
        KeyDoc {
            key: "topics",
            kind: "list of strings and tables",
            default: Some("[]"),
            meaning: "The topics of the app whose messages the function gets: a name, or a table with the keys below. Each \
                      function that follows a topic gets every message, all instances and nodes of the function together \
                      once. A new version goes on where the old one stood. At most 100.",
            example: r#"topics = ["audit", { name = "orders", batch = 10 }]"#,
        },
        KeyDoc {
            key: "schedules",
            kind: "list of tables",
            default: Some("[]"),
            meaning: "When the function runs by the clock: tables with the keys below. At most 100, and 1000 in all functions.",
            example: r#"schedules = [{ cron = "0 3 * * *", name = "nightly" }]"#,
        },
        KeyDoc {
            key: "async",
            kind: "table",
            default: Some("none"),
            meaning: "What happens to invokes that nobody waits for: a table with the keys below. Without it the function can be \
                      invoked so all the same, with the defaults and without destinations.",
            example: r#"async = { retries = 2, on_failure = "orders" }"#,
        },
        KeyDoc {
            key: "instances",
            kind: "`fresh` or `reuse`",
            default: Some(r#""fresh""#),
            meaning: "`fresh` makes a new instance for each request, so that requests share nothing. `reuse` keeps instances \
                      warm for a bounded number of requests: faster, but what one request leaves in memory the next one sees. \
                      JavaScript has only `reuse`, which is its default: a process serves many requests, of one function in \
                      one version.",
            example: r#"instances = "reuse""#,
        },
        KeyDoc {
            key: "limits",
            kind: "table",
            default: Some("the defaults below"),
            meaning: "What one invocation may use.",
            example: "[functions.api.limits]",
        },
    ],
};

pub(super) static LIMITS: TableDoc = TableDoc {
    header: "[functions.NAME.limits]",
    meaning: "The node's configuration caps each limit: a publish that asks for more is refused, and a default that is more \
              is lowered. Sizes have a unit: `KiB`, `MiB`, `GiB` (1024) or `kB`, `MB`, `GB` (1000). Times have one too: \
              `ms`, `s`, `m`.",
    keys: &[
        KeyDoc {
            key: "memory",
            kind: "size",
            default: Some(r#""128MiB""#),
            meaning: "All linear memories and tables of one sandbox together, 1 MiB to 4 GiB. Of JavaScript, everything that \
                      one process holds, 64 MiB or more: heap, buffers, WebAssembly memories and 12 MiB of Deno's own. The default is what Lambda and Workers start with; a node can \
                      hold hundreds of such sandboxes.",
            example: r#"memory = "256MiB""#,
        },
        KeyDoc {
            key: "cpu",
            kind: "time",
            default: Some(r#""1s""#),
            meaning: "CPU time of one invocation, 1 ms to 1 h. A web request needs milliseconds, so that the default only \
                      stops runaway code.",
            example: r#"cpu = "500ms""#,
        },
        KeyDoc {
            key: "timeout",
            kind: "time",
            default: Some(r#""30s""#),
            meaning: "Wall time of one invocation, with waiting and streaming, 1 ms to 24 h. The default is the idle limit that \
                      browsers and load balancers use.",
            example: r#"timeout = "5m""#,
        },
        KeyDoc {
            key: "concurrency",
            kind: "number",
            default: Some("64"),
            meaning: "Invocations that run at once on one node, 1 to 10000, of JavaScript to 512. The default is enough for I/O-bound work on a few \
                      cores, and too few for one function to fill the node.",
            example: "concurrency = 16",
        },
        KeyDoc {
            key: "queue",
            kind: "number",
            default: Some("256"),
            meaning: "Requests that wait when `concurrency` is reached, 0 to 100000. Beyond it a request gets 503 with \
                      `retry-after`. The default is four rounds of the default concurrency; a longer queue only adds latency.",
            example: "queue = 64",
        },
        KeyDoc {
            key: "request_body",
            kind: "size",
            default: Some(r#""32MiB""#),
            meaning: "The longest request body, up to 1 TiB. The default is larger than forms and JSON, and smaller than what \
                      belongs in a blob store.",
            example: r#"request_body = "1GiB""#,
        },
    ],
};

/// The key that lets other apps in; the same for every kind of store.
const SHARE: KeyDoc = KeyDoc {
    key: "share",
    kind: "list of strings",
    default: Some("[]"),
    meaning: "The other apps whose functions may be granted this store. Each of these functions has to name it too, as \
              `APP/STORE`. At most 100.",
    example: r#"share = ["other-app"]"#,
};

pub(super) static KV: TableDoc =
    TableDoc { header: "[kv.NAME]", meaning: "One key-value store. The table may be empty.", keys: &[SHARE] };

pub(super) static SQL: TableDoc = TableDoc {
    header: "[sql.NAME]",
    meaning: "One SQL store: a SQLite database. The table may be empty.",
    keys: &[
        KeyDoc {
            key: "migrations",
            kind: "string",
            default: Some("none"),
            meaning: "A folder of scripts in SQL, `*.sql`. A deploy runs those that did not run yet, in the order of their \
                      names, each once and in a transaction; where one fails, the deploy does not happen. Relative to the \
                      manifest and inside its folder. At most 1000 of 1 MiB each, and 2000 in all stores. A script that ran \
                      stays as it is: a change is a new script.",
            example: r#"migrations = "migrations""#,
        },
        SHARE,
    ],
};

/// The bound of a bucket or a volume.
const fn size(default: &'static str, example: &'static str) -> KeyDoc {
    KeyDoc {
        key: "size",
        kind: "size",
        default: Some(default),
        meaning: "The most bytes that it takes, 1 MiB to 1 TiB. What is there when it is made smaller stays.",
        example,
    }
}

pub(super) static BLOB: TableDoc = TableDoc {
    header: "[blob.NAME]",
    meaning: "One bucket of blobs. The table may be empty.",
    keys: &[
        size(r#""10GiB""#, r#"size = "10GiB""#),
        KeyDoc {
            key: "cors",
            kind: "list of strings",
            default: Some("none"),
            meaning: "The origins whose pages may use the bucket's signed URLs in a browser, as `https://app.example`; `*` is \
                      every origin. Pages of the app itself always may. At most 100.",
            example: r#"cors = ["https://app.example"]"#,
        },
        SHARE,
    ],
};

pub(super) static FILES: TableDoc = TableDoc {
    header: "[files.NAME]",
    meaning: "One volume of files. The table may be empty.",
    keys: &[size(r#""1GiB""#, r#"size = "1GiB""#), SHARE],
};

pub(super) static TOPIC: TableDoc = TableDoc {
    header: "[topic.NAME]",
    meaning: "One topic. The table may be empty.",
    keys: &[
        KeyDoc {
            key: "retention",
            kind: "time",
            default: Some(r#""7d""#),
            meaning: "How long a message is kept, 1 minute to 10 years, whether or not it was delivered: `m`, `h`, `d`. A week \
                      covers a holiday.",
            example: r#"retention = "7d""#,
        },
        KeyDoc {
            key: "max_size",
            kind: "size",
            default: Some(r#""1GiB""#),
            meaning: "The most bytes of its messages, attributes and data together, 1 MiB to 1 TiB. The file on the disk may be \
                      twice that.",
            example: r#"max_size = "1GiB""#,
        },
        KeyDoc {
            key: "max_messages",
            kind: "number",
            default: Some("none"),
            meaning: "The most messages, 1 to 1000000000000.",
            example: "max_messages = 1_000_000",
        },
        KeyDoc {
            key: "when_full",
            kind: "`refuse` or `drop-oldest`",
            default: Some(r#""refuse""#),
            meaning: "What happens when `max_size` or `max_messages` is reached. What every function that follows the topic is \
                      done with goes first, either way. If that is not enough, `refuse` gives the publisher an error, and \
                      `drop-oldest` removes the oldest messages, also those that a function has not seen. The default loses \
                      nothing.",
            example: r#"when_full = "drop-oldest""#,
        },
        KeyDoc {
            key: "webhook",
            kind: "table",
            default: Some("none"),
            meaning: "A path of the app at which others publish to the topic, signed with a secret that they share with the app: \
                      [webhooks](events.md#webhooks).",
            example: r#"webhook = { path = "/hooks/github", secret = "GITHUB_SECRET", signature = "github" }"#,
        },
    ],
};

pub(super) static WEBHOOK: TableDoc = TableDoc {
    header: "webhook",
    meaning: "A public route to a topic. All three keys have to be there.",
    keys: &[
        KeyDoc {
            key: "path",
            kind: "string",
            default: None,
            meaning: "The path that takes a POST, without names and wildcards. It is a route as those of functions are, and may \
                      not be one of theirs.",
            example: r#"webhook = { path = "/hooks/github", secret = "GITHUB_SECRET", signature = "github" }"#,
        },
        KeyDoc {
            key: "secret",
            kind: "string",
            default: None,
            meaning: "The name of the app's secret with which the sender signs; `minnow secret set` sets it. No function needs to \
                      be granted it.",
            example: r#"webhook = { path = "/hooks/stripe", secret = "STRIPE_SECRET", signature = "stripe" }"#,
        },
        KeyDoc {
            key: "signature",
            kind: "`github`, `stripe`, `standard` or a table",
            default: None,
            meaning: "How the sender signs: as GitHub, as Stripe, by [Standard Webhooks](https://www.standardwebhooks.com), or with \
                      a header of its own. It is HMAC-SHA256 in each.",
            example: r#"webhook = { path = "/hooks/mail", secret = "MAIL_SECRET", signature = "standard" }"#,
        },
    ],
};

pub(super) static SIGNATURE: TableDoc = TableDoc {
    header: "signature",
    meaning: "A header of its own with the HMAC-SHA256 of the body.",
    keys: &[
        KeyDoc {
            key: "header",
            kind: "string",
            default: None,
            meaning: "The header that has the signature.",
            example: r#"webhook = { path = "/hooks/ci", secret = "CI_SECRET", signature = { header = "x-signature" } }"#,
        },
        KeyDoc {
            key: "prefix",
            kind: "string",
            default: Some("none"),
            meaning: "What stands before the signature in the header, up to 64 characters.",
            example: r#"webhook = { path = "/hooks/ci", secret = "CI_SECRET", signature = { header = "x-signature", prefix = "sha256=" } }"#,
        },
        KeyDoc {
            key: "encoding",
            kind: "`hex` or `base64`",
            default: Some(r#""hex""#),
            meaning: "How its 32 bytes are written.",
            example: r#"webhook = { path = "/hooks/ci", secret = "CI_SECRET", signature = { header = "x-signature", encoding = "base64" } }"#,
        },
        KeyDoc {
            key: "id_header",
            kind: "string",
            default: Some("none"),
            meaning: "The header that has the event's id, so that what is sent twice within two minutes is one message. It is not \
                      signed.",
            example: r#"webhook = { path = "/hooks/ci", secret = "CI_SECRET", signature = { header = "x-signature", id_header = "x-delivery" } }"#,
        },
    ],
};

pub(super) static SUBSCRIPTION: TableDoc = TableDoc {
    header: "topics",
    meaning: "How a function follows one topic.",
    keys: &[
        KeyDoc {
            key: "name",
            kind: "string",
            default: None,
            meaning: "The name of the topic.",
            example: r#"topics = [{ name = "orders" }]"#,
        },
        KeyDoc {
            key: "batch",
            kind: "number",
            default: Some("1"),
            meaning: "The most messages that come in one request, 1 to 1000, and at most 1 MiB of data. With 1 a message is the \
                      request's body and its attributes are headers; with more the body is a list in JSON, also of one.",
            example: r#"topics = [{ name = "orders", batch = 10 }]"#,
        },
        KeyDoc {
            key: "wait",
            kind: "time",
            default: Some(r#""0s""#),
            meaning: "How long a batch waits to be full, from its first message on, up to 60 s. Needs `batch`.",
            example: r#"topics = [{ name = "orders", batch = 10, wait = "200ms" }]"#,
        },
        KeyDoc {
            key: "retries",
            kind: "number",
            default: Some("5"),
            meaning: "How often a message that failed is tried again, 0 to 1000. Then it is a dead letter.",
            example: r#"topics = [{ name = "orders", retries = 5 }]"#,
        },
        KeyDoc {
            key: "backoff",
            kind: "string",
            default: Some(r#""1s..5m""#),
            meaning: "The waits between tries: the first one, then twice as long each time, up to the second one. From 100 ms to \
                      24 h. One time alone is every wait. Each wait differs by up to a tenth.",
            example: r#"topics = [{ name = "orders", backoff = "1s..5m" }]"#,
        },
        KeyDoc {
            key: "dead_letter",
            kind: "string",
            default: Some("none"),
            meaning: "A topic of the app that gets a copy of what never worked. Dead letters are kept with the topic in any case: \
                      `minnow topic dead` shows them. The way of dead letters may not come back to where it began.",
            example: r#"topics = [{ name = "orders", dead_letter = "orders-dead" }]"#,
        },
        KeyDoc {
            key: "order_by",
            kind: "string",
            default: Some("none"),
            meaning: "The attribute within which messages come one after the other, each once the one before is done: `key` for \
                      the key that a publisher gives, `subject`, or the name of any other. Messages of other values, and those \
                      without one, go on meanwhile.",
            example: r#"topics = [{ name = "orders", order_by = "key" }]"#,
        },
        KeyDoc {
            key: "types",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The types of the messages that the function gets, with `*` at the end for any rest. At most 20 of 256 \
                      bytes. All types when the list is empty.",
            example: r#"topics = [{ name = "orders", types = ["order.*"] }]"#,
        },
        KeyDoc {
            key: "subjects",
            kind: "list of strings",
            default: Some("[]"),
            meaning: "The same for subjects. A message without a subject then does not come.",
            example: r#"topics = [{ name = "orders", subjects = ["eu/*"] }]"#,
        },
        KeyDoc {
            key: "from",
            kind: "`now` or `start`",
            default: Some(r#""now""#),
            meaning: "Where a function begins that follows the topic for the first time: with what is published from the deploy \
                      on, or with the oldest message that is there.",
            example: r#"topics = [{ name = "orders", from = "start" }]"#,
        },
    ],
};

pub(super) static SCHEDULE: TableDoc = TableDoc {
    header: "schedules",
    meaning: "One schedule of a function: either `cron` or `at`.",
    keys: &[
        KeyDoc {
            key: "name",
            kind: "string",
            default: None,
            meaning: "What the schedule is called: 1–63 of `a-z`, `0-9` and `-`, not at the ends; once in a function.",
            example: r#"schedules = [{ cron = "@daily", name = "sweep" }]"#,
        },
        KeyDoc {
            key: "cron",
            kind: "string",
            default: Some("none, if there is `at`"),
            meaning: "Minute, hour, day of the month, month and day of the week, each numbers with `*`, `,`, `-` and `/`; months \
                      and days of the week also by name. Or `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, \
                      `@midnight`, `@hourly`; or `@every` with a time from 1 s to 366 days, counted from the deploy that \
                      brought it. Where both days are given, either one is enough. An expression that is never due is refused.",
            example: r#"schedules = [{ cron = "*/5 * * * *", name = "sweep" }]"#,
        },
        KeyDoc {
            key: "timezone",
            kind: "string",
            default: Some(r#""UTC""#),
            meaning: "The time zone of `cron`, by its name in the IANA database. Where clocks change, a fixed time that is left \
                      out runs right after the gap, and one that comes twice runs once; `*` and `*/n` run in both passes.",
            example: r#"schedules = [{ cron = "0 9 * * MON-FRI", timezone = "Europe/Oslo", name = "report" }]"#,
        },
        KeyDoc {
            key: "at",
            kind: "string",
            default: Some("none, if there is `cron`"),
            meaning: "A time that comes once, with its offset (RFC 3339).",
            example: r#"schedules = [{ at = "2026-12-24T18:00:00+01:00", name = "party" }]"#,
        },
        KeyDoc {
            key: "overlap",
            kind: "`skip` or `queue`",
            default: Some(r#""skip""#),
            meaning: "What happens to a tick that is due while the one before still runs: it is left out, or runs after it. At \
                      most 100 wait.",
            example: r#"schedules = [{ cron = "@every 1m", name = "sync", overlap = "queue" }]"#,
        },
        KeyDoc {
            key: "missed",
            kind: "`once` or `skip`",
            default: Some(r#""once""#),
            meaning: "What happens to the ticks that were due while the node was down: the last one runs when it is up, or none.",
            example: r#"schedules = [{ cron = "@hourly", name = "sync", missed = "skip" }]"#,
        },
    ],
};

pub(super) static ASYNC: TableDoc = TableDoc {
    header: "async",
    meaning: "What happens to the asynchronous invokes of a function. One has failed when its answer is not 2xx, or there is none.",
    keys: &[
        KeyDoc {
            key: "retries",
            kind: "number",
            default: Some("2"),
            meaning: "How often an invoke that failed is tried again, 0 to 1000.",
            example: "async = { retries = 2 }",
        },
        KeyDoc {
            key: "backoff",
            kind: "string",
            default: Some(r#""1m..5m""#),
            meaning: "The waits between tries, as for `topics`: the first one, then twice as long each time, up to the second one.",
            example: r#"async = { backoff = "1m..5m" }"#,
        },
        KeyDoc {
            key: "max_age",
            kind: "time",
            default: Some(r#""6h""#),
            meaning: "How old an invoke may become, from 1 s to 7 days. One that could be tried only later has failed.",
            example: r#"async = { max_age = "6h" }"#,
        },
        KeyDoc {
            key: "on_success",
            kind: "string",
            default: Some("none"),
            meaning: "Who gets an event of type `minnow.invoke.succeeded` for an invoke that worked: a topic of the app by its \
                      name, which needs no grant, or a URL that the function's `egress` allows.",
            example: r#"async = { on_success = "orders" }"#,
        },
        KeyDoc {
            key: "on_failure",
            kind: "string",
            default: Some("none"),
            meaning: "The same for an invoke that never worked, with the type `minnow.invoke.failed`.",
            example: r#"async = { on_failure = "orders" }"#,
        },
    ],
};

pub(super) static LOCK: TableDoc =
    TableDoc { header: "[lock]", meaning: "The app has locks. The table is empty.", keys: &[] };

/// Every table of the manifest, in the order of the reference.
pub fn reference() -> [&'static TableDoc; 15] {
    [
        &APP,
        &STICKY,
        &FUNCTION,
        &SUBSCRIPTION,
        &SCHEDULE,
        &ASYNC,
        &LIMITS,
        &KV,
        &SQL,
        &BLOB,
        &FILES,
        &TOPIC,
        &WEBHOOK,
        &SIGNATURE,
        &LOCK,
    ]
}

/// A manifest that has every key.
const WHOLE: &str = r#"name = "hello"
version = "0.1.0"
sticky = { cookie = "session" }

[functions.api]
wasm = "api.wasm"
build = "cargo build --release --target wasm32-wasip2"
watch = ["src/**"]
routes = ["/api/{*rest}", "POST /submit"]
env = { GREETING = "hello" }
egress = ["https://api.example.com", "*.example.org"]
instances = "fresh"
kv = ["sessions", "shop/catalog:ro"]
sql = ["main"]
blob = ["uploads"]
files = { data = "/data" }
locks = true
secrets = ["STRIPE_KEY"]
publish = ["orders"]

[functions.api.limits]
memory = "128MiB"
cpu = "1s"
timeout = "30s"
concurrency = 64
queue = 256
request_body = "32MiB"

[functions.web]
js = "src/web.ts"

[functions.worker]
js = "src/worker.ts"
topics = [
    "audit",
    { name = "orders", batch = 10, wait = "200ms", retries = 5, backoff = "1s..5m", dead_letter = "orders-dead", order_by = "key", types = ["order.*"], subjects = ["eu/*"], from = "now" },
]
schedules = [
    { cron = "*/5 * * * *", timezone = "Europe/Oslo", name = "sweep", overlap = "skip", missed = "once" },
    { at = "2026-12-24T18:00:00+01:00", name = "party" },
]
egress = ["https://ops.example"]
async = { retries = 2, backoff = "1m..5m", max_age = "6h", on_success = "audit", on_failure = "https://ops.example/hook" }

[static]
"/" = "public"

[kv.sessions]
share = ["other-app"]

[sql.main]
migrations = "migrations"

[blob.uploads]
size = "10GiB"
cors = ["https://app.example"]

[files.data]
size = "1GiB"

[topic.orders]
retention = "7d"
max_size = "1GiB"
max_messages = 1_000_000
when_full = "refuse"
webhook = { path = "/hooks/orders", secret = "ORDERS_SECRET", signature = { header = "x-signature", prefix = "sha256=", encoding = "hex", id_header = "x-delivery" } }

[topic.orders-dead]

[topic.audit]
webhook = { path = "/hooks/github", secret = "GITHUB_SECRET", signature = "github" }

[lock]
"#;

/// The manifest reference, `docs/manifest.md`.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# The manifest, `minnow.toml`\n\n\
         <!-- Generated from crates/model/src/manifest/keys.rs. Do not edit by hand. -->\n\n\
         An app is a folder with a `minnow.toml`. A key that is not listed here is refused, and all mistakes are reported at\n\
         once, each with its line, column and remedy. The file is at most 1 MiB.\n\n\
         A manifest with every key:\n\n```toml\n",
    );
    page.push_str(WHOLE);
    page.push_str("```\n");
    for table in reference() {
        let title = if table.header.is_empty() { "Top level".into() } else { table.called() };
        let _ = write!(page, "\n## {title}\n\n{}\n", table.meaning);
        for doc in table.keys {
            let default = match doc.default {
                None => "required".into(),
                Some(none) if none.starts_with(|c: char| c.is_ascii_alphabetic()) => format!("default: {none}"),
                Some(value) => format!("default: `{value}`"),
            };
            let _ = write!(
                page,
                "\n### `{}`\n\n{}, {default}\n\n{}\n\n```toml\n{}\n```\n",
                doc.key,
                capitalised(doc.kind),
                doc.meaning,
                doc.example
            );
        }
    }
    page
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Manifest};

    /// A manifest with one key set to `line`, everything else that it needs around it.
    fn manifest_with(table: &TableDoc, doc: &KeyDoc, line: &str) -> String {
        let top = if doc.key == "name" && table.header.is_empty() { "" } else { "name = \"a\"\n" };
        let function = "[functions.f]\nwasm = \"a.wasm\"\n";
        match table.header {
            "" if doc.key == "functions" && line.starts_with('[') => format!("{top}{line}\nwasm = \"api.wasm\"\n"),
            "" if doc.key == "functions" => format!("{top}{line}\n"),
            "" | "sticky" => format!("{top}{line}\n{function}"),
            "topics" | "schedules" | "async" => {
                let topics = "[topic.orders]\n[topic.orders-dead]\n[topic.audit]\n";
                format!("{top}{function}{line}\n{topics}")
            }
            "[functions.NAME]" => {
                let wasm = if matches!(doc.key, "wasm" | "js") { "" } else { "wasm = \"a.wasm\"\n" };
                let build = if doc.key == "watch" { "build = \"make\"\n" } else { "" };
                let header = if line.starts_with('[') { "[functions.api]" } else { "[functions.f]" };
                format!(
                    "{top}{header}\n{wasm}{build}{line}\n[kv.sessions]\n[sql.main]\n[blob.uploads]\n[files.data]\n[topic.orders]\n[topic.audit]\n[lock]\n"
                )
            }
            "webhook" | "signature" => format!("{top}{function}[topic.orders]\n{line}\n"),
            "[functions.NAME.limits]" => format!("{top}{function}[functions.f.limits]\n{line}\n"),
            header => format!("{top}{function}{}\n{line}\n", header.replace("NAME", "main")),
        }
    }

    #[test]
    fn every_example_of_the_reference_is_accepted() {
        for table in reference() {
            for doc in table.keys {
                let source = manifest_with(table, doc, doc.example);
                if let Err(errors) = Manifest::parse(&source, "minnow.toml") {
                    panic!("{}: {:#?}\n{source}", doc.key, errors.lines());
                }
            }
        }
        assert!(Manifest::parse(WHOLE, "minnow.toml").is_ok());
    }

    #[test]
    fn every_key_of_the_reference_is_read_by_the_parser() {
        for table in reference() {
            for doc in table.keys {
                // No key takes a float: one that the parser does not look at would pass.
                let line = match table.header {
                    "sticky" => format!("sticky = {{ {} = 1.5 }}", doc.key),
                    "topics" => format!("topics = [{{ {} = 1.5 }}]", doc.key),
                    // `timezone` is looked at only where there is a `cron`.
                    "schedules" => match doc.key {
                        "timezone" => "schedules = [{ cron = \"@daily\", timezone = 1.5 }]".to_owned(),
                        key => format!("schedules = [{{ {key} = 1.5 }}]"),
                    },
                    "async" => format!("async = {{ {} = 1.5 }}", doc.key),
                    "webhook" => format!("webhook = {{ {} = 1.5 }}", doc.key),
                    "signature" => format!("webhook = {{ signature = {{ {} = 1.5 }} }}", doc.key),
                    _ => format!("{} = 1.5", doc.key),
                };
                let source = manifest_with(table, doc, &line);
                let errors = Manifest::parse(&source, "minnow.toml").unwrap_err().lines();
                assert!(errors.iter().any(|line| line.contains(&format!("`{}`", doc.key))), "{}: {errors:?}", doc.key);
                assert!(!errors.iter().any(|line| line.contains("unknown key")), "{}: {errors:?}", doc.key);
            }
        }
    }

    #[test]
    fn every_key_that_the_parser_knows_is_in_the_reference() {
        // The parser refuses what is not in the tables, so that it can know no other key; here the page shows them all.
        let page = reference_markdown();
        for table in reference() {
            for doc in table.keys {
                assert!(page.contains(&format!("### `{}`", doc.key)), "{}", doc.key);
                assert!(WHOLE.contains(doc.key) || doc.key == "header", "{}", doc.key);
            }
        }
    }

    #[test]
    fn the_documented_defaults_are_the_real_ones() {
        let mut source = String::from("name = \"a\"\n[functions.f]\nwasm = \"a.wasm\"\n[functions.f.limits]\n");
        for doc in LIMITS.keys {
            let _ = writeln!(source, "{} = {}", doc.key, doc.default.unwrap());
        }
        let parsed = Manifest::parse(&source, "minnow.toml").unwrap();
        assert_eq!(parsed.manifest.functions["f"].limits, Limits::default());
    }

    #[test]
    fn the_reference_page_is_as_expected() {
        insta::assert_snapshot!(reference_markdown());
    }
}
