//! Where things stand in a manifest, so that mistakes that only show later can point at their line.

use std::collections::BTreeMap;

use toml_span::Span;

use super::{
    Manifest,
    mistake::{Mistake, Source},
};
use crate::FunctionName;

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
    Wasm(&'a FunctionName),
    /// The `build` command, or the function when it has none.
    Build(&'a FunctionName),
    Limits(&'a FunctionName),
    /// The folder of a URL prefix in `[static]`.
    Static(&'a str),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub name: Span,
    pub version: Option<Span>,
    pub functions: BTreeMap<FunctionName, FunctionPlaces>,
    pub statics: BTreeMap<String, Span>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FunctionPlaces {
    pub name: Span,
    pub wasm: Span,
    pub build: Option<Span>,
    pub limits: Option<Span>,
}

impl Parsed {
    /// A mistake at `place`, for [`ManifestErrors::check`](super::ManifestErrors::check).
    pub fn mistake(&self, place: Place<'_>, message: impl Into<String>, remedy: impl Into<String>) -> Mistake {
        Mistake::new(&self.source, &[(self.span(place), None)], message, remedy)
    }

    /// The functions whose `wasm` has to be there before anything is built, with its path.
    pub fn prebuilt(&self) -> impl Iterator<Item = (&FunctionName, &str)> {
        let functions = self.manifest.functions.iter();
        let has_build = |name| self.places.functions.get(name).is_some_and(|at| at.build.is_some());
        functions.filter(move |(name, _)| !has_build(*name)).map(|(name, function)| (name, function.wasm.as_str()))
    }

    /// The mistake that a function's `wasm` is not there (after its build, when it has one).
    pub fn missing_wasm(&self, function: &FunctionName) -> Mistake {
        let (wasm, build) =
            self.manifest.functions.get(function).map_or(("", None), |f| (f.wasm.as_str(), f.build.as_deref()));
        let remedy = match build {
            Some(build) => format!("`{build}` has to make it; compare where it writes with `wasm`"),
            None => "compile the function, correct the path, or name the command that makes it with `build`".into(),
        };
        self.mistake(Place::Wasm(function), format!("there is no file `{wasm}`"), remedy)
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

    fn span(&self, place: Place<'_>) -> Span {
        let function = |name| self.places.functions.get(name);
        let found = match place {
            Place::Name => None,
            Place::Version => self.places.version,
            Place::Function(name) => function(name).map(|at| at.name),
            Place::Wasm(name) => function(name).map(|at| at.wasm),
            Place::Build(name) => function(name).map(|at| at.build.unwrap_or(at.name)),
            Place::Limits(name) => function(name).map(|at| at.limits.unwrap_or(at.name)),
            Place::Static(prefix) => self.places.statics.get(prefix).copied(),
        };
        found.unwrap_or(self.places.name)
    }
}
