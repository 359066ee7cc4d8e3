//! A bundled function's code, and how it stands in the config: `"wasm": DIGEST`, or `"js": DIGEST` with `"js_map": DIGEST`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BundledFunction;
use crate::{
    Digest, EgressRule, Grants, Limits, RoutePattern, Schedule, Subscription, event::Async, manifest::Instances,
};

/// The layers that hold a function's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BundledCode {
    /// A WebAssembly component or core module.
    Wasm(Digest),
    /// An ES module that imports nothing but `node:` modules, and its source map.
    Js { module: Digest, source_map: Digest },
}

impl BundledCode {
    /// The code itself: what is compiled or run.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Wasm(digest) | Self::Js { module: digest, .. } => *digest,
        }
    }

    /// Every layer that the function needs: the code first.
    pub fn layers(&self) -> impl Iterator<Item = Digest> + use<> {
        let source_map = match self {
            Self::Wasm(_) => None,
            Self::Js { source_map, .. } => Some(*source_map),
        };
        [self.digest()].into_iter().chain(source_map)
    }

    pub fn is_js(&self) -> bool {
        matches!(self, Self::Js { .. })
    }
}

/// A function as it stands in the config.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireFunction {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    wasm: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    js: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    js_map: Option<Digest>,
    routes: Vec<RoutePattern>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    egress: Vec<EgressRule>,
    instances: Instances,
    limits: Limits,
    #[serde(skip_serializing_if = "Grants::is_empty", default)]
    grants: Grants,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    topics: Vec<Subscription>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    schedules: Vec<Schedule>,
    #[serde(rename = "async", skip_serializing_if = "Option::is_none", default)]
    asynchronous: Option<Async>,
}

impl TryFrom<WireFunction> for BundledFunction {
    type Error = &'static str;

    fn try_from(wire: WireFunction) -> Result<Self, Self::Error> {
        let code = match (wire.wasm, wire.js, wire.js_map) {
            (Some(digest), None, None) => BundledCode::Wasm(digest),
            (None, Some(module), Some(source_map)) => BundledCode::Js { module, source_map },
            _ => return Err("a function has either `wasm`, or `js` and `js_map`"),
        };
        let WireFunction { routes, env, egress, instances, limits, grants, topics, schedules, asynchronous, .. } = wire;
        Ok(Self { code, routes, env, egress, instances, limits, grants, topics, schedules, asynchronous })
    }
}

impl From<BundledFunction> for WireFunction {
    fn from(function: BundledFunction) -> Self {
        let (wasm, js, js_map) = match function.code {
            BundledCode::Wasm(digest) => (Some(digest), None, None),
            BundledCode::Js { module, source_map } => (None, Some(module), Some(source_map)),
        };
        let BundledFunction { routes, env, egress, instances, limits, grants, topics, schedules, asynchronous, .. } =
            function;
        Self { wasm, js, js_map, routes, env, egress, instances, limits, grants, topics, schedules, asynchronous }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn function(code: BundledCode) -> BundledFunction {
        BundledFunction {
            code,
            routes: Vec::new(),
            env: BTreeMap::new(),
            egress: Vec::new(),
            instances: Instances::Reuse,
            limits: Limits::default(),
            grants: Grants::default(),
            topics: Vec::new(),
            schedules: Vec::new(),
            asynchronous: None,
        }
    }

    #[test]
    fn both_kinds_of_code_read_back() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        for (code, keys, layers) in [
            (BundledCode::Wasm(a), &["wasm"][..], vec![a]),
            (BundledCode::Js { module: a, source_map: b }, &["js", "js_map"], vec![a, b]),
        ] {
            let value = serde_json::to_value(function(code)).unwrap();
            for key in ["wasm", "js", "js_map"] {
                assert_eq!(value.get(key).is_some(), keys.contains(&key), "{key} of {value}");
            }
            assert_eq!(serde_json::from_value::<BundledFunction>(value).unwrap(), function(code));
            assert_eq!(code.layers().collect::<Vec<_>>(), layers);
            assert_eq!(code.digest(), a);
        }
    }

    #[test]
    fn a_function_with_no_code_or_two_is_refused() {
        let whole = serde_json::to_value(function(BundledCode::Wasm(Digest::of(b"a")))).unwrap();
        let digest = json!(Digest::of(b"b"));
        for (wasm, js, js_map) in [
            (false, false, false),
            (true, true, true),
            (true, true, false),
            (true, false, true),
            (false, true, false),
            (false, false, true),
        ] {
            let mut value = whole.clone();
            for (key, is_there) in [("wasm", wasm), ("js", js), ("js_map", js_map)] {
                value[key] = if is_there { digest.clone() } else { Value::Null };
            }
            let error = serde_json::from_value::<BundledFunction>(value).unwrap_err().to_string();
            assert!(error.contains("either `wasm`, or `js` and `js_map`"), "{error}");
        }
    }
}
