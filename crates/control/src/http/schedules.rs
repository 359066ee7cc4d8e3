//! Schedules: when functions run by the clock, and running one now.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
};
use http::StatusCode;
use minnow_model::{AppName, ScheduleName};

use super::{ApiError, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{RunStarted, ScheduleList, ScheduleRunQuery},
    tokens::Caller,
};

/// The schedules of an app's live versions, and when each is due next.
#[utoipa::path(get, path = "/v1/apps/{app}/schedules", tag = "events", operation_id = "list_schedules",
    params(("app" = String, Path)),
    responses(
        (status = 200, body = ScheduleList),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<ScheduleList>, ApiError> {
    Ok(Json(control.schedules(&caller.tenant, &app).await?))
}

/// Runs a schedule now, beside its ticks. It is durable when this answers, and runs after that; the id is that of its log lines.
#[utoipa::path(post, path = "/v1/apps/{app}/schedules/{schedule}/run", tag = "events", operation_id = "run_schedule",
    params(("app" = String, Path), ("schedule" = String, Path), ScheduleRunQuery),
    responses(
        (status = 202, body = RunStarted),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn run(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, schedule)): Path<(AppName, ScheduleName)>,
    Query(query): Query<ScheduleRunQuery>,
) -> Result<(StatusCode, Json<RunStarted>), ApiError> {
    let started = control.run_schedule(&caller.tenant, &app, query.function.as_ref(), &schedule).await?;
    Ok((StatusCode::ACCEPTED, Json(started)))
}
