//! Packs the orders of the shop: a worker that no client reaches. The node sends it batches of messages of the topic `orders`, each a
//! CloudEvent, and takes its answer for what has become of them.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use minnow_sdk::{
    event::{self, Acks, Event},
    kv::{Options, Store},
};
use serde::{Deserialize, Serialize};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// How long an order is shown.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest batch, in bytes: the node sends up to 1 MiB of data, and this shop has short orders.
const MAX_REQUEST: u64 = 2 << 20;

/// What is in a message: an order as the function `shop` has published it.
#[derive(Deserialize, Serialize)]
struct Order {
    customer: String,
    item: String,
    quantity: u32,
    placed_ms: u64,
}

/// What the page shows of an order.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    order: Order,
    state: &'static str,
}

struct Fulfil;

impl Guest for Fulfil {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match pack_all(&request) {
            Ok(acks) => answer(out, 200, Acks::CONTENT_TYPE, &acks),
            // The whole batch comes again, each message alone.
            Err(error) => answer(out, 500, "text/plain", &error.to_string()),
        }
    }
}

wasip2::http::proxy::export!(Fulfil);

fn pack_all(request: &IncomingRequest) -> Result<String, Box<dyn std::error::Error>> {
    let shop = Store::open("shop")?;
    let mut acks = Acks::default();
    for event in event::batch(&body(request))? {
        if let Err(error) = pack(&shop, &event) {
            eprintln!("order {}, try {}: {error}", event.id, event.delivery_count());
            acks.retry(&event);
        }
    }
    Ok(acks.to_json()?)
}

/// Packs one order. A message may come twice, after a crash for example: what is done a second time changes nothing.
fn pack(shop: &Store, event: &Event) -> Result<(), Box<dyn std::error::Error>> {
    let order: Order = event.json()?;
    if order.quantity == 0 {
        return Err("nothing was ordered, and nobody can pack that".into());
    }
    let status = serde_json::to_vec(&Status { order, state: "packed" })?;
    let options = Options { time_to_live: Some(KEPT), ..Options::default() };
    shop.set_with(&format!("order/{}", event.id), &status, &options)?;
    // The page looks at this number to see whether there is something new.
    shop.increment("changes", 1)?;
    Ok(())
}

fn body(request: &IncomingRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume()
        && let Ok(stream) = body.stream()
    {
        // What is longer is cut off, and then no JSON.
        let _ = stream.take(MAX_REQUEST).read_to_end(&mut bytes);
    }
    bytes
}

fn answer(out: ResponseOutparam, status: u16, content_type: &str, text: &str) {
    let headers = Fields::from_list(&[("content-type".to_owned(), content_type.as_bytes().to_vec())]);
    let response = OutgoingResponse::new(headers.unwrap_or_else(|_| Fields::new()));
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(out, Ok(response));
    if let Ok(mut stream) = body.write() {
        // Fails only when nobody listens any more.
        let _ = stream.write_all(text.as_bytes());
    }
    let _ = OutgoingBody::finish(body, None);
}
