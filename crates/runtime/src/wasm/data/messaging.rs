//! `wasi:messaging`: publishing to topics, and the messages that a guest is given.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use minnow_model::{
    StoreKind, StoreName,
    event::{AttributeName, Draft, Event, MAX_DATA_BYTES, time_text},
};
use minnow_store::{TopicError, topic::Delivery};
use wasmtime::component::{Linker, Resource};

use super::{DataView, HasDataView, failure::Told, topic::Failure};
use crate::{
    data::{Denied, Need, topics::Message as Outgoing},
    deliver,
    wasm::state::GuestState,
};

pub(in crate::wasm) mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/messaging-draft",
        world: "wasi:messaging/messaging-core",
        imports: {
            "wasi:messaging/producer.send": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "wasi:messaging/types.client": super::Client,
            "wasi:messaging/types.message": super::Message,
        },
        trappable_error_type: { "wasi:messaging/types.error" => super::Failure },
    });
}

use bindings::wasi::messaging::{producer, types};

/// How much of the host's memory the messages may take that a sandbox has at once, in bytes: some twenty of the largest.
const MAX_MESSAGES_BYTES: usize = 16 << 20;

/// What a message takes beside its data and attributes, in bytes.
const MESSAGE_BYTES: usize = 256;

/// A guest's connection to the only place there is.
pub struct Client;

/// A message that a guest has been given, or makes.
#[derive(Default)]
pub struct Message {
    topic: Option<StoreName>,
    content_type: Option<String>,
    data: Bytes,
    metadata: BTreeMap<String, String>,
    /// What it counts for.
    bytes: usize,
}

impl Message {
    fn size(&self) -> usize {
        let metadata: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len() + MESSAGE_BYTES).sum();
        let content_type = self.content_type.as_ref().map_or(0, String::len);
        MESSAGE_BYTES + self.data.len() + content_type + metadata
    }
}

impl Told<TopicError> for types::Error {
    fn denied(denied: Denied) -> Self {
        Self::PermissionDenied(denied.to_string())
    }

    fn refused(why: String) -> Self {
        Self::Other(why)
    }

    fn other(message: String) -> Self {
        Self::Other(message)
    }

    fn of(error: TopicError) -> Result<Self, TopicError> {
        match error {
            error @ (TopicError::Busy | TopicError::Unavailable(_)) => Ok(Self::Connection(error.to_string())),
            error => Err(error),
        }
    }
}

impl DataView<'_> {
    /// Gives the guest a message of a topic.
    pub(in crate::wasm) fn received(
        &mut self,
        topic: &StoreName,
        delivery: &Delivery,
    ) -> wasmtime::Result<Resource<Message>> {
        let event = &delivery.event;
        self.keep(Message {
            topic: Some(topic.clone()),
            content_type: event.content_type.as_deref().map(str::to_owned),
            data: event.data.clone(),
            metadata: attributes(event, delivery),
            bytes: 0,
        })
    }

    fn keep(&mut self, message: Message) -> wasmtime::Result<Resource<Message>> {
        let handle = self.table.push(message)?;
        self.recount(&handle)?;
        Ok(handle)
    }

    /// Changes a message.
    fn change(&mut self, handle: &Resource<Message>, change: impl FnOnce(&mut Message)) -> wasmtime::Result<()> {
        change(self.table.get_mut(handle)?);
        self.recount(handle)
    }

    /// Counts what a message takes now. An error ends the guest.
    fn recount(&mut self, handle: &Resource<Message>) -> wasmtime::Result<()> {
        let message = self.table.get_mut(handle)?;
        let bytes = message.size();
        let before = std::mem::replace(&mut message.bytes, bytes);
        self.open.messages_bytes = self.open.messages_bytes.saturating_sub(before).saturating_add(bytes);
        if self.open.messages_bytes > MAX_MESSAGES_BYTES {
            wasmtime::bail!(
                "the function has messages of more than {MAX_MESSAGES_BYTES} bytes at once; send or drop those that it has made"
            );
        }
        Ok(())
    }

    /// The guest gives a message up.
    fn take(&mut self, handle: Resource<Message>) -> wasmtime::Result<Message> {
        let message = self.table.delete(handle)?;
        self.open.messages_bytes = self.open.messages_bytes.saturating_sub(message.bytes);
        Ok(message)
    }
}

/// All attributes of an event but the type of its data, and what a delivery adds.
fn attributes(event: &Event, delivery: &Delivery) -> BTreeMap<String, String> {
    let (sequence, count) = deliver::counts(delivery);
    let mut all: BTreeMap<String, String> =
        event.extensions.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    let subject = event.subject.as_deref().map(|subject| ("subject", subject.to_owned()));
    let time = event.time_ms.map(|time_ms| ("time", time_text(time_ms)));
    let own = [
        Some(("id", event.id.to_string())),
        Some(("source", event.source.to_string())),
        Some(("type", event.kind.to_string())),
        subject,
        time,
        Some((SEQUENCE, sequence)),
        Some((DELIVERY_COUNT, count)),
    ];
    all.extend(own.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)));
    all
}

/// What a delivery adds to the attributes. They and the time are of that message and not of one that is sent on.
const SEQUENCE: &str = "sequence";
const DELIVERY_COUNT: &str = "deliverycount";

/// The message as a topic takes it.
fn outgoing(message: Message) -> Result<Outgoing, Failure> {
    let Message { content_type, data, metadata, .. } = message;
    let mut draft = Draft::plain(content_type, data);
    let mut delay = Duration::ZERO;
    for (key, value) in metadata {
        match key.as_str() {
            "id" => draft.id = Some(value),
            "source" => draft.source = Some(value),
            "type" => draft.kind = Some(value),
            "subject" => draft.subject = Some(value),
            "time" | SEQUENCE | DELIVERY_COUNT => {}
            "delay-ms" => match value.parse() {
                Ok(ms) => delay = Duration::from_millis(ms),
                Err(_) => {
                    let shown: String = value.chars().take(64).collect();
                    return Err(Failure::Refused(format!(
                        "`delay-ms` is a whole number of milliseconds, not `{}`",
                        shown.escape_debug()
                    )));
                }
            },
            name => {
                let name: AttributeName = name.parse().map_err(TopicError::Event)?;
                draft.extensions.insert(name, value);
            }
        }
    }
    Ok((draft, delay))
}

impl types::Host for DataView<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<types::Error> {
        self.tell(failure)
    }
}

impl types::HostClient for DataView<'_> {
    fn connect(&mut self, _name: String) -> Result<Resource<Client>, Failure> {
        Ok(self.table.push(Client)?)
    }

    fn disconnect(&mut self, client: Resource<Client>) -> Result<(), Failure> {
        self.table.get(&client)?;
        Ok(())
    }

    fn drop(&mut self, client: Resource<Client>) -> wasmtime::Result<()> {
        self.table.delete(client)?;
        Ok(())
    }
}

impl types::HostMessage for DataView<'_> {
    fn new(&mut self, data: Vec<u8>) -> wasmtime::Result<Resource<Message>> {
        self.keep(Message { data: data.into(), ..Message::default() })
    }

    fn topic(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.topic.as_ref().map(StoreName::to_string))
    }

    fn content_type(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<Message>, content_type: String) -> wasmtime::Result<()> {
        self.change(&message, |message| message.content_type = Some(content_type))
    }

    fn data(&mut self, message: Resource<Message>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&message)?.data.to_vec())
    }

    fn set_data(&mut self, message: Resource<Message>, data: Vec<u8>) -> wasmtime::Result<()> {
        self.change(&message, |message| message.data = data.into())
    }

    fn metadata(&mut self, message: Resource<Message>) -> wasmtime::Result<Option<types::Metadata>> {
        let metadata = &self.table.get(&message)?.metadata;
        Ok((!metadata.is_empty()).then(|| metadata.clone().into_iter().collect()))
    }

    fn add_metadata(&mut self, message: Resource<Message>, key: String, value: String) -> wasmtime::Result<()> {
        self.change(&message, |message| drop(message.metadata.insert(key, value)))
    }

    fn set_metadata(&mut self, message: Resource<Message>, metadata: types::Metadata) -> wasmtime::Result<()> {
        self.change(&message, |message| message.metadata = metadata.into_iter().collect())
    }

    fn remove_metadata(&mut self, message: Resource<Message>, key: String) -> wasmtime::Result<()> {
        self.change(&message, |message| drop(message.metadata.remove(&key)))
    }

    fn drop(&mut self, message: Resource<Message>) -> wasmtime::Result<()> {
        self.take(message)?;
        Ok(())
    }
}

impl producer::Host for DataView<'_> {
    async fn send(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Message>,
    ) -> Result<(), Failure> {
        self.table.get(&client)?;
        let message = self.take(message)?;
        let function = self.function()?;
        let granted = function.store(StoreKind::Topic, &topic, Need::Write)?;
        // Granted is only what the app's manifest declares, which has its rules.
        let rules = granted.topic.as_ref().ok_or_else(|| wasmtime::format_err!("the topic has no rules"))?;
        function.runtime().publish(&granted.store, rules, vec![outgoing(message)?]).await?;
        Ok(())
    }
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    producer::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}

// The largest message fits with its attributes, and others beside it.
const _: () = assert!(MAX_MESSAGES_BYTES > 16 * MAX_DATA_BYTES);
