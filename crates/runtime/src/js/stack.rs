//! Stacks of a bundled module, told in the places of its sources (ECMA-426 source maps).
//!
//! All of it happens in the node, on behalf of a process that may print what it likes. So it is bounded by the node's memory
//! ([`Maps`]) and by time ([`Stacks`]); what is beyond a bound is printed as it came.

use std::{
    convert::Infallible,
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use minnow_model::Digest;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use serde::{Deserialize, Serialize};
use sourcemap::{RawToken, SourceMap, Token};
use tokio::sync::Semaphore;

use super::process::TICK;
use crate::{Function, StartError, function::FunctionCode};

/// The longest source line that is shown.
const MAX_SHOWN: usize = 160;

/// A larger map is not read: it comes with the bundle, and is held in the node's own memory. A bundle of 3 MiB has one of
/// 8 MiB, most of it the sources themselves.
const MAX_MAP_BYTES: u64 = 16 << 20;
/// How many places a map may hold, which is 28 bytes each in memory and as few as two in the file. esbuild makes one of
/// about eight bytes of JavaScript.
const MAX_PLACES: usize = 1 << 20;
/// How many sources and names a map may have in all, which take [`STRING_BYTES`] each beside their text, and three in the file.
const MAX_STRINGS: usize = 128 << 10;
/// Two pointers, two counts and what the allocator rounds up.
const STRING_BYTES: usize = 48;

/// Memory of the maps of all functions. The largest that is read takes some 50 MiB, one of a bundle of 200 KiB about 1.
pub(super) const MAPS_BYTES: u64 = 64 << 20;

/// How long a process prints its stacks unmapped whose map had to go for those of others, before that is read again: it takes
/// some 200 ms of a core for a large one.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// How many places are looked up for one process in a [`TICK`]: in a large map each takes some 1 µs. V8 reports 10 frames of an
/// error, and an error has causes.
const PLACES: usize = 512;
/// How much of the sources is gone through for it to find lines to show, at once and in each [`TICK`] from then on. Where the lines
/// are empty it takes some 3 ns a byte, and thirty in a build for tests.
const SOURCE_BYTES: usize = 256 << 10;
const SOURCE_BYTES_A_TICK: usize = 32 << 10;
/// The longest name of a source that is shown, in characters.
const MAX_NAME: usize = 256;

/// What is done for the stacks of one process. Nobody is charged for the time that it takes.
pub(super) struct Stacks {
    left: Allowance,
    filled: Instant,
    /// When a map was last read for it.
    read: Option<Instant>,
}

impl Default for Stacks {
    fn default() -> Self {
        Self { left: Allowance::default(), filled: Instant::now(), read: None }
    }
}

impl Stacks {
    /// `message` with the places of the function's own sources in the stacks that it holds.
    pub(super) async fn mapped(&mut self, function: &Function, message: String) -> String {
        // The bootstrap calls the module `FUNCTION.js`.
        let module = format!("{}.js:", function.spec().function);
        if !message.contains(&module) {
            return message;
        }
        let Some(map) = self.map(function).await else { return message };
        self.refill(Instant::now());
        mapped(&map.map, &module, &message, &mut self.left)
    }

    async fn map(&mut self, function: &Function) -> Option<Arc<Map>> {
        let FunctionCode::Js { source_map, .. } = function.spec().code else { return None };
        let js = function.runtime().js();
        if let Some(map) = js.maps().kept(&source_map) {
            return map;
        }
        let now = Instant::now();
        if self.read.is_some_and(|read| now.duration_since(read) < READ_AGAIN) {
            return None;
        }
        self.read = Some(now);
        js.maps().read(source_map, js.blobs().path(&source_map)).await
    }

    fn refill(&mut self, now: Instant) {
        let ticks = now.saturating_duration_since(self.filled).as_nanos() / TICK.as_nanos();
        if ticks > 0 {
            let more = usize::try_from(ticks).unwrap_or(usize::MAX).saturating_mul(SOURCE_BYTES_A_TICK);
            let source_bytes = self.left.source_bytes.saturating_add(more).min(SOURCE_BYTES);
            self.left = Allowance { places: PLACES, source_bytes };
            self.filled = now;
        }
    }
}

/// What may be done until the next [`TICK`].
struct Allowance {
    places: usize,
    source_bytes: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { places: PLACES, source_bytes: SOURCE_BYTES }
    }
}

/// A function's source map.
pub(super) struct Map {
    map: SourceMap,
    /// What it takes of memory.
    bytes: u64,
}

/// The source maps of all functions that were needed lately, or `None` for one that cannot be read or is too large.
pub(super) struct Maps {
    kept: Cache<Digest, Option<Arc<Map>>, ByBytes>,
    /// One is read at a time: meanwhile it takes several times the memory.
    reading: Arc<Semaphore>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Digest, Option<Arc<Map>>> for ByBytes {
    fn weight(&self, _: &Digest, map: &Option<Arc<Map>>) -> u64 {
        // The cache's own share is some hundred bytes.
        1024 + map.as_ref().map_or(0, |map| map.bytes)
    }
}

impl Maps {
    pub(super) fn new(most_bytes: u64) -> Result<Self, StartError> {
        // One shard, since an item larger than a shard is not kept.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(64)
            .weight_capacity(most_bytes)
            .build()
            .map_err(|error| StartError::Cache(error.to_string()))?;
        let kept = Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Ok(Self { kept, reading: Arc::new(Semaphore::new(1)) })
    }

    fn kept(&self, digest: &Digest) -> Option<Option<Arc<Map>>> {
        self.kept.get(digest)
    }

    /// Reads a map, once for all who wait for it.
    async fn read(&self, digest: Digest, path: PathBuf) -> Option<Arc<Map>> {
        let read = async {
            let turn = Arc::clone(&self.reading).acquire_owned().await;
            let read = move || {
                let _turn = turn;
                read(&path).map(Arc::new)
            };
            Ok::<_, Infallible>(tokio::task::spawn_blocking(read).await.ok().flatten())
        };
        self.kept.get_or_insert_async(&digest, read).await.unwrap_or_default()
    }
}

fn read(path: &Path) -> Option<Map> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    if length > MAX_MAP_BYTES {
        return None;
    }
    let mut text = Vec::with_capacity(usize::try_from(length).ok()?);
    file.take(MAX_MAP_BYTES).read_to_end(&mut text).ok()?;
    parse(&text)
}

/// What is read of a map. `sourceRoot` would be put before each source in memory, however long it is; esbuild writes none.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parts {
    version: u32,
    sources: Vec<Option<String>>,
    #[serde(default)]
    sources_content: Vec<Option<String>>,
    #[serde(default)]
    names: Vec<String>,
    mappings: String,
}

fn parse(text: &[u8]) -> Option<Map> {
    let parts: Parts = serde_json::from_slice(text).ok()?;
    let places = parts.mappings.bytes().filter(|byte| matches!(byte, b',' | b';')).count();
    let strings = parts.sources.len() + parts.sources_content.len() + parts.names.len();
    if places >= MAX_PLACES || strings > MAX_STRINGS {
        return None;
    }
    let bytes = (text.len() + places * size_of::<RawToken>() + strings * STRING_BYTES) as u64;
    let map = SourceMap::from_slice(&serde_json::to_vec(&parts).ok()?).ok()?;
    Some(Map { map, bytes })
}

/// Puts places in the sources where `message` names places in the module, and shows the line of the first one.
fn mapped(map: &SourceMap, module: &str, message: &str, left: &mut Allowance) -> String {
    let mut text = String::with_capacity(message.len());
    let mut is_first = true;
    for line in message.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        if let Some(shown) = map_line(map, module, line, &mut is_first, left, &mut text) {
            text.push_str(&shown);
        }
        text.push_str(end);
    }
    text
}

/// Writes one line of a stack to `text`. Returns the source line of the place that it names, if that is the first.
fn map_line(
    map: &SourceMap,
    module: &str,
    line: &str,
    is_first: &mut bool,
    left: &mut Allowance,
    text: &mut String,
) -> Option<String> {
    let mut shown = None;
    let mut rest = line;
    while left.places > 0
        && let Some(start) = rest.find(module)
    {
        let (before, found) = rest.split_at(start);
        let is_place = |byte: u8| byte.is_ascii_digit() || byte == b':';
        let length = found.bytes().skip(module.len()).take_while(|byte| is_place(*byte)).count();
        let (place, after) = found.split_at(module.len() + length);
        // Not the end of another name.
        let is_name = before.ends_with(|last: char| last.is_alphanumeric() || "-_./".contains(last));
        text.push_str(before);
        left.places -= 1;
        match if is_name { None } else { SourcePlace::of(map, place) } {
            Some(source) => {
                text.push_str(&source.to_string());
                if std::mem::take(is_first) {
                    shown = source.line_text(map, left);
                }
            }
            None => text.push_str(place),
        }
        rest = after;
    }
    text.push_str(rest);
    shown
}

/// The place in the map that holds for a line and a column of the module. The library's own search goes through all that
/// stand at the same one.
fn token_at(map: &SourceMap, place: (u32, u32)) -> Option<Token<'_>> {
    let (mut from, mut to) = (0, map.get_token_count() as usize);
    while from < to {
        let middle = from.midpoint(to);
        if map.get_token(middle)?.get_dst() <= place { from = middle + 1 } else { to = middle }
    }
    map.get_token(from.checked_sub(1)?)
}

/// A place in a source. Counted from 0, as in the map; shown from 1.
struct SourcePlace<'a> {
    source: u32,
    name: &'a str,
    line: u32,
    column: u32,
}

impl<'a> SourcePlace<'a> {
    /// Where `FUNCTION.js:LINE:COLUMN` is in the sources.
    fn of(map: &'a SourceMap, place: &str) -> Option<Self> {
        let (rest, column) = place.rsplit_once(':')?;
        let (_, line) = rest.rsplit_once(':')?;
        let (line, column): (u32, u32) = (line.parse().ok()?, column.parse().ok()?);
        let token = token_at(map, (line.checked_sub(1)?, column.checked_sub(1)?))?;
        let (name, source) = (token.get_source()?, token.get_src_id());
        Some(Self { source, name, line: token.get_src_line(), column: token.get_src_col() })
    }

    /// The source's line, which is looked for from its beginning.
    fn line_text(&self, map: &SourceMap, left: &mut Allowance) -> Option<String> {
        let source = map.get_source_contents(self.source)?;
        let source = source.get(..source.floor_char_boundary(left.source_bytes))?;
        let mut passed = 0;
        let mut lines = source.split_inclusive('\n').inspect(|line| passed += line.len());
        let line = lines.nth(usize::try_from(self.line).ok()?);
        left.source_bytes = left.source_bytes.saturating_sub(passed);
        let text: String = line?.chars().take(MAX_SHOWN).collect();
        Some(format!("\n      {} | {}", u64::from(self.line) + 1, text.trim_end()))
    }
}

impl fmt::Display for SourcePlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = (u64::from(self.line) + 1, u64::from(self.column) + 1);
        // Precision is in characters.
        write!(f, "{:.MAX_NAME$}:{line}:{column}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> SourceMap {
        // Line 1 of the module, column 0 on, is line 3 of src/api.ts; column 10 on is line 1 of src/lib.ts.
        let mut builder = sourcemap::SourceMapBuilder::new(None);
        builder.add(0, 0, 2, 4, Some("src/api.ts"), None, false);
        builder.add(0, 10, 0, 0, Some("src/lib.ts"), None, false);
        let api = builder.add_source("src/api.ts");
        builder.set_source_contents(api, Some("import x from \"y\";\n\n    throw new Error(\"boom\");\n"));
        builder.into_sourcemap()
    }

    fn map_all(map: &SourceMap, message: &str) -> String {
        mapped(map, "api.js:", message, &mut Allowance::default())
    }

    #[test]
    fn frames_are_told_in_the_sources() {
        let stack = "Error: boom\n    at fetch (api.js:1:5)\n    at api.js:1:12\n    at ext:deno/x.js:1:2";
        let expected = "Error: boom\n    at fetch (src/api.ts:3:5)\n      3 |     throw new Error(\"boom\");\n    \
                        at src/lib.ts:1:1\n    at ext:deno/x.js:1:2";
        assert_eq!(map_all(&map(), stack), expected);
    }

    #[test]
    fn places_are_looked_up_up_to_a_bound_for_each_tick() {
        let now = Instant::now();
        let mut stacks = Stacks { filled: now, ..Stacks::default() };
        let stack = "at api.js:1:5\n".repeat(PLACES - 1);
        let tell = |stacks: &mut Stacks| mapped(&map(), "api.js:", &stack, &mut stacks.left);
        let told = tell(&mut stacks);
        assert_eq!(told.matches("src/api.ts:3:5").count(), PLACES - 1);
        assert_eq!(told.matches(" | ").count(), 1);
        stacks.refill(now + TICK / 2);
        let told = tell(&mut stacks);
        assert_eq!(told.matches("src/api.ts:3:5").count(), 1);
        assert!(told.ends_with("at api.js:1:5\n"), "{told}");
        stacks.refill(now + TICK);
        assert_eq!(tell(&mut stacks).matches("src/api.ts:3:5").count(), PLACES - 1);
    }

    #[test]
    fn sources_are_gone_through_up_to_a_bound_at_once_and_for_each_tick() {
        let mut builder = sourcemap::SourceMapBuilder::new(None);
        let line = u32::try_from(SOURCE_BYTES).unwrap() / 2;
        builder.add(0, 0, line, 0, Some("long.ts"), None, false);
        let long = builder.add_source("long.ts");
        builder.set_source_contents(long, Some(&format!("{}boom();\n", "\n".repeat(SOURCE_BYTES / 2))));
        let map = builder.into_sourcemap();
        let now = Instant::now();
        let mut stacks = Stacks { filled: now, ..Stacks::default() };
        let (place, shown) = (format!("long.ts:{}:1", line + 1), format!("\n      {} | boom();", line + 1));
        let half_ticks = SOURCE_BYTES.div_ceil(2 * SOURCE_BYTES_A_TICK) as u32;
        let looks = [(0, true), (0, false), (half_ticks - 1, false), (3 * half_ticks, true), (1000, true)];
        for (after, is_shown) in looks {
            stacks.refill(now + after * TICK);
            let told = mapped(&map, "api.js:", "api.js:1:1", &mut stacks.left);
            assert_eq!(told, if is_shown { format!("{place}{shown}") } else { place.clone() }, "{after}");
        }
        assert!(stacks.left.source_bytes < SOURCE_BYTES / 2);
    }

    #[test]
    fn a_place_is_found_however_many_others_there_are() {
        // Two at each even column, of which the last one holds.
        let mut builder = sourcemap::SourceMapBuilder::new(None);
        for column in 0..100 {
            builder.add(column / 50, column % 50 * 2, 7, 7, Some("other.ts"), None, false);
            builder.add(column / 50, column % 50 * 2, 0, column, Some("a.ts"), None, false);
        }
        let map = builder.into_sourcemap();
        for column in 0..100 {
            for place in [column % 50 * 2 + 1, column % 50 * 2 + 2] {
                let told = map_all(&map, &format!("api.js:{}:{place}", column / 50 + 1));
                assert_eq!(told, format!("a.ts:1:{}", column + 1), "{place}");
            }
        }
    }

    #[test]
    fn a_map_is_read_up_to_a_bound() {
        let map = |name: &str, more: &str, mappings: &str| {
            parse(format!(r#"{{"version":3,"sources":["{name}"],"mappings":"{mappings}"{more}}}"#).as_bytes())
        };
        let source = map("a.ts", r#","sourceRoot":"/root","names":["x"],"x_other":1"#, "AAAAA").unwrap();
        assert_eq!(map_all(&source.map, "api.js:1:1"), "a.ts:1:1");
        let source = map(&"é".repeat(MAX_NAME + 1), "", "AAAA").unwrap();
        assert_eq!(map_all(&source.map, "api.js:1:1"), format!("{}:1:1", "é".repeat(MAX_NAME)));
        assert!(map("a.ts", "", &";".repeat(MAX_PLACES)).is_none());
        assert!(map("a.ts", &format!(r#","names":["x"{}]"#, ",\"\"".repeat(MAX_STRINGS)), "AAAA").is_none());
        assert!(map("a.ts", "", "!").is_none());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::File::create(&path).unwrap().set_len(MAX_MAP_BYTES + 1).unwrap();
        assert!(read(&path).is_none());
    }

    #[tokio::test]
    async fn maps_are_shared_and_bounded_together() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: String| {
            let text = format!(r#"{{"version":3,"sources":["{name}"],"mappings":"{}"}}"#, "AAAA;".repeat(1000));
            let path = dir.path().join(&name);
            std::fs::write(&path, &text).unwrap();
            (Digest::of(text.as_bytes()), path)
        };
        let files: Vec<_> = (0..20).map(|each| write(format!("{each}.ts"))).collect();
        let bytes = read(&files[0].1).unwrap().bytes;
        let maps = Maps::new(4 * bytes).unwrap();
        let (digest, path) = files[0].clone();
        let (one, other) = tokio::join!(maps.read(digest, path.clone()), maps.read(digest, path));
        assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
        for (digest, path) in files {
            assert!(maps.read(digest, path).await.is_some());
            assert!(maps.kept.weight() <= 4 * bytes, "{}", maps.kept.weight());
        }
        assert!(maps.kept.len() >= 2);
        // That there is none is remembered as well.
        let none = Digest::of(b"none");
        assert!(maps.read(none, dir.path().join("none")).await.is_none());
        assert!(maps.kept(&none).is_some_and(|map| map.is_none()));
    }

    #[test]
    fn what_is_no_place_stays_as_it_is() {
        for text in [
            "",
            "api.js:",
            "api.js:1",
            "my-api.js:1:5",
            "src/api.js:1:5",
            "api.js:0:0",
            "api.js:99999999999:1",
            "api.js:1:x",
        ] {
            assert_eq!(map_all(&map(), text), text);
        }
    }
}
