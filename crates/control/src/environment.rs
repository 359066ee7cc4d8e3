//! What a function finds in its environment: what its manifest says, then the app's variables, then the secrets that it was
//! granted. The later wins.

use std::collections::BTreeMap;

use minnow_model::{
    AppName, BundleConfig, BundledCode, BundledFunction, StoreKind, Tenant, VariableName, Version, event::Webhook,
};
use minnow_runtime::Secrets;
use minnow_store::{Sealed, Vault, VaultError};
use zeroize::Zeroizing;

use crate::{
    ControlError,
    registry::{LiveRow, Settings},
};

/// What binds a sealed secret to its place. Neither part can hold a `/`.
pub(crate) fn place(tenant: &Tenant, app: &AppName, name: &VariableName) -> String {
    format!("{tenant}/{app}/{name}")
}

/// What is in a secret.
pub(crate) fn open(
    vault: &Vault,
    tenant: &Tenant,
    app: &AppName,
    name: &VariableName,
    sealed: &Sealed,
) -> Result<Zeroizing<String>, VaultError> {
    let mut plain = vault.open(&place(tenant, app, name), sealed)?;
    // Only text is sealed.
    match String::from_utf8(std::mem::take(&mut *plain)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(VaultError::Damaged)
        }
    }
}

/// The environment of a function, the secrets in it, and whether one that it was granted is missing from it: never set, or not to
/// be read. Such a function is not run, since code that compares a token with what is not there may let everybody in; [`lacks`]
/// tells.
pub(crate) fn environment(
    vault: &Vault,
    tenant: &Tenant,
    app: &AppName,
    function: &BundledFunction,
    settings: &Settings,
) -> (BTreeMap<String, String>, Secrets, bool) {
    let mut env = function.env.clone();
    env.extend(settings.variables.iter().map(|(name, value)| (name.to_string(), value.clone())));
    let granted = function.grants.secrets.iter().filter_map(|name| {
        let sealed = settings.secrets.get(name)?;
        Some((name, open(vault, tenant, app, name, sealed).ok()?))
    });
    let secrets: Vec<_> = granted.collect();
    env.extend(secrets.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    let lacks_secrets = secrets.len() < function.grants.secrets.len();
    (env, Secrets::new(secrets.iter().map(|(_, value)| value.as_str())), lacks_secrets)
}

/// The key that what comes to a webhook is signed with.
pub(crate) fn webhook_key(
    vault: &Vault,
    tenant: &Tenant,
    app: &AppName,
    webhook: &Webhook,
    settings: &Settings,
) -> Result<Zeroizing<Vec<u8>>, Why> {
    let sealed = settings.secrets.get(&webhook.secret).ok_or(Why::Unset)?;
    let secret = open(vault, tenant, app, &webhook.secret, sealed).map_err(Why::Unreadable)?;
    webhook.signature.key(&secret).map(Zeroizing::new).ok_or(Why::NoKey)
}

/// A secret that a function was granted, or a webhook needs, and cannot have.
#[derive(Debug)]
pub(crate) struct Lack {
    app: AppName,
    version: Version,
    /// Who lacks it.
    user: User,
    secret: VariableName,
    why: Why,
}

/// Who uses a secret, by its name: a function, or the webhook of a topic.
#[derive(Debug)]
enum User {
    Function(String),
    Webhook(String),
}

/// Why a secret cannot be used.
#[derive(Debug)]
pub(crate) enum Why {
    /// It was never set.
    Unset,
    /// It does not open.
    Unreadable(VaultError),
    /// It is no key for the form of the webhook.
    NoKey,
}

impl Lack {
    pub(crate) fn secret(&self) -> &VariableName {
        &self.secret
    }

    /// Who answers `secret_missing` because of it.
    pub(crate) fn who(&self) -> &'static str {
        match self.user {
            User::Function(_) => "the function",
            User::Webhook(_) => "the webhook",
        }
    }

    /// Whether the secret is there and no key.
    pub(crate) fn is_no_key(&self) -> bool {
        matches!(self.why, Why::NoKey)
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { app, version, user, secret, why } = self;
        match user {
            User::Function(name) => write!(f, "function `{name}` of {app}@{version} is granted the secret {secret}, ")?,
            User::Webhook(topic) => {
                write!(f, "the webhook of `{topic}` of {app}@{version} needs the secret {secret}, ")?
            }
        }
        match why {
            Why::Unset => f.write_str("which is not set")?,
            Why::Unreadable(why) => write!(f, "which cannot be read: {why}")?,
            Why::NoKey => f.write_str("which is not base64, as the signature `standard` has it")?,
        }
        write!(f, "; run `minnow secret set {secret} --app {app}`")
    }
}

/// What the functions and webhooks of these versions lack.
pub(crate) fn lacks(vault: &Vault, rows: &[LiveRow]) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for LiveRow { tenant, config, settings, .. } in rows {
        for (function, bundled) in &config.functions {
            for secret in &bundled.grants.secrets {
                let why = match settings.secrets.get(secret) {
                    None => Why::Unset,
                    Some(sealed) => match open(vault, tenant, &config.app, secret, sealed) {
                        Ok(_) => continue,
                        Err(error) => Why::Unreadable(error),
                    },
                };
                lacks.push(Lack {
                    app: config.app.clone(),
                    version: config.version.clone(),
                    user: User::Function(function.to_string()),
                    secret: secret.clone(),
                    why,
                });
            }
        }
        for (topic, webhook) in config.webhooks() {
            let Err(why) = webhook_key(vault, tenant, &config.app, webhook, settings) else { continue };
            lacks.push(Lack {
                app: config.app.clone(),
                version: config.version.clone(),
                user: User::Webhook(topic.to_string()),
                secret: webhook.secret.clone(),
                why,
            });
        }
    }
    lacks
}

/// Refuses versions whose functions or webhooks would lack secrets.
pub(crate) fn require_secrets(vault: &Vault, rows: &[LiveRow]) -> Result<(), ControlError> {
    let lacks = lacks(vault, rows);
    if lacks.is_empty() {
        return Ok(());
    }
    Err(ControlError::MissingSecrets { errors: lacks.iter().map(ToString::to_string).collect() })
}

/// What JavaScript has the app's locks under.
const LOCKS: &str = "LOCKS";

/// Why functions of these versions do not see a variable of their app, a sentence each: they have something else under its name.
pub(crate) fn hidden_by(rows: &[LiveRow], variable: &VariableName) -> Vec<String> {
    let mut reasons = Vec::new();
    for LiveRow { config, .. } in rows {
        for (name, function) in &config.functions {
            let grants = &function.grants;
            // In WebAssembly stores and locks have no variables.
            let is_js = matches!(function.code, BundledCode::Js { .. });
            let stores = StoreKind::ALL.into_iter().filter(|_| is_js).flat_map(|kind| {
                let grants = grants.stores(kind).filter(|grant| grant.variable() == variable.as_str());
                grants.map(move |grant| format!("the {} `{}`", kind.noun(), grant.name()))
            });
            let locks = (is_js && grants.locks && variable.as_str() == LOCKS).then(|| "the app's locks".into());
            let secret = grants.secrets.contains(variable).then(|| format!("the secret {variable}"));
            reasons.extend(stores.chain(locks).chain(secret).map(|what| {
                let BundleConfig { app, version, .. } = config;
                format!("function `{name}` of {app}@{version} has {what} under the name {variable}, and does not see a variable of it")
            }));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minnow_model::{Digest, Grants};

    use super::*;

    fn function(env: &[(&str, &str)], secrets: &[&str]) -> BundledFunction {
        BundledFunction {
            code: BundledCode::Wasm(Digest::of(b"code")),
            routes: vec!["/".parse().unwrap()],
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            egress: Vec::new(),
            instances: Default::default(),
            limits: Default::default(),
            grants: Grants { secrets: secrets.iter().map(|name| name.parse().unwrap()).collect(), ..Grants::default() },
            topics: Vec::new(),
            schedules: Vec::new(),
            asynchronous: None,
        }
    }

    struct Fixture {
        temp: tempfile::TempDir,
        vault: Vault,
        tenant: Tenant,
        app: AppName,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let vault = Vault::create(&temp.path().join("key")).unwrap();
            Self { temp, vault, tenant: Tenant::default(), app: "shop".parse().unwrap() }
        }

        fn settings(&self, variables: &[(&str, &str)], secrets: &[(&str, &str)]) -> Settings {
            let sealed = |name: &VariableName, value: &str| {
                self.vault.seal(&place(&self.tenant, &self.app, name), value.as_bytes()).unwrap()
            };
            let secrets = secrets.iter().map(|(name, value)| (name.parse().unwrap(), *value));
            Settings {
                variables: variables.iter().map(|(name, value)| (name.parse().unwrap(), (*value).into())).collect(),
                secrets: secrets
                    .map(|(name, value)| {
                        let sealed = sealed(&name, value);
                        (name, sealed)
                    })
                    .collect(),
            }
        }

        fn environment(&self, function: &BundledFunction, settings: &Settings) -> (String, Secrets, bool) {
            let (env, secrets, lacks) = environment(&self.vault, &self.tenant, &self.app, function, settings);
            (env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "), secrets, lacks)
        }

        fn row(&self, functions: &[(&str, BundledFunction)], settings: Settings) -> LiveRow {
            let functions = functions.iter().map(|(name, function)| (name.parse().unwrap(), function.clone()));
            LiveRow {
                tenant: self.tenant.clone(),
                weight: 100,
                config: minnow_model::BundleConfig {
                    app: self.app.clone(),
                    version: "1.0.0".parse().unwrap(),
                    functions: functions.collect(),
                    files: Default::default(),
                    sticky: None,
                    kv: Default::default(),
                    sql: Default::default(),
                    blob: Default::default(),
                    volumes: Default::default(),
                    locks: false,
                    topics: std::collections::BTreeMap::new(),
                },
                shared: Default::default(),
                settings: Arc::new(settings),
            }
        }
    }

    #[test]
    fn variables_win_over_the_manifest_and_secrets_over_both() {
        let fixture = Fixture::new();
        let settings = fixture.settings(&[("A", "variable"), ("B", "variable")], &[("B", "secret"), ("C", "other")]);
        let manifest = [("A", "manifest"), ("B", "manifest"), ("lower", "manifest")];
        for (function, expected) in [
            (function(&[], &[]), "A=variable B=variable"),
            (function(&manifest, &[]), "A=variable B=variable lower=manifest"),
            (function(&manifest, &["B"]), "A=variable B=secret lower=manifest"),
            (function(&[], &["C", "UNSET"]), "A=variable B=variable C=other"),
        ] {
            let (env, secrets, lacks) = fixture.environment(&function, &settings);
            assert_eq!(env, expected);
            assert_eq!(lacks, function.grants.secrets.iter().any(|secret| secret.as_str() == "UNSET"));
            let masked = secrets.mask("secret other variable".into());
            let granted = |name: &str| function.grants.secrets.iter().any(|secret| secret.as_str() == name);
            assert_eq!(masked.contains("secret"), !granted("B"), "{masked}");
            assert_eq!(masked.contains("other"), !granted("C"), "{masked}");
        }
    }

    #[test]
    fn a_variable_is_hidden_by_a_granted_secret_and_in_javascript_by_a_store() {
        let fixture = Fixture::new();
        let mut granted = function(&[], &["TOKEN"]);
        granted.grants.kv = vec!["order-log:ro".parse().unwrap(), "shop/main".parse().unwrap()];
        granted.grants.locks = true;
        let js = BundledCode::Js { module: Digest::of(b"module"), source_map: Digest::of(b"map") };
        let functions = [("js", BundledFunction { code: js, ..granted.clone() }), ("wasm", granted)];
        let rows = [fixture.row(&functions, Settings::default())];
        for (variable, expected) in [
            ("ORDER_LOG", vec!["function `js` of shop@1.0.0 has the kv store `order-log` under the name ORDER_LOG"]),
            ("SHOP_MAIN", vec!["function `js` of shop@1.0.0 has the kv store `shop/main` under the name SHOP_MAIN"]),
            (
                "TOKEN",
                vec!["function `js` of shop@1.0.0 has the secret T", "function `wasm` of shop@1.0.0 has the secret T"],
            ),
            ("LOCKS", vec!["function `js` of shop@1.0.0 has the app's locks under the name LOCKS"]),
            ("MAIN", vec![]),
        ] {
            let reasons = hidden_by(&rows, &variable.parse().unwrap());
            assert_eq!(reasons.len(), expected.len(), "{variable}: {reasons:?}");
            assert!(reasons.iter().zip(expected).all(|(reason, start)| reason.starts_with(start)), "{reasons:?}");
        }
    }

    #[test]
    fn a_secret_of_another_app_does_not_open() {
        let fixture = Fixture::new();
        let settings = fixture.settings(&[], &[("A", "secret")]);
        let function = function(&[], &["A"]);
        let other = "other".parse().unwrap();
        let (env, secrets, lacks) = environment(&fixture.vault, &fixture.tenant, &other, &function, &settings);
        assert!(env.is_empty() && secrets.is_empty() && lacks);
    }

    #[test]
    fn what_is_lacking_is_named_with_what_to_do() {
        let mut fixture = Fixture::new();
        let functions = [("api", function(&[], &["A", "B"])), ("web", function(&[], &["B"]))];
        let all = fixture.row(&functions, fixture.settings(&[], &[("A", "1"), ("B", "2")]));
        require_secrets(&fixture.vault, &[all]).unwrap();
        let some = fixture.row(&functions, fixture.settings(&[], &[("A", "1")]));
        let error = require_secrets(&fixture.vault, &[some]).unwrap_err();
        let ControlError::MissingSecrets { errors } = &error else { panic!("{error}") };
        assert_eq!(
            errors.as_slice(),
            ["api", "web"].map(|function| format!(
                "function `{function}` of shop@1.0.0 is granted the secret B, which is not set; run `minnow secret set B --app shop`"
            ))
        );
        let problem = error.problem();
        assert_eq!((problem.status, problem.errors.len()), (409, 2));
        let sealed = fixture.row(&functions[1..], fixture.settings(&[], &[("B", "2")]));
        fixture.vault = Vault::create(&fixture.temp.path().join("other")).unwrap();
        let problem = require_secrets(&fixture.vault, &[sealed]).unwrap_err().problem();
        let detail = problem.detail.unwrap();
        assert!(detail.contains("which cannot be read") && detail.contains("minnow secret set B"), "{detail}");
    }
}
