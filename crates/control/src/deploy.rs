//! Deployments: sending traffic to versions, and making sure that their code is compiled first.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt as _;
use minnow_model::{
    AppName, BundleConfig, BundledCode, BundledFunction, Code, Deployment, Digest, FunctionName, Level, LogLine,
    LogSource, Tenant, Version,
};
use minnow_runtime::{FunctionCode, FunctionSpec, GuestKind, LiveApp};

use crate::{Control, ControlError, registry::LiveRow};

impl Control {
    /// Sends `weight` percent of an app's traffic to `version`; the newest published one for `None`.
    pub async fn deploy(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        version: Option<Version>,
        weight: u8,
    ) -> Result<Deployment, ControlError> {
        let (control, tenant, app) = (Arc::clone(self), tenant.clone(), app.clone());
        Self::to_the_end(async move {
            let planned = control.registry.plan_deploy(&tenant, &app, version.clone(), weight).await?;
            control.compile_rows(&planned).await?;
            let _changes = control.changes.lock().await;
            let now_ms = control.config.clock.now_ms();
            let prepare = control.prepare(&app);
            let (changed, live) = control.registry.deploy(&tenant, &app, version, weight, now_ms, prepare).await?;
            if changed.changed {
                control.begin_tallies(&tenant, &changed.deployment);
            }
            control.go_live(&app, live);
            if changed.changed {
                control.log_deployment(&tenant, &changed.deployment);
            }
            Ok(changed.deployment)
        })
        .await
    }

    /// Goes back to the deployment before; [`crate::registry::history`] says which that is.
    pub async fn rollback(self: &Arc<Self>, tenant: &Tenant, app: &AppName) -> Result<Deployment, ControlError> {
        let (control, tenant, app) = (Arc::clone(self), tenant.clone(), app.clone());
        Self::to_the_end(async move {
            let planned = control.registry.plan_rollback(&tenant, &app).await?;
            control.compile_rows(&planned).await?;
            let _changes = control.changes.lock().await;
            let now_ms = control.config.clock.now_ms();
            let (deployment, live) = control.registry.rollback(&tenant, &app, now_ms, control.prepare(&app)).await?;
            control.begin_tallies(&tenant, &deployment);
            control.go_live(&app, live);
            control.log_deployment(&tenant, &deployment);
            Ok(deployment)
        })
        .await
    }

    /// What makes the live app of a deployment, inside the transaction that records it: whatever can fail has to fail
    /// before the commit. The caller holds the lock for changes.
    fn prepare(
        &self,
        app: &AppName,
    ) -> impl FnOnce(Vec<LiveRow>) -> Result<Option<Arc<LiveApp>>, ControlError> + Send + 'static + use<> {
        let (builder, running) = (Arc::clone(&self.builder), self.live.load().get(app).map(Arc::clone));
        move |rows| builder.app(rows, running.as_deref())
    }

    /// Puts a deployment that is committed into the snapshot, which cannot fail. The caller holds the lock for changes.
    fn go_live(&self, app: &AppName, live: Option<Arc<LiveApp>>) {
        match live {
            Some(live) => self.live.set(live),
            None => self.live.remove(app),
        }
    }

    /// Has the metrics count anew for a deployment that is committed. Before it goes live, or its first requests would not
    /// count. The caller holds the lock for changes.
    fn begin_tallies(&self, tenant: &Tenant, deployment: &Deployment) {
        let live: Vec<Version> = deployment.shares.iter().map(|share| share.version.clone()).collect();
        self.metrics.deployed(tenant, &deployment.app, &live);
    }

    /// Notes a deployment that has gone live in the app's log.
    fn log_deployment(&self, tenant: &Tenant, deployment: &Deployment) {
        let shares: Vec<_> =
            deployment.shares.iter().map(|share| format!("{} {} %", share.version, share.weight)).collect();
        self.logs.write(LogLine {
            time_ms: deployment.time_ms,
            level: Level::Info,
            source: LogSource::Node,
            tenant: tenant.clone(),
            app: deployment.app.clone(),
            version: None,
            function: None,
            request_id: None,
            message: format!("deployment {} is live: {}", deployment.revision, shares.join(", ")),
        });
    }

    /// Makes sure that the code of these versions is compiled for this engine: it is, unless the node was upgraded since
    /// they were published.
    async fn compile_rows(&self, rows: &[LiveRow]) -> Result<(), ControlError> {
        self.compile_all(wasm_of(rows.iter().flat_map(|row| &row.config.functions))).await
    }

    /// Loads each JavaScript function of the version once, in a sandbox like the one that it will run in; reports every
    /// function that cannot be loaded.
    pub(crate) async fn check_js(&self, tenant: &Tenant, config: &BundleConfig) -> Result<(), ControlError> {
        let specs: Vec<FunctionSpec> = self.builder.specs(tenant, config.clone())?;
        let specs = specs.into_iter().filter(|spec| matches!(spec.code, FunctionCode::Js { .. }));
        let checks = specs.map(|spec| async move {
            let name = spec.function.clone();
            (name, self.runtime.check_js(spec).await)
        });
        let checked: Vec<_> = futures::stream::iter(checks).buffered(JS_CHECKS).collect().await;
        let mut refused: Option<(Code, Vec<String>)> = None;
        for (name, checked) in checked {
            if let Err(failure) = checked {
                let all = refused.get_or_insert((failure.publish_code(), Vec::new()));
                all.1.push(format!("function `{name}`: {failure}"));
            }
        }
        match refused {
            Some((code, errors)) => Err(ControlError::Compile { code, errors }),
            None => Ok(()),
        }
    }

    /// Compiles each piece of code that is not compiled yet; reports every piece that does not compile, by one of the
    /// functions that use it.
    pub(crate) async fn compile_all(&self, code: BTreeMap<Digest, FunctionName>) -> Result<(), ControlError> {
        let compiles = code.into_iter().map(|(digest, name)| async move {
            let result = self.compile(digest).await;
            (name, result)
        });
        let mut refused: Option<(Code, Vec<String>)> = None;
        for (name, result) in futures::future::join_all(compiles).await {
            match result {
                Ok(_) => {}
                Err(ControlError::Compile { code, errors }) => {
                    let all = refused.get_or_insert((code, Vec::new()));
                    all.1.extend(errors.into_iter().map(|error| format!("function `{name}`: {error}")));
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some((code, errors)) => Err(ControlError::Compile { code, errors }),
            None => Ok(()),
        }
    }

    /// Compiles one piece of code, if it is not compiled for this engine. The runtime bounds how many compile at once.
    pub(crate) async fn compile(&self, digest: Digest) -> Result<GuestKind, ControlError> {
        if let (Some(kind), Some(_)) = (self.builder.kind(&digest), self.runtime.compiled_kind(&digest)) {
            return Ok(kind);
        }
        self.registry.begin_compile(digest, self.config.clock.now_ms()).await?;
        let kind = self.runtime.compile(&self.blobs.path(&digest), digest).await;
        let kind =
            kind.map_err(|error| ControlError::Compile { code: error.code(), errors: vec![error.to_string()] })?;
        self.registry.set_kind(digest, kind).await?;
        self.builder.set_kind(digest, kind);
        Ok(kind)
    }
}

/// JavaScript functions that a publish loads at once, to check them. Each is a process.
const JS_CHECKS: usize = 2;

/// The WebAssembly among the code of these functions, each with one that uses it.
pub(crate) fn wasm_of<'a>(
    functions: impl Iterator<Item = (&'a FunctionName, &'a BundledFunction)>,
) -> BTreeMap<Digest, FunctionName> {
    let wasm = functions.filter_map(|(name, function)| match function.code {
        BundledCode::Wasm(digest) => Some((digest, name.clone())),
        BundledCode::Js { .. } => None,
    });
    wasm.collect()
}
