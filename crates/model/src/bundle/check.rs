//! Checks of a bundle's config that arrives over the network. What the CLI sends is right already; others may send anything.

use semver::Version;

use super::{BundleConfig, BundledFunction, MAX_FILES, OciBundle};
use crate::{
    FunctionName, LimitCaps, Limits,
    manifest::{
        Instances, MAX_APP_ROUTES, MAX_EGRESS, MAX_ENV, MAX_ENV_BYTES, MAX_FUNCTIONS, MAX_ROUTES, MAX_VERSION_BYTES,
        Sticky, env_mistake, is_token,
    },
    path::check_served,
    route::Router,
};

/// The most messages that a check gives back; the rest is only counted.
const MAX_MESSAGES: usize = 100;

impl BundleConfig {
    /// Checks everything that the types do not: counts, routes that clash, file paths, environments, stores and grants,
    /// and limits against the node's caps. The messages name the function and the key.
    pub fn check(&self, caps: &LimitCaps) -> Result<(), Vec<String>> {
        let mut messages = Vec::new();
        check_version(&self.version, &mut messages);
        if self.functions.is_empty() && self.files.is_empty() {
            messages.push("the version has neither functions nor static files".into());
        }
        at_most("functions", self.functions.len(), MAX_FUNCTIONS, &mut messages);
        let routes: usize = self.functions.values().map(|function| function.routes.len()).sum();
        at_most("routes", routes + self.webhooks().count(), MAX_APP_ROUTES, &mut messages);
        at_most("static files", self.files.len(), MAX_FILES, &mut messages);
        for (name, function) in self.functions.iter().take(MAX_FUNCTIONS) {
            function.check(name, caps, &mut messages);
            self.check_grants(name, function, &mut messages);
            self.check_events(name, function, &mut messages);
        }
        self.check_stores(&mut messages);
        self.check_topics(&mut messages);
        if let Err(clashes) = self.router() {
            messages.extend(clashes);
        }
        for path in self.files.keys().take(MAX_FILES) {
            if let Err(error) = check_served(path) {
                messages.push(format!("static file `{}`: {error}", path.escape_debug()));
            }
        }
        if let Some(Sticky::Cookie(name) | Sticky::Header(name)) = &self.sticky
            && !is_token(name)
        {
            messages.push(format!("`sticky`: `{}` cannot be the name of a cookie or header", name.escape_debug()));
        }
        finish(messages)
    }

    /// The routing table. An index is the place of the function in `functions`, in the order of their names; after them come
    /// the [webhooks](Self::webhooks). The error has a message for each clash.
    pub fn router(&self) -> Result<Router, Vec<String>> {
        let routes = self.functions.values().enumerate();
        let routes = routes.flat_map(|(index, function)| function.routes.iter().map(move |r| (r.clone(), index)));
        let webhooks = self.webhooks().enumerate();
        let webhooks = webhooks.map(|(index, (_, webhook))| (webhook.route(), self.functions.len() + index));
        Router::new(routes.chain(webhooks)).map_err(|clashes| {
            let functions = self.functions.keys().map(|name| format!("the function `{name}`"));
            let webhooks = self.webhooks().map(|(topic, _)| format!("the webhook of `{topic}`"));
            let names: Vec<String> = functions.chain(webhooks).collect();
            let name = |index: usize| names.get(index).map_or("", String::as_str);
            clashes
                .into_iter()
                .map(|clash| format!("{clash}: {} and {}", name(clash.first.1), name(clash.second.1)))
                .collect()
        })
    }

    /// Checks that every content which the config names is a layer of its OCI manifest, with the right size. The config
    /// cannot name content that was never uploaded with it.
    pub fn check_layers(&self, bundle: &OciBundle) -> Result<(), Vec<String>> {
        let layers: std::collections::HashMap<_, _> =
            bundle.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        let mut messages = Vec::new();
        for (name, function) in &self.functions {
            for digest in function.code.layers().filter(|digest| !layers.contains_key(digest)) {
                let what = if digest == function.code.digest() { "code" } else { "source map" };
                messages.push(format!("function `{name}`: its {what} {digest} is not a layer of the manifest"));
            }
        }
        for (path, file) in &self.files {
            let path = path.escape_debug();
            match layers.get(&file.digest) {
                None => messages.push(format!("static file `{path}`: {} is not a layer of the manifest", file.digest)),
                Some(size) if *size != file.size => {
                    messages.push(format!("static file `{path}` has {} bytes here, its layer {size}", file.size));
                }
                Some(_) => {}
            }
        }
        self.check_migration_layers(bundle, &mut messages);
        finish(messages)
    }
}

impl BundledFunction {
    fn check(&self, name: &FunctionName, caps: &LimitCaps, messages: &mut Vec<String>) {
        let mut refuse = |message: String| messages.push(format!("function `{name}`: {message}"));
        for (what, count, most) in [
            ("routes", self.routes.len(), MAX_ROUTES),
            ("egress rules", self.egress.len(), MAX_EGRESS),
            ("environment variables", self.env.len(), MAX_ENV),
        ] {
            if count > most {
                refuse(format!("has {count} {what}, the most is {most}"));
            }
        }
        for (key, value) in self.env.iter().take(MAX_ENV) {
            if let Some(mistake) = env_mistake(key, value) {
                refuse(format!("`env`: {mistake}"));
            }
        }
        let bytes: usize = self.env.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > MAX_ENV_BYTES {
            refuse(format!("the environment has {bytes} bytes, the most is {MAX_ENV_BYTES}"));
        }
        if self.code.is_js() && self.instances == Instances::Fresh {
            refuse("`instances` is `fresh`, and a process that runs JavaScript serves many requests".into());
        }
        for (key, asked, cap) in caps.exceeded_by(&self.limits) {
            refuse(format!(
                "`limits.{key}` asks for {asked}, this node allows {cap}; ask for less, or raise the node's cap"
            ));
        }
        let (least, most) =
            if self.code.is_js() { (Limits::LEAST_JS, Limits::MOST_JS) } else { (Limits::LEAST, Limits::MOST) };
        for (key, asked, least) in self.limits.below(&least) {
            refuse(format!("`limits.{key}` is {asked}, the least is {least}"));
        }
        for (key, asked, most) in self.limits.beyond(&most) {
            refuse(format!("`limits.{key}` is {asked}, the most is {most}"));
        }
        let lowered = caps.applied_to(&self.limits);
        if self.code.is_js() && lowered.memory_bytes < least.memory_bytes && lowered != self.limits {
            refuse(
                "needs more memory than this node allows: JavaScript runs in 64 MiB or more; raise the node's cap"
                    .into(),
            );
        }
    }
}

fn check_version(version: &Version, messages: &mut Vec<String>) {
    let length = version.to_string().len();
    if length > MAX_VERSION_BYTES {
        messages.push(format!("the version has {length} characters, the most is {MAX_VERSION_BYTES}"));
    }
}

fn at_most(what: &str, count: usize, most: usize, messages: &mut Vec<String>) {
    if count > most {
        messages.push(format!("the version has {count} {what}, the most is {most}"));
    }
}

fn finish(mut messages: Vec<String>) -> Result<(), Vec<String>> {
    if messages.is_empty() {
        return Ok(());
    }
    if messages.len() > MAX_MESSAGES {
        let more = messages.len() - MAX_MESSAGES;
        messages.truncate(MAX_MESSAGES);
        messages.push(format!("and {more} more"));
    }
    Err(messages)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        BundledFile, Digest, Grants, Limits,
        bundle::{BundledCode, Layer},
    };

    fn function(routes: &[&str]) -> BundledFunction {
        BundledFunction {
            code: BundledCode::Wasm(Digest::of(b"code")),
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            env: BTreeMap::new(),
            egress: Vec::new(),
            instances: Instances::Fresh,
            limits: Limits::default(),
            grants: Grants::default(),
            topics: Vec::new(),
            schedules: Vec::new(),
            asynchronous: None,
        }
    }

    fn config(functions: Vec<(&str, BundledFunction)>, files: &[&str]) -> BundleConfig {
        BundleConfig {
            app: "shop".parse().unwrap(),
            version: Version::new(0, 1, 0),
            functions: functions.into_iter().map(|(name, function)| (name.parse().unwrap(), function)).collect(),
            files: files
                .iter()
                .map(|path| (path.to_string(), BundledFile { digest: Digest::of(b"file"), size: 4 }))
                .collect(),
            sticky: None,
            kv: BTreeMap::new(),
            sql: BTreeMap::new(),
            blob: BTreeMap::new(),
            volumes: BTreeMap::new(),
            locks: false,
            topics: BTreeMap::new(),
        }
    }

    fn messages(config: &BundleConfig) -> Vec<String> {
        config.check(&LimitCaps::default()).err().unwrap_or_default()
    }

    #[test]
    fn a_sound_config_passes() {
        assert_eq!(messages(&config(vec![("api", function(&["/a"])), ("b", function(&["GET /a"]))], &["/x"])), [""; 0]);
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let mut api = function(&["/{a}", "POST /x"]);
        api.limits.memory_bytes = 2 << 30;
        api.limits.cpu = Duration::ZERO;
        api.env = [("A=B".into(), "x".into()), ("C".into(), "\0".into())].into();
        let mut js = function(&[]);
        js.code = BundledCode::Js { module: Digest::of(b"module"), source_map: Digest::of(b"map") };
        js.limits.concurrency = 513;
        let functions = vec![("api", api), ("js", js), ("web", function(&["/{b}"]))];
        let mut config = config(functions, &["/ok", "/../etc/passwd", "no-slash"]);
        config.sticky = Some(Sticky::Cookie("a b".into()));
        insta::assert_snapshot!(messages(&config).join("\n"));
    }

    #[test]
    fn counts_are_bounded() {
        let files: Vec<String> = (0..=MAX_FILES).map(|n| format!("/{n}")).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert_eq!(messages(&config(vec![], &files)), ["the version has 10001 static files, the most is 10000"]);
        assert_eq!(messages(&config(vec![], &[])), ["the version has neither functions nor static files"]);
        let routes: Vec<String> = (0..=MAX_ROUTES).map(|n| format!("/{n}")).collect();
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        let expected = ["function `f`: has 101 routes, the most is 100"];
        assert_eq!(messages(&config(vec![("f", function(&routes))], &[])), expected);
        let bad: Vec<String> = (0..200).map(|n| format!("{n}")).collect();
        let bad: Vec<&str> = bad.iter().map(String::as_str).collect();
        let many = messages(&config(vec![], &bad));
        assert_eq!((many.len(), many.last().unwrap().as_str()), (101, "and 100 more"));
    }

    #[test]
    fn content_that_is_no_layer_is_refused() {
        let mut js = function(&[]);
        js.code = BundledCode::Js { module: Digest::of(b"module"), source_map: Digest::of(b"map") };
        let config = config(vec![("api", function(&[])), ("js", js)], &["/a"]);
        let layer = |content: &[u8], size| Layer {
            digest: Digest::of(content),
            size,
            media_type: crate::bundle::FILE_TYPE.into(),
            title: String::new(),
        };
        let bundle = |layers| OciBundle { config: (Digest::of(b"config"), 6), layers };
        let all = vec![layer(b"code", 4), layer(b"module", 6), layer(b"map", 3), layer(b"file", 4)];
        assert_eq!(config.check_layers(&bundle(all)), Ok(()));
        let wrong = config.check_layers(&bundle(vec![layer(b"module", 6), layer(b"file", 5)])).unwrap_err();
        for (message, part) in wrong.iter().zip([
            "function `api`: its code",
            "function `js`: its source map",
            "has 4 bytes here, its layer 5",
        ]) {
            assert!(message.contains(part), "{wrong:?}");
        }
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn unknown_and_bad_fields_are_refused_when_the_config_is_read() {
        let good = serde_json::to_value(config(vec![("api", function(&["/a"]))], &["/x"])).unwrap();
        assert!(serde_json::from_value::<BundleConfig>(good.clone()).is_ok());
        for (pointer, value) in [
            ("/app", "Shop"),
            ("/version", "1"),
            ("/functions/api/wasm", "sha256:00"),
            ("/functions/api/routes/0", "a"),
            ("/functions/api/instances", "often"),
            ("/files/~1x/digest", "md5:00"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value.into();
            assert!(serde_json::from_value::<BundleConfig>(bad).is_err(), "{pointer}");
        }
        for pointer in ["", "/functions/api", "/functions/api/limits", "/files/~1x"] {
            let mut bad = good.clone();
            bad.pointer_mut(pointer).unwrap()["extra"] = 1.into();
            assert!(serde_json::from_value::<BundleConfig>(bad).is_err(), "{pointer}");
        }
    }
}
