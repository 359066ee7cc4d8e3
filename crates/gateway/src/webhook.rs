//! Webhooks: what others publish to a topic, signed, without a function that runs.
//!
//! What the head says is looked at before the body is read, and the signature before anything in the body is. A refusal names the
//! header that is wrong; neither the secret nor a signature is in any answer or log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header::CONTENT_TYPE, request};
use http_body::Body as HttpBody;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use minnow_model::{
    Code, Problem,
    event::{Draft, MAX_DATA_BYTES},
};
use minnow_runtime::{BodyError, LiveWebhook, data::codes};
use minnow_store::{TopicError, topic::Bound};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    body::{Content, RequestBody},
    config::WEBHOOK_PATIENCE,
    connection::Connection,
    refusal::Refusal,
    signature::{Claim, Doubt},
};

/// Answers a request to a webhook, and counts it: 202 without a body once the event is on the disk.
pub(crate) async fn answer(
    connection: &Arc<Connection>,
    webhook: &LiveWebhook,
    head: &request::Parts,
    incoming: Incoming,
) -> Result<Response<Content>, Refusal> {
    let metrics = &connection.worker.node.metrics;
    let taken = take(connection, webhook, head, incoming).await;
    match taken {
        Ok(()) => {
            metrics.webhook_request(StatusCode::ACCEPTED.as_u16(), None);
            let mut response = Response::new(Content::Empty);
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        Err(refusal) => {
            metrics.webhook_request(refusal.problem.status, Some(refusal.problem.code));
            Err(refusal)
        }
    }
}

async fn take(
    connection: &Arc<Connection>,
    webhook: &LiveWebhook,
    head: &request::Parts,
    incoming: Incoming,
) -> Result<(), Refusal> {
    let node = &*connection.worker.node;
    let Some(key) = &webhook.key else { return Err(Code::SecretMissing.into()) };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claim = Claim::read(&webhook.signature, &head.headers, now_s).map_err(not_believed)?;
    let most = MAX_DATA_BYTES as u64;
    if incoming.size_hint().lower() > most {
        return Err(too_large());
    }
    let _places = places(&webhook.places, &node.webhook_places).await?;
    let body = RequestBody::new(incoming, most, Arc::clone(connection));
    let body = match timeout(WEBHOOK_PATIENCE, whole(body)).await {
        Ok(body) => body?,
        Err(_) => return Err(Code::RequestTimeout.into()),
    };
    claim.holds(key, &body).map_err(not_believed)?;
    let content_type = match head.headers.get(CONTENT_TYPE).map(|value| value.to_str().map(str::to_owned)).transpose() {
        Ok(content_type) => content_type,
        Err(_) => return Err(with_detail(Code::InvalidEvent, "its `content-type` is not ASCII")),
    };
    let (id, kind) = claim.names(&webhook.signature, &body);
    let source = Some(format!("/webhooks/{}", webhook.topic.name));
    let draft = Draft { id, kind, source, ..Draft::plain(content_type, body) };
    let published = node.runtime.publish(&webhook.topic, &webhook.rules, vec![(draft, Duration::ZERO)]).await;
    published.map(drop).map_err(|error| not_taken(webhook, &error))
}

/// A place of the webhook's and one of the node's, for a body.
async fn places<'a>(
    own: &'a Semaphore,
    of_node: &'a Semaphore,
) -> Result<(SemaphorePermit<'a>, SemaphorePermit<'a>), Refusal> {
    // Its own first, so that those that wait at one webhook keep no place from another.
    let both = async { Ok::<_, tokio::sync::AcquireError>((own.acquire().await?, of_node.acquire().await?)) };
    match timeout(WEBHOOK_PATIENCE, both).await {
        Ok(Ok(places)) => Ok(places),
        Ok(Err(_)) | Err(_) => Err(Code::NodeOverloaded.into()),
    }
}

/// All of a body, which bounds itself.
async fn whole(mut body: impl HttpBody<Data = Bytes, Error = BodyError> + Unpin) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame {
            // Trailers are of no use here.
            Ok(frame) => whole.extend_from_slice(frame.data_ref().map_or(&[][..], |piece| piece)),
            Err(BodyError::TooLarge(_)) => return Err(too_large()),
            Err(BodyError::Disconnected | BodyError::Guest) => {
                return Err(Refusal::bad_request("the request broke off"));
            }
        }
    }
    Ok(whole.freeze())
}

fn with_detail(code: Code, detail: impl Into<String>) -> Refusal {
    Box::new(Problem::new(code).detail(detail)).into()
}

fn too_large() -> Refusal {
    with_detail(Code::TooLarge, format!("a webhook takes at most {MAX_DATA_BYTES} bytes"))
}

fn not_believed(doubt: Doubt) -> Refusal {
    with_detail(Code::SignatureInvalid, doubt.to_string())
}

/// What the sender is told of a topic that did not take its event. It has signed, and yet is a stranger: nothing of the node's files.
fn not_taken(webhook: &LiveWebhook, error: &TopicError) -> Refusal {
    let code = codes::of_topic(error);
    match error {
        TopicError::Event(mistake) => with_detail(code, mistake.to_string()),
        TopicError::Full(Bound::Bytes(_) | Bound::Messages(_)) => {
            with_detail(code, "the topic holds as much as it may; try again later")
        }
        error if error.is_refusal() => code.into(),
        error => {
            let topic = &webhook.topic;
            tracing::error!(app = %topic.app, topic = %topic.name, %error, "a webhook cannot publish");
            code.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_webhook_whose_places_are_taken_keeps_none_of_the_nodes() {
        let (own, other, of_node) = (Semaphore::new(1), Semaphore::new(1), Semaphore::new(2));
        let held = places(&own, &of_node).await.unwrap();
        let mut waits = Box::pin(places(&own, &of_node));
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(of_node.available_permits(), 1, "who waits has none");
        assert!(places(&other, &of_node).await.is_ok());
        assert_eq!(waits.await.unwrap_err().problem.code, Code::NodeOverloaded);
        // One that is given back goes to who waits.
        let (waited, ()) = tokio::join!(places(&own, &of_node), async { drop(held) });
        assert!(waited.is_ok());
    }

    #[tokio::test]
    async fn a_body_is_taken_whole_or_not_at_all() {
        let pieces = |pieces: Vec<Result<&'static str, BodyError>>| {
            StreamBody::new(stream::iter(pieces).map(|piece| piece.map(|piece| Frame::data(Bytes::from(piece)))))
        };
        for (body, expected) in [
            (vec![], Ok("")),
            (vec![Ok("a"), Ok(""), Ok("bc")], Ok("abc")),
            (vec![Ok("a"), Err(BodyError::Disconnected)], Err(Code::BadRequest)),
            (vec![Ok("a"), Err(BodyError::TooLarge(1))], Err(Code::TooLarge)),
        ] {
            let whole = whole(pieces(body)).await.map_err(|refusal| refusal.problem.code);
            assert_eq!(whole, expected.map(Bytes::from));
        }
    }
}
