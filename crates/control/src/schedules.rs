//! The schedules of apps: when they are due, and running one now.

use minnow_events::NextTick;
use minnow_model::{AppName, BundleConfig, FunctionName, ScheduleName, Tenant};

use crate::{
    Control, ControlError,
    api_types::{RunStarted, ScheduleInfo, ScheduleList},
    registry::LiveRow,
};

impl Control {
    pub async fn schedules(&self, tenant: &Tenant, app: &AppName) -> Result<ScheduleList, ControlError> {
        self.registry.app(tenant, app).await?;
        Ok(ScheduleList { schedules: self.ticks(tenant, app) })
    }

    /// When the live functions of an app run by the clock.
    pub(crate) fn ticks(&self, tenant: &Tenant, app: &AppName) -> Vec<ScheduleInfo> {
        self.events.next_ticks(tenant, app).into_iter().map(info).collect()
    }

    /// Runs a schedule now, beside its ticks.
    pub async fn run_schedule(
        &self,
        tenant: &Tenant,
        app: &AppName,
        function: Option<&FunctionName>,
        schedule: &ScheduleName,
    ) -> Result<RunStarted, ControlError> {
        self.registry.app(tenant, app).await?;
        Ok(RunStarted { id: self.events.run_schedule(tenant, app, function, schedule).await? })
    }

    /// Makes the topics of versions that are about to be live, and says which functions follow them. The caller holds the lock for
    /// changes.
    pub(crate) async fn prepare_events(
        &self,
        tenant: &Tenant,
        app: &AppName,
        rows: &[LiveRow],
    ) -> Result<(), ControlError> {
        let mut configs: Vec<&BundleConfig> = rows.iter().map(|row| &row.config).collect();
        configs.sort_by(|one, other| one.version.cmp(&other.version));
        Ok(self.events.prepare(tenant, app, &configs).await?)
    }

    /// After a change that did not come about: those that are live follow their topics, and nobody else. What fails is in the node's
    /// log, and mended by the next deployment.
    pub(crate) async fn restore_events(&self, tenant: &Tenant, app: &AppName) {
        let restored = match self.registry.live(tenant, app).await {
            Ok(rows) => self.prepare_events(tenant, app, &rows).await,
            Err(error) => Err(error),
        };
        if let Err(error) = restored {
            tracing::error!(%app, %error, "who follows the app's topics is not what is live");
        }
    }
}

fn info(tick: NextTick) -> ScheduleInfo {
    ScheduleInfo {
        function: tick.function,
        name: tick.name,
        when: tick.when,
        next_ms: tick.next_ms,
        last_ms: tick.last_ms,
        running: tick.is_running,
    }
}
