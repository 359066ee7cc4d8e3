//! Reading and following the logs of an app.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use minnow_model::{AppName, FunctionName, Level, LogLine, LogSource, Tenant};
use minnow_telemetry::{Followed, ReadQuery};

use crate::{Clock, Control, ControlError, api_types::LogQuery};

/// Lines that are read when the caller does not say.
const DEFAULT_LINES: usize = 1000;
/// The most lines of one call, which are in memory together: 2 MiB of usual lines.
const MAX_LINES: usize = 10_000;
/// A followed log that is quiet sends an empty line this often, so that nothing between the two ends takes the connection
/// for dead. Proxies commonly give up after 30 or 60 seconds.
const KEEPALIVE: Duration = Duration::from_secs(15);

impl Control {
    /// An app's log as JSON lines: what is there, and with `query.follow` what comes, until the caller goes, the app is
    /// deleted or the node drains.
    pub async fn logs(
        &self,
        tenant: &Tenant,
        app: &AppName,
        query: LogQuery,
    ) -> Result<impl Stream<Item = Bytes> + Send + 'static + use<>, ControlError> {
        let function: Option<FunctionName> = match &query.function {
            Some(name) => Some(name.parse().map_err(|error| ControlError::invalid(format!("function: {error}")))?),
            None => None,
        };
        let limit = query.limit.unwrap_or(DEFAULT_LINES);
        if limit > MAX_LINES {
            return Err(ControlError::invalid(format!(
                "limit: at most {MAX_LINES} lines are read at once, not {limit}"
            )));
        }
        self.registry.app(tenant, app).await?;
        let read = ReadQuery { tenant: tenant.clone(), app: app.clone(), function, since_ms: query.since_ms, limit };
        let (lines, follow) = if query.follow {
            let (lines, follow) = self.logs.read_and_follow(read).await?;
            (lines, Some(follow))
        } else {
            let logs = self.logs.clone();
            let lines = tokio::task::spawn_blocking(move || logs.read(&read)).await;
            (lines.map_err(|_| ControlError::ShuttingDown)??, None)
        };
        let (clock, tenant, app) = (self.config.clock.clone(), tenant.clone(), app.clone());
        let followed = stream::unfold(follow, move |follow| {
            let (clock, tenant, app) = (clock.clone(), tenant.clone(), app.clone());
            async move {
                let mut follow = follow?;
                let line = match tokio::time::timeout(KEEPALIVE, follow.next()).await {
                    Ok(Some(Followed::Line(line))) => json_line(&line),
                    Ok(Some(Followed::Missed(missed))) => json_line(&missed_line(missed, &clock, tenant, app)),
                    Ok(None) => return None,
                    Err(_) => Bytes::from_static(b"\n"),
                };
                Some((line, Some(follow)))
            }
        });
        let drained = Box::pin(self.drained());
        Ok(stream::iter(lines).map(|line| json_line(&line)).chain(followed).take_until(drained))
    }
}

fn json_line(line: &LogLine) -> Bytes {
    // A log line is plain data, which always has a JSON form.
    let mut json = serde_json::to_vec(line).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

fn missed_line(missed: u64, clock: &Clock, tenant: Tenant, app: AppName) -> LogLine {
    LogLine {
        time_ms: clock.now_ms(),
        level: Level::Warn,
        source: LogSource::Node,
        tenant,
        app,
        version: None,
        function: None,
        request_id: None,
        message: format!("{missed} lines are missing here: they came faster than they were read"),
    }
}
