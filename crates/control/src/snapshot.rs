//! From the registry's rows to what the gateway reads: building a [`LiveApp`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use minnow_model::{BundleConfig, BundledCode, Digest, EgressRule, Tenant};
use minnow_runtime::{Function, FunctionCode, FunctionSpec, GuestKind, LiveApp, LiveVersion, Runtime};

use crate::{ControlError, registry::LiveRow};

/// Builds live apps, sharing what is the same in most functions: a node holds thousands of them.
pub(crate) struct Builder {
    runtime: Arc<Runtime>,
    /// What every compiled code is. One entry of some 40 bytes for each distinct piece of code.
    kinds: RwLock<HashMap<Digest, GuestKind>>,
    no_env: Arc<BTreeMap<String, String>>,
    no_egress: Arc<[EgressRule]>,
}

impl Builder {
    pub(crate) fn new(runtime: Arc<Runtime>, kinds: HashMap<Digest, GuestKind>) -> Self {
        Self { runtime, kinds: RwLock::new(kinds), no_env: Arc::default(), no_egress: Arc::from([]) }
    }

    pub(crate) fn kind(&self, code: &Digest) -> Option<GuestKind> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(code).copied()
    }

    pub(crate) fn set_kind(&self, code: Digest, kind: GuestKind) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).insert(code, kind);
    }

    pub(crate) fn forget_kind(&self, code: &Digest) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).remove(code);
    }

    /// The app that `rows` describe, or `None` when they are empty. A version that `running` has stays the same object, so
    /// that its concurrency, its queue and its warm instances go on.
    pub(crate) fn app(
        &self,
        rows: Vec<LiveRow>,
        running: Option<&LiveApp>,
    ) -> Result<Option<Arc<LiveApp>>, ControlError> {
        let Some(name) = rows.first().map(|row| row.config.app.clone()) else { return Ok(None) };
        let shares = rows
            .into_iter()
            .map(|row| {
                let same = running
                    .and_then(|app| app.shares.iter().find(|(_, version)| version.version == row.config.version))
                    .map(|(_, version)| Arc::clone(version));
                let version = match same {
                    Some(version) => version,
                    None => Arc::new(self.version(&row.tenant, row.config)?),
                };
                Ok((row.weight, version))
            })
            .collect::<Result<_, ControlError>>()?;
        Ok(Some(Arc::new(LiveApp { name, shares })))
    }

    fn version(&self, tenant: &Tenant, config: BundleConfig) -> Result<LiveVersion, ControlError> {
        let router = config.router().map_err(|clashes| ControlError::Corrupt(clashes.join("; ")))?;
        let (version, files, sticky) = (config.version.clone(), config.files.clone(), config.sticky.clone());
        let specs = self.specs(tenant, config)?;
        let functions = specs.into_iter().map(|spec| Function::new(&self.runtime, spec)).collect();
        Ok(LiveVersion { version, router, functions, files, sticky })
    }

    /// What the runtime needs to know of the version's functions, in the order of their names.
    pub(crate) fn specs(&self, tenant: &Tenant, config: BundleConfig) -> Result<Vec<FunctionSpec>, ControlError> {
        let BundleConfig { app, version, functions, .. } = config;
        let specs = functions.into_iter().map(|(name, function)| {
            let code = self.code(&function.code).ok_or_else(|| {
                ControlError::Corrupt(format!("function `{name}` of {app}@{version} was never compiled"))
            })?;
            Ok(FunctionSpec {
                tenant: tenant.clone(),
                app: app.clone(),
                version: version.clone(),
                function: name,
                code,
                env: if function.env.is_empty() { Arc::clone(&self.no_env) } else { Arc::new(function.env) },
                egress: if function.egress.is_empty() { Arc::clone(&self.no_egress) } else { function.egress.into() },
                instances: function.instances,
                limits: function.limits,
            })
        });
        specs.collect()
    }

    /// The code as the runtime knows it; `None` for WebAssembly that was never compiled.
    pub(crate) fn code(&self, code: &BundledCode) -> Option<FunctionCode> {
        match *code {
            BundledCode::Wasm(digest) => Some(FunctionCode::Wasm { digest, kind: self.kind(&digest)? }),
            BundledCode::Js { module, source_map } => Some(FunctionCode::Js { module, source_map }),
        }
    }
}
