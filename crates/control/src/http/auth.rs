//! The bearer token (RFC 6750) of a request.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{
    HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use minnow_model::Code;

use super::ApiError;
use crate::Control;

/// Lets a request under `/v1` through when it has a token, and notes whose it is. Unknown paths are refused the same way, so
/// that a stranger learns nothing.
pub(super) async fn require_token(State(control): State<Arc<Control>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/v1/") || path == "/v1/openapi.json" {
        return next.run(request).await;
    }
    let presented = request.headers().get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    match presented.and_then(|token| control.tokens.authenticate(token)) {
        Some(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        None => {
            let mut response = ApiError::new(Code::Unauthorized)
                .detail("send `authorization: Bearer TOKEN`; the first token is in DATA_DIR/admin.token")
                .into_response();
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

/// The token of an `authorization` header. The scheme's name has no case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::bearer;

    #[test]
    fn the_token_is_read_from_the_header() {
        for (value, expected) in
            [("Bearer x", Some("x")), ("bearer  x ", Some("x")), ("Basic x", None), ("x", None), ("", None)]
        {
            assert_eq!(bearer(value), expected, "{value}");
        }
    }
}
