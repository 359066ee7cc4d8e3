//! What a piece of WebAssembly is, read from its bytes.

use serde::{Deserialize, Serialize};

/// How a guest is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GuestKind {
    /// A component that exports `wasi:http/incoming-handler@0.2.x`.
    #[serde(rename = "http-0.2")]
    Http02,
    /// A component that exports `wasi:messaging/incoming-handler@0.2.0-draft` beside that.
    #[serde(rename = "http-0.2+messaging")]
    Http02Messaging,
    /// A component that exports only `wasi:messaging/incoming-handler@0.2.0-draft`: it takes messages and no requests.
    #[serde(rename = "messaging")]
    Messaging,
    /// A component that exports `wasi:http/handler@0.3.x`.
    #[serde(rename = "http-0.3")]
    Http03,
    /// A component that exports `wasi:cli/run`; called in CGI form (RFC 3875).
    #[serde(rename = "command")]
    Command,
    /// A core module with a WASI preview 1 `_start`; called in CGI form.
    #[serde(rename = "command-core")]
    CommandCore,
}

impl GuestKind {
    pub const ALL: [Self; 6] =
        [Self::Http02, Self::Http02Messaging, Self::Messaging, Self::Http03, Self::Command, Self::CommandCore];

    /// Whether it is called for messages of topics without HTTP.
    pub fn takes_messages(self) -> bool {
        matches!(self, Self::Http02Messaging | Self::Messaging)
    }

    /// Whether it can be called with a request.
    pub fn takes_requests(self) -> bool {
        self != Self::Messaging
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http02 => "http-0.2",
            Self::Http02Messaging => "http-0.2+messaging",
            Self::Messaging => "messaging",
            Self::Http03 => "http-0.3",
            Self::Command => "command",
            Self::CommandCore => "command-core",
        }
    }
}

/// Why a file is nothing that can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    #[error("not WebAssembly: the file does not begin with `\\0asm`")]
    NotWasm,
    #[error("not valid WebAssembly: {0}")]
    Invalid(String),
    #[error(
        "the component exports nothing that can be called; it needs `wasi:http/incoming-handler@0.2`, \
         `wasi:http/handler@0.3`, `wasi:messaging/incoming-handler@0.2.0-draft` or `wasi:cli/run@0.2`, and exports {0}"
    )]
    NoEntry(String),
    #[error("the core module has no WASI entry: it needs an exported function `_start`, and exports {0}")]
    NoStart(String),
}

impl GuestKind {
    /// Reads from the bytes what they are. Looks at the outermost level only and does not validate.
    pub fn of(wasm: &[u8]) -> Result<Self, KindError> {
        use wasmparser::{Parser, Payload};
        if !wasm.starts_with(b"\0asm") {
            return Err(KindError::NotWasm);
        }
        let invalid = |error: wasmparser::BinaryReaderError| KindError::Invalid(error.to_string());
        let is_component = Parser::is_component(wasm);
        let mut depth = 0usize;
        let mut exports: Vec<String> = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.map_err(invalid)? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ExportSection(section) if depth == 1 && !is_component => {
                    for export in section {
                        exports.push(export.map_err(invalid)?.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        exports.push(export.map_err(invalid)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        if !is_component {
            let has_start = exports.iter().any(|name| name == "_start");
            return if has_start { Ok(Self::CommandCore) } else { Err(KindError::NoStart(list(&exports))) };
        }
        let exports_one = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
        let messaging = exports.iter().any(|name| name == "wasi:messaging/incoming-handler@0.2.0-draft");
        if exports_one("wasi:http/handler@0.3.") {
            Ok(Self::Http03)
        } else if exports_one("wasi:http/incoming-handler@0.2.") {
            Ok(if messaging { Self::Http02Messaging } else { Self::Http02 })
        } else if messaging {
            Ok(Self::Messaging)
        } else if exports_one("wasi:cli/run@0.2.") {
            Ok(Self::Command)
        } else {
            Err(KindError::NoEntry(list(&exports)))
        }
    }
}

/// The first few names, for a message.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "nothing".into();
    }
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_is_read_from_its_exports() {
        let kind = |text: &str| GuestKind::of(&wat::parse_str(text).unwrap());
        assert_eq!(kind(r#"(module (func (export "_start")))"#), Ok(GuestKind::CommandCore));
        assert_eq!(kind("(module)"), Err(KindError::NoStart("nothing".into())));
        let component = |export: &str| kind(&format!(r#"(component (instance $i) (export "{export}" (instance $i)))"#));
        assert_eq!(component("wasi:http/incoming-handler@0.2.3"), Ok(GuestKind::Http02));
        assert_eq!(component("wasi:http/handler@0.3.0"), Ok(GuestKind::Http03));
        assert_eq!(component("wasi:cli/run@0.2.0"), Ok(GuestKind::Command));
        let messaging = "wasi:messaging/incoming-handler@0.2.0-draft";
        assert_eq!(component(messaging), Ok(GuestKind::Messaging));
        let both = |http: &str| {
            kind(&format!(
                r#"(component (instance $i) (export "{messaging}" (instance $i)) (export "{http}" (instance $i)))"#
            ))
        };
        assert_eq!(both("wasi:http/incoming-handler@0.2.3"), Ok(GuestKind::Http02Messaging));
        // It is called by HTTP for messages too.
        assert_eq!(both("wasi:http/handler@0.3.0"), Ok(GuestKind::Http03));
        assert!(matches!(component("wasi:messaging/incoming-handler@0.3.0"), Err(KindError::NoEntry(_))));
        assert_eq!(component("a:b/c@1.0.0"), Err(KindError::NoEntry("`a:b/c@1.0.0`".into())));
        assert_eq!(GuestKind::of(b"hello"), Err(KindError::NotWasm));
        assert_eq!(GuestKind::of(b""), Err(KindError::NotWasm));
        assert!(matches!(GuestKind::of(b"\0asm\x01\0\0\0\x01\xff"), Err(KindError::Invalid(_))));
    }

    #[test]
    fn exports_of_what_a_component_contains_do_not_count() {
        let inner = r#"(component (core module (func (export "_start"))))"#;
        assert!(matches!(GuestKind::of(&wat::parse_str(inner).unwrap()), Err(KindError::NoEntry(_))));
    }
}
