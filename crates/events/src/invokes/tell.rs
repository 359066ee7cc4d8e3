//! What the destination of a run gets: a CloudEvent, in the topic or as a POST.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minnow_model::{
    Level, StoreId,
    event::{Async, Destination, DestinationUrl, Draft, Event},
    problem::Code,
};
use minnow_runtime::stored::post;
use serde::Serialize;

use super::{
    judge::tell_again,
    lane::write,
    rows::{Key, OpenRun, RESULT_KEPT, RunState, RunStatus, Tell},
};
use crate::{events::Shared, subscriptions::choose};

/// How long a URL may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is told as text, in bytes of JSON; a longer one is base64, which is never more than a third longer than the
/// answer. So an event stays below what a topic takes.
const MAX_TEXT_BYTES: usize = 512 << 10;

/// The data of the event.
#[derive(Serialize)]
struct Data<'a> {
    id: String,
    function: &'a str,
    state: &'static str,
    tries: u32,
    created_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_base64: Option<String>,
    truncated: bool,
}

/// Tells the destination of a run what became of it, and writes down whether that worked.
pub(super) async fn tell(shared: Arc<Shared>, key: Key, open: OpenRun) -> Option<(Code, Option<Duration>)> {
    let OpenRun { status, settings, .. } = open;
    let Some(told) = &status.told else { return None };
    let tries = told.tries.saturating_add(1);
    let sending = async {
        match &told.destination {
            Destination::Topic(topic) => {
                let topic = StoreId { tenant: key.tenant.clone(), app: key.app.clone(), name: topic.clone() };
                publish(&shared, &key, &topic, &status).await
            }
            Destination::Url(url) => send(&shared, &key, url, &status).await,
        }
    };
    let sent = tokio::select! {
        sent = sending => sent,
        // It is told when the node runs again.
        () = shared.deadline() => return None,
    };
    let tell = match sent {
        Ok(()) => Tell::Told { tries },
        Err(reason) => {
            let live = shared.app(&key.tenant, &key.app);
            let choice = live.as_ref().and_then(|live| choose(live, &key.function, |_| true, 0));
            let backoff = match &choice {
                Some(choice) => {
                    choice.newest.spec().asynchronous.as_deref().map_or(Async::default().backoff, |own| own.backoff)
                }
                None => settings.backoff,
            };
            let is_topic = matches!(told.destination, Destination::Topic(_));
            let kept_ms = u64::try_from(RESULT_KEPT.as_millis()).unwrap_or(u64::MAX);
            let until_ms = status.finished_ms.unwrap_or_default().saturating_add(kept_ms);
            match tell_again(&backoff, is_topic, tries, until_ms, shared.now_ms(), rand::random()) {
                Some(due_ms) => Tell::Again { tries, due_ms, reason },
                None => {
                    shared.metrics.async_invokes(&key.tenant, &key.app, &key.function).untold.add(1);
                    let message = format!(
                        "`{}` was not told what became of an asynchronous invoke, after {tries} tries: {reason}",
                        told.destination
                    );
                    match choice {
                        Some(choice) => choice.newest.note(Level::Error, Some(status.id), message),
                        None => tracing::warn!(app = %key.app, function = %key.function, run = %status.id, message),
                    }
                    Tell::GivenUp { tries, reason }
                }
            }
        }
    };
    write(&shared, || shared.rows.tell(status.id, tell.clone())).await;
    None
}

async fn publish(shared: &Shared, key: &Key, topic: &StoreId, status: &RunStatus) -> Result<(), String> {
    let Some(rules) = shared.rules(topic) else {
        return Err("no live version has the topic".into());
    };
    let Event { id, source, kind, subject, time_ms, content_type, data, .. } = event(key, status);
    // The id is given, so that one that was published right before a crash is published once.
    let draft = Draft {
        id: Some(id.to_string()),
        source: Some(source.to_string()),
        kind: Some(kind.to_string()),
        subject: subject.map(|subject| subject.to_string()),
        time_ms,
        content_type: content_type.map(|content_type| content_type.to_string()),
        data,
        ..Draft::default()
    };
    let sent = shared.runtime.publish(topic, &rules, vec![(draft, Duration::ZERO)]).await;
    sent.map(|_| ()).map_err(|error| error.to_string())
}

async fn send(shared: &Shared, key: &Key, url: &DestinationUrl, status: &RunStatus) -> Result<(), String> {
    let live = shared.app(&key.tenant, &key.app);
    let Some(choice) = live.as_ref().and_then(|live| choose(live, &key.function, |_| true, 0)) else {
        return Err("no live version has the function, whose `egress` would allow it".into());
    };
    drop(live);
    let event = event(key, status);
    let Some(request) = post(url.as_str(), event.to_headers(&[]), event.data) else {
        return Err("the URL cannot be sent to".into());
    };
    match shared.runtime.send_for(&choice.newest, request, PATIENCE).await {
        Ok(200..=299) => Ok(()),
        Ok(status) => Err(format!("it answered {status}")),
        Err(error) => Err(error),
    }
}

/// The event that tells of a run.
fn event(Key { app, function, .. }: &Key, status: &RunStatus) -> Event {
    let kind = match status.state {
        RunState::Succeeded => "minnow.invoke.succeeded",
        RunState::Failed | RunState::Waiting | RunState::Running => "minnow.invoke.failed",
    };
    let has_answer = status.status.is_some();
    let text = std::str::from_utf8(&status.answer).ok();
    let text = text.filter(|text| serde_json::to_string(text).is_ok_and(|json| json.len() <= MAX_TEXT_BYTES));
    let data = Data {
        id: status.id.to_string(),
        function: function.as_str(),
        state: status.state.as_str(),
        tries: status.tries,
        created_ms: status.created_ms,
        finished_ms: status.finished_ms,
        status: status.status,
        reason: status.reason.as_deref(),
        answer: text.filter(|_| has_answer),
        answer_base64: (has_answer && text.is_none()).then(|| STANDARD.encode(&status.answer)),
        truncated: status.is_cut,
    };
    Event {
        id: status.id.to_string().into(),
        source: format!("/apps/{app}/functions/{function}").into(),
        kind: kind.into(),
        subject: None,
        time_ms: status.finished_ms,
        content_type: Some("application/json".into()),
        extensions: Default::default(),
        // Texts and numbers can always be written.
        data: serde_json::to_vec(&data).unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use minnow_model::event::MAX_DATA_BYTES;
    use minnow_runtime::stored::MAX_KEPT_ANSWER_BYTES;
    use serde_json::{Value, json};

    use super::*;

    fn status(answer: Vec<u8>) -> RunStatus {
        RunStatus {
            id: minnow_model::RequestId(0xab),
            function: "work".parse().unwrap(),
            state: RunState::Succeeded,
            created_ms: 1000,
            tries: 2,
            due_ms: Some(3000),
            finished_ms: Some(2000),
            status: Some(200),
            reason: None,
            headers: Vec::new(),
            answer: answer.into(),
            is_cut: false,
            told: None,
        }
    }

    fn key() -> Key {
        Key { tenant: Default::default(), app: "shop".parse().unwrap(), function: "work".parse().unwrap() }
    }

    fn data(event: &Event) -> Value {
        serde_json::from_slice(&event.data).unwrap()
    }

    #[test]
    fn an_event_tells_what_became_of_a_run() {
        let told = event(&key(), &status(b"done".to_vec()));
        assert_eq!((&*told.kind, &*told.source), ("minnow.invoke.succeeded", "/apps/shop/functions/work"));
        let id = "000000000000000000000000000000ab";
        assert_eq!(&*told.id, id);
        assert_eq!(
            data(&told),
            json!({ "id": id, "function": "work", "state": "succeeded", "tries": 2, "created_ms": 1000, "finished_ms": 2000,
                    "status": 200, "answer": "done", "truncated": false })
        );
        let failed =
            RunStatus { state: RunState::Failed, status: None, reason: Some("timeout".into()), ..status(Vec::new()) };
        let told = event(&key(), &failed);
        assert_eq!(&*told.kind, "minnow.invoke.failed");
        assert_eq!((&data(&told)["reason"], &data(&told)["answer"]), (&json!("timeout"), &Value::Null));
    }

    #[test]
    fn the_largest_answer_fits_an_event_whatever_is_in_it() {
        for byte in [b'a', 0, 0xff] {
            let told = event(&key(), &status(vec![byte; MAX_KEPT_ANSWER_BYTES]));
            assert!(told.data.len() < MAX_DATA_BYTES, "{byte}: {}", told.data.len());
            let data = data(&told);
            assert_eq!(data["answer"].is_string(), byte == b'a', "{byte}");
            assert_ne!(data["answer"].is_string(), data["answer_base64"].is_string(), "{byte}");
        }
    }
}
