//! The HTTP API: parses requests into calls of [`Control`] and answers in JSON.
//!
//! Everything under `/v1` needs a bearer token, but for the API's own description. Every error is an RFC 9457 problem
//! document with the id of the request (`problem`). One file for each kind of resource.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    response::IntoResponse,
    routing::get,
};
use http::{StatusCode, header::CONTENT_TYPE};
use minnow_model::{
    Code,
    bundle::MAX_MANIFEST_BYTES,
    event::{MAX_ATTRIBUTES_BYTES, MAX_PUBLISH, MAX_PUBLISH_BYTES},
};
use minnow_store::kv::MAX_VALUE_BYTES;
use minnow_telemetry::Metrics;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::Control;

mod apps;
mod auth;
mod backup;
mod blobs;
mod buckets;
mod functions;
mod linger;
mod node;
mod problem;
mod schedules;
mod settings;
mod stores;
mod tokens;
mod topics;
mod versions;

pub(crate) use problem::ApiError;

/// The longest body of calls that take JSON or a manifest, in bytes.
const MAX_BODY_BYTES: usize = MAX_MANIFEST_BYTES;
/// The longest body of an invoke: 6 MiB in base64, with the headers beside it.
const MAX_INVOKE_BYTES: usize = 9 << 20;

/// The longest body of calls that write into a store, in bytes: what a store takes at once, and room for it to say that it is
/// too much.
const MAX_STORE_BODY_BYTES: usize = MAX_VALUE_BYTES + (1 << 20);

/// The longest body of a publish, in bytes: the data of a whole batch in base64, with the attributes of each event.
const MAX_PUBLISH_BODY_BYTES: usize = MAX_PUBLISH_BYTES / 3 * 4 + MAX_PUBLISH * (MAX_ATTRIBUTES_BYTES + 1024);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Minnow control API",
        description = "Publish, deploy and observe apps on a Minnow node. Errors are RFC 9457 problem documents; \
                       docs/errors.md lists their codes."
    ),
    security(("token" = [])),
    modifiers(&BearerToken),
    tags(
        (name = "node", description = "The node itself"),
        (name = "apps", description = "Apps and their deployments"),
        (name = "versions", description = "Published versions"),
        (name = "blobs", description = "Content, by digest"),
        (name = "functions", description = "Running functions and what they write"),
        (name = "settings", description = "Variables and secrets"),
        (name = "stores", description = "The data of apps"),
        (name = "events", description = "Topics, dead letters and schedules"),
        (name = "backup", description = "Apps in a file, and back"),
        (name = "tokens", description = "Who may use this API"),
    )
)]
struct Api;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, api: &mut openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

fn api() -> OpenApiRouter<Arc<Control>> {
    let invoke = OpenApiRouter::new()
        .routes(routes!(functions::invoke))
        .routes(routes!(functions::invoke_async))
        .layer(DefaultBodyLimit::max(MAX_INVOKE_BYTES));
    let kv = OpenApiRouter::new()
        .routes(routes!(stores::kv_get, stores::kv_put, stores::kv_delete))
        .layer(DefaultBodyLimit::max(MAX_STORE_BODY_BYTES));
    let sql = OpenApiRouter::new()
        .routes(routes!(stores::sql_query))
        .routes(routes!(stores::sql_script))
        .layer(DefaultBodyLimit::max(MAX_STORE_BODY_BYTES));
    let publish =
        OpenApiRouter::new().routes(routes!(topics::publish)).layer(DefaultBodyLimit::max(MAX_PUBLISH_BODY_BYTES));
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(node::node))
        .routes(routes!(node::healthz))
        .routes(routes!(node::readyz))
        .routes(routes!(node::metrics))
        .routes(routes!(apps::list))
        .routes(routes!(apps::status, apps::delete))
        .routes(routes!(apps::deploy))
        .routes(routes!(apps::rollback))
        .routes(routes!(versions::list))
        .routes(routes!(versions::publish, versions::get, versions::delete))
        .routes(routes!(versions::manifest))
        .routes(routes!(blobs::head, blobs::get, blobs::put))
        .routes(routes!(functions::logs))
        .routes(routes!(functions::run))
        .routes(routes!(settings::variables, settings::set_variables))
        .routes(routes!(settings::history))
        .routes(routes!(settings::secrets))
        .routes(routes!(settings::set_secret, settings::delete_secret))
        .routes(routes!(settings::rotate))
        .routes(routes!(stores::kv_list))
        .routes(routes!(buckets::head, buckets::get, buckets::put, buckets::delete))
        .routes(routes!(buckets::list))
        .routes(routes!(buckets::sign))
        .routes(routes!(stores::sql_export))
        .routes(routes!(stores::usage))
        .routes(routes!(stores::app_usage))
        .routes(routes!(topics::list))
        .routes(routes!(topics::info))
        .routes(routes!(topics::messages))
        .routes(routes!(topics::replay))
        .routes(routes!(topics::dead_list, topics::dead_drop_all))
        .routes(routes!(topics::dead_retry_all))
        .routes(routes!(topics::dead_show, topics::dead_drop))
        .routes(routes!(topics::dead_retry))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::run))
        .routes(routes!(backup::backup))
        .routes(routes!(backup::restore))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .merge(invoke)
        .merge(kv)
        .merge(sql)
        .merge(publish)
}

/// The description of the API (OpenAPI 3.1), as committed in `docs/openapi.json` and served at `/v1/openapi.json`.
pub fn openapi_json() -> String {
    let mut json = api().into_openapi().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}

/// The admin listener's service.
pub fn router(control: Arc<Control>) -> Router {
    let description: Arc<str> = openapi_json().into();
    let (router, _) = api().split_for_parts();
    router
        .route(
            "/v1/openapi.json",
            get(move || {
                let description = String::from(&*description);
                async move { ([(CONTENT_TYPE, "application/json")], description) }
            }),
        )
        .fallback(|| async {
            ApiError::new(Code::NotFound).detail("the API has no such path; /v1/openapi.json lists them")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&control), auth::require_token))
        .layer(middleware::from_fn(problem::identify))
        .layer(middleware::from_fn(linger::linger))
        .with_state(control)
}

/// `Ok` with no content.
fn no_content() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The node's metrics as a response.
fn exposition(State(control): State<Arc<Control>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], control.metrics.encode())
}
