//! Stacks of a bundled module, told in the places of its sources (ECMA-426 source maps).

use std::sync::Arc;

use sourcemap::SourceMap;

use crate::{Function, function::FunctionCode};

pub(super) type Map = Arc<SourceMap>;

/// The longest source line that is shown.
const MAX_SHOWN: usize = 160;

/// What places in the function's module begin with: the bootstrap calls it `FUNCTION.js`.
pub(super) fn module(function: &Function) -> String {
    format!("{}.js:", function.spec().function)
}

/// Reads a function's source map; `None` when it cannot be read.
pub(super) async fn load(function: &Function) -> Option<Map> {
    let FunctionCode::Js { source_map, .. } = function.spec().code else { return None };
    let path = function.runtime().js().blobs().path(&source_map);
    let read = move || SourceMap::from_reader(std::io::BufReader::new(std::fs::File::open(path).ok()?)).ok();
    tokio::task::spawn_blocking(read).await.ok()?.map(Arc::new)
}

/// Puts places in the sources where `message` names places in the module, and shows the line of the first one.
pub(super) fn mapped(map: &SourceMap, module: &str, message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut has_shown = false;
    for line in message.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let (line, shown) = map_line(map, module, line);
        text.push_str(&line);
        if let Some(shown) = shown.filter(|_| !has_shown) {
            has_shown = true;
            text.push_str(&shown);
        }
        text.push_str(end);
    }
    text
}

/// One line of a stack, and the source line of the place that it names.
fn map_line(map: &SourceMap, module: &str, line: &str) -> (String, Option<String>) {
    let mut text = String::new();
    let mut shown = None;
    let mut rest = line;
    while let Some(start) = rest.find(module) {
        let (before, found) = rest.split_at(start);
        let is_place = |byte: u8| byte.is_ascii_digit() || byte == b':';
        let length = found.bytes().skip(module.len()).take_while(|byte| is_place(*byte)).count();
        let (place, after) = found.split_at(module.len() + length);
        // Not the end of another name.
        let is_name = before.ends_with(|last: char| last.is_alphanumeric() || "-_./".contains(last));
        text.push_str(before);
        let place_in_source = if is_name { None } else { place_in_source(map, place) };
        match place_in_source {
            Some((source, source_line)) => {
                text.push_str(&source);
                shown = shown.or(source_line);
            }
            None => text.push_str(place),
        }
        rest = after;
    }
    text.push_str(rest);
    (text, shown)
}

/// `FUNCTION.js:LINE:COLUMN` as `src/api.ts:LINE:COLUMN`, and that line.
fn place_in_source(map: &SourceMap, place: &str) -> Option<(String, Option<String>)> {
    let (rest, column) = place.rsplit_once(':')?;
    let (_, line) = rest.rsplit_once(':')?;
    let (line, column): (u32, u32) = (line.parse().ok()?, column.parse().ok()?);
    let token = map.lookup_token(line.checked_sub(1)?, column.checked_sub(1)?)?;
    let (source, line) = (token.get_source()?, token.get_src_line());
    let shown = token.get_source_view().and_then(|view| view.get_line(line)).map(|text| {
        let text: String = text.chars().take(MAX_SHOWN).collect();
        format!("\n      {} | {}", line + 1, text.trim_end())
    });
    Some((format!("{source}:{}:{}", line + 1, token.get_src_col() + 1), shown))
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
