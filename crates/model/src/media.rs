//! What a file is, by its name.

use std::borrow::Cow;

/// The media type by the name's ending. Text is UTF-8, as every tool writes it now.
pub fn media_type(name: &str) -> Cow<'static, str> {
    let Some(mime) = mime_guess::from_path(name).first_raw() else { return "application/octet-stream".into() };
    match mime {
        "text/html" => "text/html; charset=utf-8".into(),
        "application/javascript" | "text/javascript" => "text/javascript; charset=utf-8".into(),
        _ if mime.starts_with("text/") => format!("{mime}; charset=utf-8").into(),
        _ => mime.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_follows_the_ending() {
        for (name, expected) in [
            ("/index.html", "text/html; charset=utf-8"),
            ("/style.css", "text/css; charset=utf-8"),
            ("/script.js", "text/javascript; charset=utf-8"),
            ("/module.mjs", "text/javascript; charset=utf-8"),
            ("/a.txt", "text/plain; charset=utf-8"),
            ("/a.json", "application/json"),
            ("/a.svg", "image/svg+xml"),
            ("/a.wasm", "application/wasm"),
            ("/a.PNG", "image/png"),
            ("/a.unknown-ending", "application/octet-stream"),
            ("/LICENSE", "application/octet-stream"),
        ] {
            assert_eq!(media_type(name), expected, "{name}");
        }
    }
}
