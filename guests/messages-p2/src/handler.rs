//! Prints each message, and then does what its text says: a word, and what belongs to it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

wit_bindgen::generate!({ path: "../../wit/messaging-draft", world: "messaging-core" });

use exports::wasi::messaging::incoming_handler::{Error, Guest, Message};
use wasi::messaging::{producer, types::Client};

static CALLS: AtomicU32 = AtomicU32::new(0);

struct Handler;

impl Guest for Handler {
    fn handle(message: Message) -> Result<(), Error> {
        let call = CALLS.fetch_add(1, Relaxed) + 1;
        let text = String::from_utf8_lossy(&message.data()).into_owned();
        let topic = message.topic().unwrap_or_default();
        let content_type = message.content_type().unwrap_or_default();
        let mut metadata = message.metadata().unwrap_or_default();
        metadata.sort();
        let metadata: Vec<String> = metadata.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        println!("call {call}: {text} of {topic} as {content_type} with {}", metadata.join(" "));
        let (act, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match act {
            "fail" => Err(Error::Other(rest.to_owned())),
            "trap" => panic!("as told"),
            "burn" => loop {
                std::hint::black_box(0);
            },
            // Until the host has no more room for them.
            "hoard" => {
                let mut all = Vec::new();
                loop {
                    all.push(Message::new(&vec![0; 700_000]));
                }
            }
            "forward" => send(rest, message),
            "send" => {
                let sent = Message::new(b"a draft");
                sent.set_data(b"a message");
                sent.set_content_type("text/plain");
                sent.set_metadata(&[("gone".to_owned(), "1".to_owned()), ("type".to_owned(), "t".to_owned())]);
                sent.add_metadata("type", "order.sent");
                sent.add_metadata("partitionkey", "ada");
                sent.add_metadata("region", "eu");
                sent.remove_metadata("gone");
                send(rest, sent)
            }
            "delay" => {
                let sent = Message::new(b"later");
                sent.add_metadata("delay-ms", rest);
                send("out", sent)
            }
            "odd" => {
                let sent = Message::new(b"odd");
                sent.add_metadata("Not A Name", "1");
                send("out", sent)
            }
            _ => Ok(()),
        }
    }
}

/// Says in the log why it could not.
fn send(topic: &str, message: Message) -> Result<(), Error> {
    let client = Client::connect("any")?;
    let sent = producer::send(&client, topic, message);
    match &sent {
        Ok(()) => println!("sent to {topic}"),
        Err(error) => println!("not sent to {topic}: {error:?}"),
    }
    client.disconnect()?;
    Ok(())
}

export!(Handler);
