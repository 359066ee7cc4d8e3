//! Where things stand in a manifest, so that mistakes that only show later can point at their line.

use std::collections::BTreeMap;

use toml_span::Span;

use super::{
    Manifest,
    mistake::{Mistake, Source},
};
use crate::{FunctionName, StoreName};

/// A checked manifest and the places of its parts.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub manifest: Manifest,
    pub(super) source: Source,
    pub(super) places: Places,
}

/// A part of a manifest that a later mistake can point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    Name,
    /// The `version`, or the name when there is none.
    Version,
    /// The function's name in its table's header.
    Function(&'a FunctionName),
    /// The `wasm` or `js` of a function.
    Code(&'a FunctionName),
    /// The `build` command, or the function when it has none.
    Build(&'a FunctionName),
    Limits(&'a FunctionName),
    /// The folder of a URL prefix in `[static]`.
    Static(&'a str),
    /// The `migrations` of a SQL store.
    Migrations(&'a StoreName),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub name: Span,
    pub version: Option<Span>,
    pub functions: BTreeMap<FunctionName, FunctionPlaces>,
    pub statics: BTreeMap<String, Span>,
    pub migrations: BTreeMap<StoreName, Span>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FunctionPlaces {
    pub name: Span,
    pub code: Span,
    pub build: Option<Span>,
    pub limits: Option<Span>,
}

impl Parsed {
    /// A mistake at `place`, for [`ManifestErrors::check`](super::ManifestErrors::check).
    pub fn mistake(&self, place: Place<'_>, message: impl Into<String>, remedy: impl Into<String>) -> Mistake {
        Mistake::new(&self.source, &[(self.span(place), None)], message, remedy)
    }

    /// The functions whose code has to be there before anything is built, with its path.
    pub fn prebuilt(&self) -> impl Iterator<Item = (&FunctionName, &str)> {
        let functions = self.manifest.functions.iter();
        let has_build = |name| self.places.functions.get(name).is_some_and(|at| at.build.is_some());
        functions.filter(move |(name, _)| !has_build(*name)).map(|(name, function)| (name, function.code.path()))
    }

    /// The mistake that a function's code is not there (after its build, when it has one).
    pub fn missing_code(&self, function: &FunctionName) -> Mistake {
        let found = self.manifest.functions.get(function);
        let (path, key) = found.map_or(("", "wasm"), |f| (f.code.path(), f.code.key()));
        let remedy = match found.and_then(|f| f.build.as_deref()) {
            Some(build) => format!("`{build}` has to make it; compare where it writes with `{key}`"),
            None if key == "js" => "write the file, or correct the path".into(),
            None => "compile the function, correct the path, or name the command that makes it with `build`".into(),
        };
        self.mistake(Place::Code(function), format!("there is no file `{path}`"), remedy)
    }

    /// The mistake that the folder of a URL prefix in `[static]` is not there.
    pub fn missing_static(&self, prefix: &str) -> Mistake {
        let folder = self.manifest.static_dirs.get(prefix).map_or("", String::as_str);
        self.mistake(
            Place::Static(prefix),
            format!("there is no folder `{folder}`"),
            "make the folder beside the manifest, or correct its name",
        )
    }

    /// The mistake that the folder of a SQL store's migrations is not there.
    pub fn missing_migrations(&self, store: &StoreName) -> Mistake {
        let folder = self.manifest.sql.get(store).and_then(|store| store.migrations.as_deref()).unwrap_or_default();
        self.mistake(
            Place::Migrations(store),
            format!("there is no folder `{folder}`"),
            "make the folder beside the manifest, or correct its name",
        )
    }

    fn span(&self, place: Place<'_>) -> Span {
        let function = |name| self.places.functions.get(name);
        let found = match place {
            Place::Name => None,
            Place::Version => self.places.version,
            Place::Function(name) => function(name).map(|at| at.name),
            Place::Code(name) => function(name).map(|at| at.code),
            Place::Build(name) => function(name).map(|at| at.build.unwrap_or(at.name)),
            Place::Limits(name) => function(name).map(|at| at.limits.unwrap_or(at.name)),
            Place::Static(prefix) => self.places.statics.get(prefix).copied(),
            Place::Migrations(store) => self.places.migrations.get(store).copied(),
        };
        found.unwrap_or(self.places.name)
    }
}
