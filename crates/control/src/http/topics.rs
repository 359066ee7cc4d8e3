//! Topics: publishing to them, what is in them, and their dead letters.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use minnow_model::{AppName, StoreKind, StoreName, event};
use minnow_store::{TopicError, topic::Which};

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control, ControlError,
    api_types::{
        DeadCount, DeadLetterDetail, DeadLetters, DeadOf, DeadQuery, EventsSent, MessagesQuery, PublishQuery,
        ReplayRequest, TopicInfo, TopicList,
    },
    tokens::Caller,
};

/// Publishes to a topic: a CloudEvent 1.0 in binary mode (`ce-` headers), in structured mode (`application/cloudevents+json`), a
/// batch of at most 100 (`application/cloudevents-batch+json`), or a body without any of that, which is the data of a message. All
/// or none; they are on the disk when this answers.
#[utoipa::path(post, path = "/v1/topics/{topic}", tag = "events", operation_id = "publish_events",
    params(("topic" = String, Path), PublishQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = EventsSent),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn publish(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(topic): Path<StoreName>,
    Query(query): Query<PublishQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<EventsSent>, ApiError> {
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let drafts = event::read_http(pairs, body).map_err(|error| ControlError::from(TopicError::Event(error)))?;
    Ok(Json(control.publish_events(&caller.tenant, &topic, query, drafts).await?))
}

/// The topics of an app, and how far its functions have come in them.
#[utoipa::path(get, path = "/v1/apps/{app}/topics", tag = "events", operation_id = "list_topics",
    params(("app" = String, Path)),
    responses(
        (status = 200, body = TopicList),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<TopicList>, ApiError> {
    Ok(Json(control.app_topics(&caller.tenant, &app).await?))
}

/// One topic, and how far functions have come in it.
#[utoipa::path(get, path = "/v1/apps/{app}/topics/{topic}", tag = "events", operation_id = "topic",
    params(("app" = String, Path), ("topic" = String, Path)),
    responses(
        (status = 200, body = TopicInfo),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn info(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic)): Path<(AppName, StoreName)>,
) -> Result<Json<TopicInfo>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.topic_info(&topic).await?))
}

/// The messages of a topic as CloudEvents in JSON, one a line, with their position in `sequence`. While it is followed, an empty
/// line every 15 seconds keeps the connection alive.
#[utoipa::path(get, path = "/v1/apps/{app}/topics/{topic}/messages", tag = "events", operation_id = "topic_messages",
    params(("app" = String, Path), ("topic" = String, Path), MessagesQuery),
    responses(
        (status = 200, body = String, content_type = "application/x-ndjson"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn messages(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic)): Path<(AppName, StoreName)>,
    Query(query): Query<MessagesQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    let lines = control.topic_messages(topic.clone(), query).await?;
    // The client sees that it breaks off, and no more.
    let lines = lines.inspect_err(move |error| {
        tracing::error!(app = %topic.app, topic = %topic.name, %error, "a topic cannot be read to its end");
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)))
}

/// Sets a function to another place of a topic, back or forwards: it gets the messages from there on.
#[utoipa::path(post, path = "/v1/apps/{app}/topics/{topic}/replay", tag = "events", operation_id = "replay_topic",
    params(("app" = String, Path), ("topic" = String, Path)),
    request_body = ReplayRequest,
    responses(
        (status = 204, description = "It goes on there"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replay(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic)): Path<(AppName, StoreName)>,
    Json(request): Json<ReplayRequest>,
) -> Result<StatusCode, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    control.replay(&topic, request).await?;
    Ok(no_content())
}

/// Lists dead letters of a topic: messages that a function did not get done.
#[utoipa::path(get, path = "/v1/apps/{app}/topics/{topic}/dead", tag = "events", operation_id = "dead_letters",
    params(("app" = String, Path), ("topic" = String, Path), DeadQuery),
    responses(
        (status = 200, body = DeadLetters),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dead_list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic)): Path<(AppName, StoreName)>,
    Query(query): Query<DeadQuery>,
) -> Result<Json<DeadLetters>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.dead_letters(&topic, query).await?))
}

/// Removes all dead letters of a function.
#[utoipa::path(delete, path = "/v1/apps/{app}/topics/{topic}/dead", tag = "events", operation_id = "drop_dead_letters",
    params(("app" = String, Path), ("topic" = String, Path), DeadOf),
    responses(
        (status = 200, body = DeadCount),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dead_drop_all(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic)): Path<(AppName, StoreName)>,
    Query(query): Query<DeadOf>,
) -> Result<Json<DeadCount>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.dead_drop(&topic, Which::All(query.function)).await?))
}

/// Has all dead letters of a function delivered again.
#[utoipa::path(post, path = "/v1/apps/{app}/topics/{topic}/dead/retry", tag = "events", operation_id = "retry_dead_letters",
    params(("app" = String, Path), ("topic" = String, Path)),
    request_body = DeadOf,
    responses(
        (status = 200, body = DeadCount),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dead_retry_all(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic)): Path<(AppName, StoreName)>,
    Json(request): Json<DeadOf>,
) -> Result<Json<DeadCount>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.dead_retry(&topic, Which::All(request.function)).await?))
}

/// One dead letter, with its message and the last answer.
#[utoipa::path(get, path = "/v1/apps/{app}/topics/{topic}/dead/{number}", tag = "events", operation_id = "dead_letter",
    params(("app" = String, Path), ("topic" = String, Path), ("number" = u64, Path)),
    responses(
        (status = 200, body = DeadLetterDetail),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dead_show(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic, number)): Path<(AppName, StoreName, u64)>,
) -> Result<Json<DeadLetterDetail>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.dead_letter(&topic, number).await?))
}

/// Removes a dead letter.
#[utoipa::path(delete, path = "/v1/apps/{app}/topics/{topic}/dead/{number}", tag = "events", operation_id = "drop_dead_letter",
    params(("app" = String, Path), ("topic" = String, Path), ("number" = u64, Path)),
    responses(
        (status = 200, body = DeadCount),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dead_drop(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic, number)): Path<(AppName, StoreName, u64)>,
) -> Result<Json<DeadCount>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.dead_drop(&topic, Which::One(number)).await?))
}

/// Has a dead letter delivered again. It is gone when it works, and a dead letter again when it does not.
#[utoipa::path(post, path = "/v1/apps/{app}/topics/{topic}/dead/{number}/retry", tag = "events", operation_id = "retry_dead_letter",
    params(("app" = String, Path), ("topic" = String, Path), ("number" = u64, Path)),
    responses(
        (status = 200, body = DeadCount),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dead_retry(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, topic, number)): Path<(AppName, StoreName, u64)>,
) -> Result<Json<DeadCount>, ApiError> {
    let topic = control.store(&caller.tenant, &app, StoreKind::Topic, &topic).await?;
    Ok(Json(control.dead_retry(&topic, Which::One(number)).await?))
}
