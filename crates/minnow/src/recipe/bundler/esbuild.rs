//! esbuild at work: what it is asked for, its questions on the way, and what it answers.
//!
//! It is started as its own JavaScript API starts it (`--service`), and not with a command line: so an error comes with its
//! file, line and column, and it asks here about imports that are not files. Its release is pinned, and a program of another
//! release refuses the request; [`packet`](super::packet) is the protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use minnow_runtime::js::tools::ESBUILD_VERSION;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::packet::{BadPacket, Packet, Value, map, packet_length};

/// How long all the bundles of an app may take. One takes 10 to 50 ms, and a thousand functions some seconds.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How many bundles are made at once. esbuild uses all cores for one already; this only hides the waits between its phases.
const AT_ONCE: usize = 4;

/// The modules of Node that can be imported without `node:`. Deno knows them with it.
const BUILTINS: [&str; 56] = [
    "assert",
    "assert/strict",
    "async_hooks",
    "buffer",
    "child_process",
    "cluster",
    "console",
    "constants",
    "crypto",
    "dgram",
    "diagnostics_channel",
    "dns",
    "dns/promises",
    "domain",
    "events",
    "fs",
    "fs/promises",
    "http",
    "http2",
    "https",
    "inspector",
    "inspector/promises",
    "module",
    "net",
    "os",
    "path",
    "path/posix",
    "path/win32",
    "perf_hooks",
    "process",
    "punycode",
    "querystring",
    "readline",
    "readline/promises",
    "repl",
    "stream",
    "stream/consumers",
    "stream/promises",
    "stream/web",
    "string_decoder",
    "sys",
    "timers",
    "timers/promises",
    "tls",
    "trace_events",
    "tty",
    "url",
    "util",
    "util/types",
    "v8",
    "vm",
    "wasi",
    "worker_threads",
    "zlib",
    "_http_common",
    "_tls_common",
];

/// Those that have to be imported with `node:`.
const PREFIXED_BUILTINS: [&str; 4] = ["sea", "sqlite", "test", "test/reporters"];

/// Imports that are not files of the app: the packages and modules that Deno would take from the network.
const FOREIGN: &str = "^(npm:|jsr:|https?://)";

/// Begins a module that calls `require`, as bundled CommonJS does for Node's modules. Without it there is no `require` in
/// an ES module; Deno's own says that it may not read files where a module is missing, and packages look for the code.
const REQUIRE: &str = concat!(
    r#"import { createRequire as __minnowCreateRequire, isBuiltin as __minnowIsBuiltin } from "node:module"; "#,
    r#"var require = ((load) => (name) => { if (__minnowIsBuiltin(name)) return load(name); "#,
    r#"throw Object.assign(new Error("Cannot find module '" + name + "': it is not in the bundle"), "#,
    r#"{ code: "MODULE_NOT_FOUND" }); })(__minnowCreateRequire("file:///"));"#,
    "\n"
);
/// How esbuild's own code begins that looks for a `require`. It gives every `require` that an app declares another name, so
/// that there are never two.
const LOOKS_FOR_REQUIRE: &str = "typeof require !== \"undefined\" ? require :";

/// One function to bundle.
#[derive(Debug)]
pub struct Job<'a> {
    /// The module that it begins with, relative to the app's folder.
    pub entry: &'a str,
    /// What `process.env.NODE_ENV` is replaced by.
    pub node_env: &'a str,
}

/// What became of a function.
#[derive(Debug)]
pub struct Done {
    /// The bundle, or what is wrong; at least one message.
    pub result: Result<Bundled, Vec<Message>>,
    pub warnings: Vec<Message>,
}

/// One ES module with its source map. Equal sources make equal bytes, wherever the app's folder is.
#[derive(Debug)]
pub struct Bundled {
    pub module: Vec<u8>,
    pub source_map: Vec<u8>,
    /// The files that it is made of.
    pub inputs: BTreeSet<PathBuf>,
}

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    pub place: Option<SourcePlace>,
    pub text: String,
    /// What esbuild adds to it.
    pub notes: Vec<String>,
}

/// A place in a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourcePlace {
    /// Relative to the app's folder.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 0, in bytes.
    pub column: u32,
    /// In bytes.
    pub length: u32,
    pub line_text: String,
}

/// Why esbuild could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("cannot talk to esbuild: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Packet(#[from] BadPacket),
    #[error("esbuild is release `{0}`, not {ESBUILD_VERSION}")]
    Release(String),
    #[error("esbuild refused to bundle: {0}")]
    Refused(String),
    #[error("esbuild gave no answer in {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// Bundles functions of the app in `dir`, which is absolute. The answers are in the order of the jobs.
pub async fn bundle(esbuild: &Path, dir: &Path, jobs: &[Job<'_>]) -> Result<Vec<Done>, ServiceError> {
    let work = async { Service::start(esbuild, dir).await?.bundle(dir, jobs).await };
    tokio::time::timeout(TIMEOUT, work).await.map_err(|_| ServiceError::TimedOut)?
}

/// A running esbuild. It ends when this is dropped.
struct Service {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _child: Child,
}

impl Service {
    async fn start(esbuild: &Path, dir: &Path) -> Result<Self, ServiceError> {
        let mut child = Command::new(esbuild)
            .arg(format!("--service={ESBUILD_VERSION}"))
            .current_dir(dir)
            .env_remove("MINNOW_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Everything that it has to say comes in a packet, but for a panic of its own.
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let mut service = Self { stdin, stdout, _child: child };
        let release = service.read().await?;
        if release != ESBUILD_VERSION.as_bytes() {
            return Err(ServiceError::Release(String::from_utf8_lossy(&release).escape_debug().to_string()));
        }
        Ok(service)
    }

    async fn bundle(mut self, dir: &Path, jobs: &[Job<'_>]) -> Result<Vec<Done>, ServiceError> {
        let mut waiting = jobs.iter().zip(0u32..);
        let mut answers = BTreeMap::new();
        for (job, id) in waiting.by_ref().take(AT_ONCE) {
            self.send(Packet { id, is_request: true, value: request(dir, job, id) }).await?;
        }
        while answers.len() < jobs.len() {
            let bytes = self.read().await?;
            let packet = Packet::decode(&bytes)?;
            if packet.is_request {
                let value = answer(&packet.value);
                self.send(Packet { id: packet.id, is_request: false, value }).await?;
                continue;
            }
            answers.insert(packet.id, done(dir, packet.value)?);
            if let Some((job, id)) = waiting.next() {
                self.send(Packet { id, is_request: true, value: request(dir, job, id) }).await?;
            }
        }
        Ok(answers.into_values().collect())
    }

    async fn send(&mut self, packet: Packet) -> io::Result<()> {
        self.stdin.write_all(&packet.encode()).await
    }

    /// The next packet without its length.
    async fn read(&mut self) -> Result<Vec<u8>, ServiceError> {
        let mut length = [0; 4];
        self.stdout.read_exact(&mut length).await?;
        let mut bytes = vec![0; packet_length(length)?];
        self.stdout.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

/// Asks for a bundle.
fn request(dir: &Path, job: &Job<'_>, key: u32) -> Value {
    let flags = [
        "--bundle",
        "--format=esm",
        "--platform=node",
        // V8 is newer than most of the syntax that esbuild knows; decorators are what it lacks.
        "--target=esnext",
        "--supported:decorators=false",
        // As Deno chooses among a package's variants. `module` prevents that a package is in the bundle twice, for `import`
        // and for `require`.
        "--conditions=deno,module",
        // `tsconfig.json` comes before it. Nobody who writes JSX in a function has `React` in scope by chance.
        "--jsx=automatic",
        "--charset=utf8",
        "--loader:.wasm=binary",
        // Or the styles would be a second output, which nobody serves.
        "--loader:.css=text",
        "--loader:.module.css=text",
        // The module is loaded from memory, and has no folder.
        "--define:import.meta.main=true",
        "--define:import.meta.url=\"file:///function.js\"",
        "--define:import.meta.filename=\"/function.js\"",
        "--define:import.meta.dirname=\"/\"",
        "--define:__filename=\"/function.js\"",
        "--define:__dirname=\"/\"",
        "--sourcemap=external",
        "--sources-content=true",
        "--metafile",
        "--log-level=silent",
        "--log-limit=0",
        // In the app's folder, since the map's sources are relative to it. Nothing is written.
        "--outfile=minnow-function.js",
    ];
    let node_env = serde_json::Value::from(job.node_env);
    let flags = flags.into_iter().map(Value::from);
    let flags = flags.chain([format!("--define:process.env.NODE_ENV={node_env}").into()]);
    let builtins = format!("^(node:.*|{})$", BUILTINS.join("|"));
    let rule = |id, filter: &str| map([("id", Value::Number(id)), ("filter", filter.into()), ("namespace", "".into())]);
    let plugin = map([
        ("name", "minnow".into()),
        ("onStart", Value::Bool(false)),
        ("onEnd", Value::Bool(false)),
        ("onResolve", Value::List(vec![rule(0, &builtins), rule(1, FOREIGN)])),
        ("onLoad", Value::List(Vec::new())),
    ]);
    map([
        ("command", "build".into()),
        ("key", Value::Number(key)),
        // With `./`, or it could be a package.
        ("entries", Value::List(vec![Value::List(vec!["".into(), format!("./{}", job.entry).into()])])),
        ("flags", Value::List(flags.collect())),
        ("write", Value::Bool(false)),
        ("stdinContents", Value::Null),
        ("stdinResolveDir", Value::Null),
        ("absWorkingDir", dir.to_string_lossy().into_owned().into()),
        ("nodePaths", Value::List(Vec::new())),
        ("context", Value::Bool(false)),
        ("plugins", Value::List(vec![plugin])),
    ])
}

/// Answers a question of esbuild's: whether to begin, and where an import leads that [`request`] has a rule for.
fn answer(question: &Value) -> Value {
    let text = |key| question.get(key).and_then(Value::text).unwrap_or_default();
    match text("command") {
        "on-resolve" => {}
        "on-start" => return map([("errors", Value::List(Vec::new())), ("warnings", Value::List(Vec::new()))]),
        _ => return Value::Map(Vec::new()),
    }
    let ids: Vec<u32> =
        question.get("ids").map(Value::list).unwrap_or_default().iter().filter_map(Value::number).collect();
    let path = text("path");
    let name = path.strip_prefix("node:").unwrap_or(path);
    // A `require` may be tried, and fails in the function then.
    let is_builtin =
        text("kind") != "import-statement" || BUILTINS.iter().chain(&PREFIXED_BUILTINS).any(|it| *it == name);
    match ids.first() {
        Some(&id @ 0) if is_builtin => {
            map([("id", Value::Number(id)), ("path", format!("node:{name}").into()), ("external", Value::Bool(true))])
        }
        Some(&id) => {
            let error = map([
                ("id", "".into()),
                ("pluginName", "".into()),
                ("text", format!("{COULD_NOT_RESOLVE}\"{path}\"").into()),
                ("location", Value::Null),
                ("notes", Value::List(Vec::new())),
                ("detail", Value::Number(u32::MAX)),
            ]);
            map([("id", Value::Number(id)), ("errors", Value::List(vec![error]))])
        }
        None => Value::Map(Vec::new()),
    }
}

/// How esbuild's message about a missing import begins.
pub const COULD_NOT_RESOLVE: &str = "Could not resolve ";
/// The message about a file that esbuild takes, and whose bytes are no text.
pub const NOT_UTF8: &str = "the file is not UTF-8";

/// Reads the answer to [`request`].
fn done(dir: &Path, mut answer: Value) -> Result<Done, ServiceError> {
    if let Some(error) = answer.get("error").and_then(Value::text) {
        return Err(ServiceError::Refused(error.into()));
    }
    let messages = |key| answer.get(key).map(Value::list).unwrap_or_default().iter().map(message).collect();
    let (errors, warnings): (Vec<Message>, Vec<Message>) = (messages("errors"), messages("warnings"));
    if !errors.is_empty() {
        return Ok(Done { result: Err(errors), warnings });
    }
    let (mut module, mut source_map) = (None, None);
    for mut file in answer.take("outputFiles").map(Value::into_list).unwrap_or_default() {
        let is_map = file.get("path").and_then(Value::text).is_some_and(|path| path.ends_with(".map"));
        let contents = file.take("contents").and_then(Value::into_bytes);
        if is_map { source_map = contents } else { module = contents }
    }
    let incomplete = || ServiceError::Refused("its answer is not complete".into());
    let (module, source_map) = (module.ok_or_else(incomplete)?, source_map.ok_or_else(incomplete)?);
    let metafile = answer.take("metafile").and_then(Value::into_bytes).ok_or_else(incomplete)?;
    let unreadable = |error: serde_json::Error| ServiceError::Refused(format!("its answer cannot be read: {error}"));
    let metafile: Metafile = serde_json::from_slice(&metafile).map_err(unreadable)?;
    let mut source_map: SourceMap = match serde_json::from_slice(&source_map) {
        Ok(source_map) => source_map,
        // esbuild copies the sources into it as they are.
        Err(error) => match not_utf8(dir, &metafile) {
            wrong if wrong.is_empty() => return Err(unreadable(error)),
            wrong => return Ok(Done { result: Err(wrong), warnings }),
        },
    };
    let module = with_require(module, &mut source_map);
    let source_map = serde_json::to_vec(&source_map).map_err(unreadable)?;
    let inputs = metafile.inputs.keys().filter_map(|input| input_file(dir, input)).collect();
    Ok(Done { result: Ok(Bundled { module, source_map, inputs }), warnings })
}

/// The first place of each file that has to be text and is not UTF-8.
fn not_utf8(dir: &Path, metafile: &Metafile) -> Vec<Message> {
    let is_bytes = |(name, input): &(&String, &Input)| {
        name.ends_with(".wasm") || input.with.get("type").is_some_and(|kind| kind == "bytes")
    };
    let texts = metafile.inputs.iter().filter(|input| !is_bytes(input));
    let sources = texts.filter_map(|(name, _)| input_file(dir, name));
    let wrong = sources.filter_map(|path| {
        let text = std::fs::read(&path).ok()?;
        let at = std::str::from_utf8(&text).err()?.valid_up_to();
        let (before, after) = text.split_at(at);
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line =
            [before.get(start..).unwrap_or_default(), after.split(|byte| *byte == b'\n').next().unwrap_or_default()];
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let place = SourcePlace {
            file: path.strip_prefix(dir).unwrap_or(&path).display().to_string(),
            line: number(before.iter().filter(|byte| **byte == b'\n').count() + 1),
            column: number(at - start),
            length: 1,
            line_text: String::from_utf8_lossy(&line.concat()).into_owned(),
        };
        Some(Message { place: Some(place), text: NOT_UTF8.into(), notes: Vec::new() })
    });
    wrong.collect()
}

/// Gives the module a `require` if it needs one.
fn with_require(module: Vec<u8>, source_map: &mut SourceMap) -> Vec<u8> {
    if !std::str::from_utf8(&module).is_ok_and(|module| module.contains(LOOKS_FOR_REQUIRE)) {
        return module;
    }
    // A line more that comes from no source.
    source_map.mappings.insert(0, ';');
    [REQUIRE.as_bytes(), &module].concat()
}

/// What esbuild says about a bundle, as far as it matters here.
#[derive(Deserialize)]
struct Metafile {
    inputs: BTreeMap<String, Input>,
}

/// A file of a bundle.
#[derive(Deserialize)]
struct Input {
    /// The attributes of its import.
    #[serde(default)]
    with: BTreeMap<String, String>,
}

/// A source map (ECMA-426) as esbuild writes it. Its sources are relative to the app's folder.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceMap {
    version: u32,
    sources: Vec<String>,
    #[serde(default)]
    sources_content: Vec<Option<String>>,
    mappings: String,
    #[serde(default)]
    names: Vec<String>,
}

/// The file of an input: `src/a.ts`, `src/a.txt with { type: 'text' }`, `(disabled):a.js`. `None` for what is no file.
fn input_file(dir: &Path, input: &str) -> Option<PathBuf> {
    let input = input.strip_prefix("(disabled):").unwrap_or(input);
    let bare = input.rsplit_once(" with {").map(|(file, _)| file);
    let mut files = [Some(input), bare].into_iter().flatten().map(|file| resolved(&dir.join(file)));
    files.find(|file| file.is_file())
}

/// `path` without `..`: for a hoisted `node_modules` esbuild's paths begin with it.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                resolved.pop();
            }
            other => resolved.push(other),
        }
    }
    resolved
}

fn message(value: &Value) -> Message {
    let text = |value: &Value| value.get("text").and_then(Value::text).unwrap_or_default().to_owned();
    let place = value.get("location").and_then(|location| {
        let string = |key| location.get(key).and_then(Value::text).map(str::to_owned);
        let number = |key| location.get(key).and_then(Value::number);
        Some(SourcePlace {
            file: string("file")?,
            line: number("line")?,
            column: number("column")?,
            length: number("length").unwrap_or_default(),
            line_text: string("lineText").unwrap_or_default(),
        })
    });
    let notes = value.get("notes").map(Value::list).unwrap_or_default();
    Message { place, text: text(value), notes: notes.iter().map(text).collect() }
}
