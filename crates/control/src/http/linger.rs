//! What a client still sends after it was answered.
//!
//! A large upload is refused before it has arrived. Closing the connection at once would reset it: the client's next write
//! fails, and often before it has read the answer that says why (RFC 9112, 9.6). So what is left of a request's body is read
//! for a while, and thrown away.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

/// How long the rest of a body is read. nginx's `lingering_time` is the same.
const LINGER: Duration = Duration::from_secs(30);

/// Answers, and then reads what nobody has read of the request.
pub(super) async fn linger(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let lent = Lent(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(head, Body::new(lent.clone()))).await;
    let mut rest = std::mem::take(&mut *lent.lock());
    if !rest.is_end_stream() {
        // At most one for each connection, of which the admin listener bounds the number.
        tokio::spawn(tokio::time::timeout(LINGER, async move { while let Some(Ok(_)) = rest.frame().await {} }));
    }
    response
}

/// A request's body that can be taken back.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
