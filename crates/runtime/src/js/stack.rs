//! Stacks of a bundled module, told in the places of its sources (ECMA-426 source maps).

use std::{fmt, fs::File, io::Read as _, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use sourcemap::SourceMap;

use crate::{Function, function::FunctionCode};

pub(super) type Map = Arc<SourceMap>;

/// The longest source line that is shown.
const MAX_SHOWN: usize = 160;

/// A larger map is not read: it comes with the bundle, and is held in the node's own memory. A bundle of 3 MiB has one of
/// 8 MiB, most of it the sources themselves.
const MAX_MAP_BYTES: u64 = 16 << 20;
/// How many places a map may hold, which is 28 bytes each in memory and as few as two in the file. esbuild makes one of
/// about eight bytes of JavaScript.
const MAX_PLACES: usize = 2 << 20;
/// How many places are put into the sources in one message: V8 reports 10 frames of an error, and an error has causes.
const MAX_MAPPED: usize = 64;
/// The longest name of a source that is shown, in characters.
const MAX_NAME: usize = 256;
/// No line is looked for in a larger source, as all before it is gone through.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// What places in the function's module begin with: the bootstrap calls it `FUNCTION.js`.
pub(super) fn module(function: &Function) -> String {
    format!("{}.js:", function.spec().function)
}

/// Reads a function's source map; `None` when it cannot be read or is too large.
pub(super) async fn load(function: &Function) -> Option<Map> {
    let FunctionCode::Js { source_map, .. } = function.spec().code else { return None };
    let path = function.runtime().js().blobs().path(&source_map);
    tokio::task::spawn_blocking(move || read(&path)).await.ok()?.map(Arc::new)
}

fn read(path: &Path) -> Option<SourceMap> {
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

fn parse(text: &[u8]) -> Option<SourceMap> {
    let parts: Parts = serde_json::from_slice(text).ok()?;
    let places = parts.mappings.bytes().filter(|byte| matches!(byte, b',' | b';')).count();
    if places >= MAX_PLACES {
        return None;
    }
    SourceMap::from_slice(&serde_json::to_vec(&parts).ok()?).ok()
}

/// Puts places in the sources where `message` names places in the module, and shows the line of the first one.
pub(super) fn mapped(map: &SourceMap, module: &str, message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut count = 0;
    for line in message.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        if let Some(shown) = map_line(map, module, line, &mut count, &mut text) {
            text.push_str(&shown);
        }
        text.push_str(end);
    }
    text
}

/// Writes one line of a stack to `text`. Returns the source line of the place that it names, if that is the first.
fn map_line(map: &SourceMap, module: &str, line: &str, count: &mut usize, text: &mut String) -> Option<String> {
    let mut shown = None;
    let mut rest = line;
    while *count < MAX_MAPPED
        && let Some(start) = rest.find(module)
    {
        let (before, found) = rest.split_at(start);
        let is_place = |byte: u8| byte.is_ascii_digit() || byte == b':';
        let length = found.bytes().skip(module.len()).take_while(|byte| is_place(*byte)).count();
        let (place, after) = found.split_at(module.len() + length);
        // Not the end of another name.
        let is_name = before.ends_with(|last: char| last.is_alphanumeric() || "-_./".contains(last));
        text.push_str(before);
        match if is_name { None } else { SourcePlace::of(map, place) } {
            Some(source) => {
                text.push_str(&source.to_string());
                if *count == 0 {
                    shown = source.line_text(map);
                }
                *count += 1;
            }
            None => text.push_str(place),
        }
        rest = after;
    }
    text.push_str(rest);
    shown
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
        let token = map.lookup_token(line.checked_sub(1)?, column.checked_sub(1)?)?;
        let (name, source) = (token.get_source()?, token.get_src_id());
        Some(Self { source, name, line: token.get_src_line(), column: token.get_src_col() })
    }

    fn line_text(&self, map: &SourceMap) -> Option<String> {
        let source = map.get_source_contents(self.source).filter(|source| source.len() <= MAX_SOURCE_BYTES)?;
        let text: String = source.lines().nth(usize::try_from(self.line).ok()?)?.chars().take(MAX_SHOWN).collect();
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

    #[test]
    fn frames_are_told_in_the_sources() {
        let stack = "Error: boom\n    at fetch (api.js:1:5)\n    at api.js:1:12\n    at ext:deno/x.js:1:2";
        let expected = "Error: boom\n    at fetch (src/api.ts:3:5)\n      3 |     throw new Error(\"boom\");\n    \
                        at src/lib.ts:1:1\n    at ext:deno/x.js:1:2";
        assert_eq!(mapped(&map(), "api.js:", stack), expected);
    }

    #[test]
    fn a_message_is_mapped_up_to_a_bound() {
        let stack = "at api.js:1:5\n".repeat(MAX_MAPPED + 1);
        let mapped = mapped(&map(), "api.js:", &stack);
        assert_eq!(mapped.matches("src/api.ts:3:5").count(), MAX_MAPPED);
        assert!(mapped.ends_with("at api.js:1:5\n"), "{mapped}");
        assert_eq!(mapped.matches(" | ").count(), 1);
    }

    #[test]
    fn a_map_is_read_up_to_a_bound() {
        let map = |name: &str, more: &str, mappings: &str| {
            parse(format!(r#"{{"version":3,"sources":["{name}"],"mappings":"{mappings}"{more}}}"#).as_bytes())
        };
        let source = map("a.ts", r#","sourceRoot":"/root","names":["x"],"x_other":1"#, "AAAAA").unwrap();
        assert_eq!(mapped(&source, "api.js:", "api.js:1:1"), "a.ts:1:1");
        let source = map(&"é".repeat(MAX_NAME + 1), "", "AAAA").unwrap();
        assert_eq!(mapped(&source, "api.js:", "api.js:1:1"), format!("{}:1:1", "é".repeat(MAX_NAME)));
        assert!(map("a.ts", "", &";".repeat(MAX_PLACES)).is_none());
        assert!(map("a.ts", "", "!").is_none());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::File::create(&path).unwrap().set_len(MAX_MAP_BYTES + 1).unwrap();
        assert!(read(&path).is_none());
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
            assert_eq!(mapped(&map(), "api.js:", text), text);
        }
    }
}
