//! From the text of a manifest to checked values, with every mistake at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use miette::NamedSource;
use semver::Version;
use toml_span::{ErrorKind, Span, Value};

use super::{
    Code, Function, Instances, JS_ENDINGS, MAX_APP_ROUTES, MAX_BUILD_BYTES, MAX_BYTES, MAX_EGRESS, MAX_ENV,
    MAX_ENV_BYTES, MAX_FUNCTIONS, MAX_MISTAKES, MAX_ROUTES, MAX_STATIC, MAX_VERSION_BYTES, MAX_WATCH, Manifest,
    ManifestErrors, Mistake, Parsed, Sticky, env_mistake, is_token, keys,
    mistake::Source,
    places::{FunctionPlaces, Places},
    read::{Field, Fields, Reader},
    stores::Stores,
};
use crate::{
    AppName, EgressRule, FunctionName, Limits, RoutePattern,
    name::{NameError, remedy_for_name},
    path::{PathError, check_relative},
    route::Router,
};

impl Manifest {
    /// Checks the text of a manifest. `file_name` is what the mistakes call it. Whether the files that it names are there
    /// is for the caller to see; [`Parsed::missing_code`] and [`Parsed::missing_static`] say so at the right line.
    pub fn parse(source: &str, file_name: &str) -> Result<Parsed, ManifestErrors> {
        let shared: Source = Arc::new(NamedSource::new(file_name, Arc::from(source)));
        if source.len() > MAX_BYTES {
            let place = (Span::new(0, 0), None);
            let message = format!("the file has {} bytes, the most is 1 MiB", source.len());
            return Err(ManifestErrors::one(Mistake::new(&shared, &[place], message, "split the app in two")));
        }
        parse(source, &shared)
    }
}

/// Checks the text of a manifest. Tables that stand twice are noted and left out, so that the rest is checked all the same.
fn parse(text: &str, source: &Source) -> Result<Parsed, ManifestErrors> {
    let mut text = text.to_owned();
    let mut mistakes = Vec::new();
    let mut halved = BTreeSet::new();
    loop {
        let error = match toml_span::parse(&text) {
            Ok(document) => return check(&document, Reader { source: Arc::clone(source), mistakes, halved }),
            Err(error) => error,
        };
        let is_twice = matches!(error.kind, ErrorKind::DuplicateTable { .. });
        // What is no TOML without them may be some with them.
        if is_twice || mistakes.is_empty() {
            mistakes.push(not_toml(source, &error));
        }
        if !is_twice || mistakes.len() >= MAX_MISTAKES || !blank_table(&mut text, error.span.start) {
            return Err(ManifestErrors::of(mistakes, None));
        }
        if let ErrorKind::DuplicateTable { name, .. } = error.kind {
            halved.insert(name);
        }
    }
}

/// Checks what was read of a manifest.
fn check(document: &Value<'_>, mut reader: Reader) -> Result<Parsed, ManifestErrors> {
    let read = reader.app(document);
    let parsed = read.map(|(manifest, places)| Parsed { manifest, source: Arc::clone(&reader.source), places });
    match parsed {
        Some(parsed) if reader.mistakes.is_empty() => Ok(parsed),
        parsed => {
            // Nothing is left out without a mistake being noted.
            if reader.mistakes.is_empty() {
                reader.refuse(Span::new(0, 0), "the manifest is not complete", "see the reference");
            }
            Err(ManifestErrors::of(reader.mistakes, parsed))
        }
    }
}

/// Puts blanks in the place of the table whose header begins at `start`, up to the next header; every place stays where it
/// is. Says whether there was something to blank.
fn blank_table(text: &mut String, start: usize) -> bool {
    let start = text.floor_char_boundary(start);
    let (_, table) = text.split_at(start);
    let lines = table.split_inclusive('\n');
    let lines = lines.enumerate().take_while(|(index, line)| *index == 0 || !line.trim_start().starts_with('['));
    let end = start + lines.map(|(_, line)| line.len()).sum::<usize>();
    let table = text.get(start..end).unwrap_or_default();
    let blanks: String = table.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    let is_new = table != blanks;
    text.replace_range(start..end, &blanks);
    is_new
}

/// The mistake that the text is not TOML. The parser stops at the first one.
fn not_toml(source: &Source, error: &toml_span::Error) -> Mistake {
    let at = |label| (error.span, Some(label));
    match &error.kind {
        ErrorKind::DuplicateKey { key, first } => Mistake::new(
            source,
            &[at("and here"), (*first, Some("first here"))],
            format!("`{}` stands twice", key.escape_debug()),
            "give each its own name, or remove one",
        ),
        ErrorKind::DuplicateTable { name, first } => Mistake::new(
            source,
            &[at("and here"), (*first, Some("first here"))],
            format!("the table `{}` stands twice", name.escape_debug()),
            "give each its own name, or join the two",
        ),
        ErrorKind::DottedKeyInvalidType { first } => Mistake::new(
            source,
            &[at("and here"), (*first, Some("first here"))],
            "the same key is a table and something else",
            "keep one of the two",
        ),
        ErrorKind::UnquotedString => {
            Mistake::new(source, &[at("here")], "this is not a value", "put the text in quotes")
        }
        ErrorKind::UnterminatedString => {
            Mistake::new(source, &[at("starts here")], "the string has no end", "add the closing quote")
        }
        ErrorKind::UnexpectedEof => {
            Mistake::new(source, &[at("here")], "the file ends too early", "complete the last entry")
        }
        _ => Mistake::new(
            source,
            &[at("here")],
            format!("this is not TOML: {error}"),
            "write `key = value` lines below `[table]` headers (https://toml.io)",
        ),
    }
}

/// A route with its place, before clashes are looked for.
struct PlacedRoute {
    route: RoutePattern,
    /// What it leads to, as a message has it.
    owner: String,
    span: Span,
}

impl Reader {
    fn app(&mut self, document: &Value<'_>) -> Option<(Manifest, Places)> {
        let fields = self.fields(document.as_table()?, &keys::APP);
        let mut places = Places::default();
        let name = match fields.get("name") {
            Some(field) => {
                places.name = field.value.span;
                self.name(field)
            }
            None => {
                let message = "the app has no `name`";
                self.refuse(Span::new(0, 0), message, "put for example `name = \"hello\"` in the first line");
                None
            }
        };
        let version = fields.get("version").and_then(|field| {
            places.version = Some(field.value.span);
            self.version(field)
        });
        let sticky = fields.get("sticky").and_then(|field| self.sticky(field));
        let stores = self.stores(fields, name.as_ref(), &mut places);
        let mut routes = Vec::new();
        let functions = fields.get("functions").map(|field| self.functions(field, &stores, &mut places, &mut routes));
        if let Some(functions) = &functions {
            self.event_limits(functions, &places);
        }
        let static_dirs = fields.get("static").map(|field| self.static_dirs(field, &mut places));
        routes.extend(stores.topics.iter().filter_map(|(topic, config)| {
            let route = config.webhook.as_ref()?.route();
            Some(PlacedRoute { route, owner: format!("the webhook of `{topic}`"), span: *stores.webhooks.get(topic)? })
        }));
        self.clashes(routes);
        let holds =
            |key| fields.get(key).is_some_and(|field| field.value.as_table().is_none_or(|table| !table.is_empty()));
        let is_halved = ["functions", "static"].iter().any(|name| self.halved.contains(*name));
        if !holds("functions") && !holds("static") && !is_halved {
            self.refuse(
                places.name,
                "the app has neither functions nor static files",
                "add a `[functions.NAME]` table with `wasm` or `js`, or `[static]` with `\"/\" = \"public\"`",
            );
        }
        // Where the name is wrong that has been noted, and what follows from the rest is still to be told.
        let name = name.or_else(|| "unnamed".parse().ok());
        let manifest = Manifest {
            name: name?,
            version,
            functions: functions.unwrap_or_default(),
            static_dirs: static_dirs.unwrap_or_default(),
            sticky,
            kv: stores.kv,
            sql: stores.sql,
            blob: stores.blob,
            volumes: stores.volumes,
            locks: stores.locks,
            topics: stores.topics,
        };
        Some((manifest, places))
    }

    fn name(&mut self, field: Field<'_, '_>) -> Option<AppName> {
        let text = self.string(field)?;
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                let error: NameError = error;
                self.refuse(field.value.span, error.to_string(), remedy_for_name(text));
                None
            }
        }
    }

    fn version(&mut self, field: Field<'_, '_>) -> Option<Version> {
        let text = self.string(field)?;
        let version = match Version::parse(text) {
            Ok(version) => version,
            Err(error) => {
                let remedy = match text.strip_prefix('v') {
                    Some(rest) if Version::parse(rest).is_ok() => format!("write `{rest}`"),
                    _ => "write three numbers, for example `0.1.0` (https://semver.org)".into(),
                };
                let message = format!("`{}` is not a version: {error}", text.escape_debug());
                self.refuse(field.value.span, message, remedy);
                return None;
            }
        };
        let length = version.to_string().len();
        if length > MAX_VERSION_BYTES {
            let message = format!("the version has {length} characters, the most is {MAX_VERSION_BYTES}");
            self.refuse(field.value.span, message, "shorten it");
            return None;
        }
        Some(version)
    }

    fn sticky(&mut self, field: Field<'_, '_>) -> Option<Sticky> {
        let fields = self.table(field, &keys::STICKY)?;
        let cookie = fields.get("cookie").map(|field| self.token(field));
        let header = fields.get("header").map(|field| self.token(field));
        match (cookie, header) {
            (Some(cookie), None) => cookie.map(Sticky::Cookie),
            (None, Some(header)) => header.map(|name| Sticky::Header(name.to_ascii_lowercase())),
            (None, None) if self.halved.contains("sticky") => None,
            (both, _) => {
                let message = if both.is_some() { "`sticky` names two things" } else { "`sticky` names nothing" };
                let remedy = "write `sticky = { cookie = \"NAME\" }` or `sticky = { header = \"NAME\" }`";
                self.refuse(field.value.span, message, remedy);
                None
            }
        }
    }

    fn token(&mut self, field: Field<'_, '_>) -> Option<String> {
        let text = self.string(field)?;
        if !is_token(text) {
            let message = format!("`{}` cannot be the name of a {}", text.escape_debug(), field.doc.key);
            self.refuse(field.value.span, message, "use letters, digits, `-` and `_`");
            return None;
        }
        Some(text.to_owned())
    }

    fn functions(
        &mut self,
        field: Field<'_, '_>,
        stores: &Stores<'_>,
        places: &mut Places,
        routes: &mut Vec<PlacedRoute>,
    ) -> BTreeMap<FunctionName, Function> {
        let entries = self.entries(field);
        self.at_most(field, entries.len(), MAX_FUNCTIONS);
        let mut functions = BTreeMap::new();
        for (key, span, value) in entries.into_iter().take(MAX_FUNCTIONS) {
            let name = key.parse::<FunctionName>();
            if let Err(error) = &name {
                self.refuse(span, error.to_string(), remedy_for_name(key));
            }
            let Some(table) = value.as_table() else {
                let message = format!("the function `{}` is not a table", key.escape_debug());
                self.refuse(value.span, message, "write `[functions.NAME]` with its keys below");
                continue;
            };
            let fields = self.fields(table, &keys::FUNCTION);
            let mut at = FunctionPlaces { name: span, ..FunctionPlaces::default() };
            let function = self.function(key, fields, stores, &mut at, routes);
            if let (Ok(name), Some(function)) = (name, function) {
                functions.insert(name.clone(), function);
                places.functions.insert(name, at);
            }
        }
        functions
    }

    fn function(
        &mut self,
        name: &str,
        fields: Fields<'_, '_>,
        stores: &Stores<'_>,
        at: &mut FunctionPlaces,
        routes: &mut Vec<PlacedRoute>,
    ) -> Option<Function> {
        let code = self.code(name, fields, at);
        let build = fields.get("build").and_then(|field| {
            at.build = Some(field.value.span);
            self.build(field)
        });
        let watch = fields.get("watch").map(|field| self.watch(field)).unwrap_or_default();
        if let (Some(field), None) = (fields.get("watch"), fields.get("build"))
            && !self.halved.contains(name)
        {
            let remedy = match fields.get("js") {
                Some(_) => "remove it: `minnow dev` watches every file that `js` is made of",
                None => "add the `build` command that makes the function, or remove `watch`",
            };
            self.refuse(field.value.span, "`watch` does nothing without `build`", remedy);
        }
        let first_route = routes.len();
        if let Some(field) = fields.get("routes") {
            for (text, span) in self.strings(field, MAX_ROUTES) {
                match text.parse::<RoutePattern>() {
                    Ok(route) => routes.push(PlacedRoute { route, owner: format!("`{}`", name.escape_debug()), span }),
                    Err(error) => self.refuse(span, error.reason, error.remedy),
                }
            }
        }
        let env = fields.get("env").map(|field| self.env(field)).unwrap_or_default();
        let mut egress = Vec::new();
        if let Some(field) = fields.get("egress") {
            for (text, span) in self.strings(field, MAX_EGRESS) {
                match text.parse::<EgressRule>() {
                    Ok(rule) => egress.push(rule),
                    Err(error) => self.refuse(span, error.reason, error.remedy),
                }
            }
        }
        let instances = self.instances(fields);
        let is_js = code.as_ref().is_some_and(Code::is_js);
        let limits = match fields.get("limits") {
            Some(field) => {
                at.limits = Some(field.value.span);
                let (least, most) =
                    if is_js { (Limits::LEAST_JS, Limits::MOST_JS) } else { (Limits::LEAST, Limits::MOST) };
                self.limits(field, least, most)
            }
            None => Limits::default(),
        };
        let grants = self.grants((name, at.name), is_js, fields, stores);
        let topics = self.subscriptions(fields, stores);
        let schedules = self.schedules(fields);
        let asynchronous = self.asynchronous(fields, &egress, stores);
        Some(Function {
            code: code?,
            build,
            watch,
            routes: routes.get(first_route..).unwrap_or_default().iter().map(|placed| placed.route.clone()).collect(),
            env,
            egress,
            instances,
            limits,
            grants,
            topics,
            schedules,
            asynchronous,
        })
    }

    /// `wasm` or `js`, exactly one of them.
    fn code(&mut self, name: &str, fields: Fields<'_, '_>, at: &mut FunctionPlaces) -> Option<Code> {
        let (field, code): (_, fn(String) -> Code) = match (fields.get("wasm"), fields.get("js")) {
            (Some(field), None) => (field, Code::Wasm),
            (None, Some(field)) => (field, Code::Js),
            (Some(wasm), Some(js)) => {
                self.refuse_places(
                    &[(js.value.span, Some("and here")), (wasm.value.span, Some("first here"))],
                    format!("the function `{}` has both `wasm` and `js`", name.escape_debug()),
                    "keep the one that names its code, and remove the other",
                );
                return None;
            }
            (None, None) if self.halved.contains(name) => return None,
            (None, None) => {
                let message = format!("the function `{}` has neither `wasm` nor `js`", name.escape_debug());
                self.refuse(at.name, message, "name its code, for example `js = \"api.ts\"` or `wasm = \"api.wasm\"`");
                return None;
            }
        };
        at.code = field.value.span;
        let path = self.string(field)?;
        let code = code(self.path(path, field.value.span)?.to_owned());
        let has_js_ending = JS_ENDINGS.iter().any(|ending| path.ends_with(ending));
        let shown = path.escape_debug();
        let (message, remedy) = match &code {
            Code::Js(_) if has_js_ending => return Some(code),
            Code::Js(_) if path.ends_with(".wasm") => {
                (format!("`{shown}` is WebAssembly"), format!("write `wasm = \"{shown}\"`"))
            }
            Code::Js(_) => (
                format!("`{shown}` is not called like JavaScript or TypeScript"),
                format!("name an ES module whose name ends with {}", JS_ENDINGS.join(", ")),
            ),
            Code::Wasm(_) if has_js_ending => {
                (format!("`{shown}` is not WebAssembly"), format!("write `js = \"{shown}\"`"))
            }
            Code::Wasm(_) => return Some(code),
        };
        self.refuse(field.value.span, message, remedy);
        None
    }

    fn build(&mut self, field: Field<'_, '_>) -> Option<String> {
        let command = self.string(field)?;
        let (message, remedy) = if command.trim().is_empty() {
            ("the build command is empty".to_owned(), "write the command, or remove `build`")
        } else if command.contains('\0') {
            ("the build command holds NUL".to_owned(), "remove it")
        } else if command.len() > MAX_BUILD_BYTES {
            (format!("the build command is longer than {MAX_BUILD_BYTES} bytes"), "move it into a script and call that")
        } else {
            return Some(command.to_owned());
        };
        self.refuse(field.value.span, message, remedy);
        None
    }

    fn watch(&mut self, field: Field<'_, '_>) -> Vec<String> {
        let mut globs = Vec::new();
        for (text, span) in self.strings(field, MAX_WATCH) {
            if self.path(text, span).is_none() {
                continue;
            }
            match globset::Glob::new(text) {
                Ok(_) => globs.push(text.to_owned()),
                Err(error) => self.refuse(
                    span,
                    format!("`{}` is not a glob: {}", text.escape_debug(), error.kind()),
                    "write for example `src/**` or `*.{html,css}`",
                ),
            }
        }
        globs
    }

    fn env(&mut self, field: Field<'_, '_>) -> BTreeMap<String, String> {
        let entries = self.entries(field);
        self.at_most(field, entries.len(), MAX_ENV);
        let mut env = BTreeMap::new();
        let mut bytes = 0;
        for (name, span, value) in entries.into_iter().take(MAX_ENV) {
            let Some(text) = value.as_str() else {
                let message = format!("the variable `{}` is not a string", name.escape_debug());
                self.refuse(value.span, message, "put its value in quotes");
                continue;
            };
            match env_mistake(name, text) {
                Some(message) => self.refuse(span, message, "write for example `env = { GREETING = \"hello\" }`"),
                None => {
                    bytes += name.len() + text.len();
                    env.insert(name.to_owned(), text.to_owned());
                }
            }
        }
        if bytes > MAX_ENV_BYTES {
            self.refuse(
                field.value.span,
                format!("the environment has {bytes} bytes, the most is {MAX_ENV_BYTES}"),
                "put large values into a file of the function's code",
            );
        }
        env
    }

    /// Absent, it is what suits the code.
    fn instances(&mut self, fields: Fields<'_, '_>) -> Instances {
        let is_js = fields.get("js").is_some() && fields.get("wasm").is_none();
        let default = if is_js { Instances::Reuse } else { Instances::default() };
        let Some(field) = fields.get("instances") else { return default };
        match self.string(field) {
            Some("fresh") if is_js => {
                let message = "`instances` is `fresh`, and a process that runs JavaScript serves many requests";
                self.refuse(field.value.span, message, "remove `instances`, or write `reuse`");
                default
            }
            Some("fresh") => Instances::Fresh,
            Some("reuse") => Instances::Reuse,
            Some(other) => {
                let message = format!("`instances` is `{}`", other.escape_debug());
                self.refuse(field.value.span, message, "write `fresh` (a new instance for each request) or `reuse`");
                default
            }
            None => default,
        }
    }

    /// The bounds are those of the reference; the node's own caps come on top.
    fn limits(&mut self, field: Field<'_, '_>, least: Limits, most: Limits) -> Limits {
        let default = Limits::default();
        let Some(fields) = self.table(field, &keys::LIMITS) else { return default };
        let memory = fields.get("memory").and_then(|field| self.size(field, least.memory_bytes, most.memory_bytes));
        let cpu = fields.get("cpu").and_then(|field| self.time(field, least.cpu, most.cpu));
        let timeout = fields.get("timeout").and_then(|field| self.time(field, least.timeout, most.timeout));
        let concurrency =
            fields.get("concurrency").and_then(|field| self.number(field, least.concurrency, most.concurrency));
        let queue = fields.get("queue").and_then(|field| self.number(field, least.queue, most.queue));
        let body = fields
            .get("request_body")
            .and_then(|field| self.size(field, least.request_body_bytes, most.request_body_bytes));
        Limits {
            memory_bytes: memory.unwrap_or(default.memory_bytes),
            cpu: cpu.unwrap_or(default.cpu),
            timeout: timeout.unwrap_or(default.timeout),
            concurrency: concurrency.unwrap_or(default.concurrency),
            queue: queue.unwrap_or(default.queue),
            request_body_bytes: body.unwrap_or(default.request_body_bytes),
        }
    }

    fn static_dirs(&mut self, field: Field<'_, '_>, places: &mut Places) -> BTreeMap<String, String> {
        let entries = self.entries(field);
        self.at_most(field, entries.len(), MAX_STATIC);
        let mut dirs: BTreeMap<String, String> = BTreeMap::new();
        for (prefix, span, value) in entries.into_iter().take(MAX_STATIC) {
            let valid = self.static_prefix(prefix, span);
            let Some(dir) = value.as_str() else {
                self.refuse(value.span, "a static folder is a string", "write for example `\"/\" = \"public\"`");
                continue;
            };
            if is_whole_app(dir) {
                let message = format!("`{dir}` is the app's own folder, with its manifest and sources");
                self.refuse(
                    value.span,
                    message,
                    "put the files in a folder of their own, such as `public`, and name that",
                );
                continue;
            }
            let dir = self.path(dir, value.span);
            let (true, Some(dir)) = (valid, dir) else { continue };
            let same = |other: &&String| other.trim_end_matches('/') == prefix.trim_end_matches('/');
            if let Some(other) = dirs.keys().find(same) {
                let first = places.statics.get(other).copied().unwrap_or_default();
                let message = format!("`{prefix}` and `{other}` are the same prefix");
                self.refuse_places(
                    &[(span, Some("and here")), (first, Some("first here"))],
                    message,
                    "keep one of them",
                );
                continue;
            }
            dirs.insert(prefix.to_owned(), dir.to_owned());
            places.statics.insert(prefix.to_owned(), value.span);
        }
        dirs
    }

    /// A prefix is a route without method and names.
    fn static_prefix(&mut self, prefix: &str, span: Span) -> bool {
        if !prefix.starts_with('/') {
            let remedy = format!("write `\"/{}\"`", prefix.escape_debug());
            self.refuse(span, format!("the prefix `{}` does not start with `/`", prefix.escape_debug()), remedy);
            return false;
        }
        match prefix.parse::<RoutePattern>() {
            Ok(_) if prefix.contains('{') => {
                self.refuse(span, "a static prefix has no `{name}`", "write the prefix as it stands in the URL");
                false
            }
            Ok(_) => true,
            Err(error) => {
                self.refuse(span, error.reason, error.remedy);
                false
            }
        }
    }

    /// A path that stays in the manifest's folder.
    pub(super) fn path<'v>(&mut self, path: &'v str, span: Span) -> Option<&'v str> {
        match check_relative(path) {
            Ok(()) => Some(path),
            Err(error) => {
                let remedy = match (&error, path.strip_prefix("./").map(|path| path.trim_end_matches('/'))) {
                    (PathError::Segment, Some(rest)) if check_relative(rest).is_ok() => format!("write `{rest}`"),
                    (PathError::Segment, _) if check_relative(path.trim_end_matches('/')).is_ok() => {
                        format!("write `{}`", path.trim_end_matches('/'))
                    }
                    (error, _) => error.remedy().into(),
                };
                self.refuse(span, error.to_string(), remedy);
                None
            }
        }
    }

    /// Refuses routes that match the same requests, at both places.
    fn clashes(&mut self, routes: Vec<PlacedRoute>) {
        if let Some(extra) = routes.get(MAX_APP_ROUTES) {
            let message = format!("the app has {} routes, the most is {MAX_APP_ROUTES}", routes.len());
            self.refuse(extra.span, message, "match more with `{name}` and `{*rest}`, or split the app in two");
        }
        let table = Router::new(routes.iter().enumerate().map(|(index, placed)| (placed.route.clone(), index)));
        for clash in table.err().unwrap_or_default() {
            let (Some(first), Some(second)) = (routes.get(clash.first.1), routes.get(clash.second.1)) else { continue };
            let owner = if first.owner == second.owner {
                format!("both of {}", first.owner)
            } else {
                format!("one of {} and one of {}", first.owner, second.owner)
            };
            self.refuse_places(
                &[(second.span, Some("and here")), (first.span, Some("first here"))],
                format!("{clash}, {owner}"),
                "remove one, or make one more specific, for example with a method",
            );
        }
    }
}

/// Whether a path leads nowhere but to the manifest's folder: `.`, `./`, `./.`.
pub(super) fn is_whole_app(path: &str) -> bool {
    path.starts_with('.') && path.split('/').all(|segment| matches!(segment, "" | "."))
}
