//! Blobs through `wasi:blobstore`, in both versions that components are built for.

use serde_json::json;

use crate::{Done, request::Query};

mod draft {
    wit_bindgen::generate!({
        path: ["../../wit/io", "../../wit/blobstore-draft"],
        inline: "
            package minnow:guest;
            world draft {
                import wasi:blobstore/blobstore@0.2.0-draft;
            }
        ",
        world: "minnow:guest/draft",
        generate_all,
    });
}

mod draft_2024_09_01 {
    wit_bindgen::generate!({
        path: ["../../wit/io", "../../wit/blobstore-draft-2024-09-01"],
        inline: "
            package minnow:guest;
            world draft-of-2024 {
                import wasi:blobstore/blobstore@0.2.0-draft-2024-09-01;
            }
        ",
        world: "minnow:guest/draft-of-2024",
        generate_all,
    });
}

pub fn call(what: &str, query: &Query, body: &[u8]) -> Done {
    match what.split_once('/') {
        Some(("draft", what)) => draft_call(what, query, body),
        Some(("2024-09-01", what)) => draft_2024_09_01_call(what, query, body),
        _ => Err("no such version".into()),
    }
}

macro_rules! calls {
    ($version:ident, $call:ident) => {
        fn $call(what: &str, query: &Query, body: &[u8]) -> Done {
            use $version::wasi::{
                blobstore::{
                    blobstore::{self, ObjectId},
                    types::{IncomingValue, OutgoingValue},
                },
                io::streams::{OutputStream, StreamError},
            };

            /// As `std::io::Write::write_all` does it.
            fn write(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), String> {
                let told = |error| match error {
                    StreamError::Closed => "closed".to_owned(),
                    StreamError::LastOperationFailed(error) => error.to_debug_string(),
                };
                while !bytes.is_empty() {
                    let room = stream.check_write().map_err(told)?;
                    let (now, later) = bytes.split_at(bytes.len().min(room as usize));
                    if now.is_empty() {
                        stream.subscribe().block();
                        continue;
                    }
                    stream.write(now).map_err(told)?;
                    bytes = later;
                }
                stream.blocking_flush().map_err(told)
            }

            let (container, name) = (query.text("store", "uploads"), query.text("key", ""));
            let id = |container: &str, object: &str| ObjectId { container: container.into(), object: object.into() };
            Ok(match what {
                "exists" => json!({ "exists": blobstore::container_exists(container)? }),
                "create" => json!({ "name": blobstore::create_container(container)?.name()? }),
                "destroy" => json!({ "done": blobstore::delete_container(container)? }),
                // Placed first, as Spin's examples do; the stream is still open when it is finished.
                "put" => {
                    let container = blobstore::get_container(container)?;
                    let value = OutgoingValue::new_outgoing_value();
                    container.write_data(name, &value)?;
                    let stream = value.outgoing_value_write_body().map_err(|()| "the body was taken")?;
                    let again = value.outgoing_value_write_body().is_err();
                    write(&stream, body)?;
                    OutgoingValue::finish(value)?;
                    let late = write(&stream, b"late").err();
                    json!({ "late": late, "once": again })
                }
                // The body first, in pieces of 4 KiB, as wasmCloud's examples do.
                "put-body-first" => {
                    let container = blobstore::get_container(container)?;
                    let value = OutgoingValue::new_outgoing_value();
                    let stream = value.outgoing_value_write_body().map_err(|()| "the body was taken")?;
                    let (first, rest) = body.split_at(body.len().min(100_000));
                    for piece in first.chunks(4096) {
                        stream.blocking_write_and_flush(piece).map_err(|error| error.to_string())?;
                    }
                    container.write_data(name, &value)?;
                    for piece in rest.chunks(4096) {
                        stream.blocking_write_and_flush(piece).map_err(|error| error.to_string())?;
                    }
                    drop(stream);
                    OutgoingValue::finish(value)?;
                    json!({})
                }
                // Nobody ever says where it goes.
                "put-nowhere" => {
                    let value = OutgoingValue::new_outgoing_value();
                    let stream = value.outgoing_value_write_body().map_err(|()| "the body was taken")?;
                    let written = write(&stream, body).err();
                    drop(stream);
                    json!({ "written": written, "finished": OutgoingValue::finish(value).err() })
                }
                "put-half" => {
                    let container = blobstore::get_container(container)?;
                    let value = OutgoingValue::new_outgoing_value();
                    container.write_data(name, &value)?;
                    let stream = value.outgoing_value_write_body().map_err(|()| "the body was taken")?;
                    write(&stream, body)?;
                    drop(value);
                    json!({ "late": write(&stream, b"late").err() })
                }
                "get" => {
                    let container = blobstore::get_container(container)?;
                    let value = container.get_data(name, query.number("start", 0), query.number("end", u64::MAX))?;
                    let size = value.size();
                    let bytes = IncomingValue::incoming_value_consume_sync(value)?;
                    json!({ "size": size, "text": String::from_utf8_lossy(&bytes) })
                }
                "get-stream" => {
                    let container = blobstore::get_container(container)?;
                    let value = container.get_data(name, query.number("start", 0), query.number("end", u64::MAX))?;
                    let stream = IncomingValue::incoming_value_consume_async(value)?;
                    let mut bytes = 0;
                    let ended = loop {
                        match stream.blocking_read(10_000) {
                            Ok(piece) => bytes += piece.len(),
                            Err(StreamError::Closed) => break None,
                            Err(StreamError::LastOperationFailed(error)) => break Some(error.to_debug_string()),
                        }
                    };
                    json!({ "bytes": bytes, "error": ended })
                }
                "info" => {
                    let container = blobstore::get_container(container)?;
                    let (info, has) = (container.object_info(name)?, container.has_object(name)?);
                    json!({ "name": info.name, "container": info.container, "size": info.size, "created_at": info.created_at, "has": has })
                }
                "container" => {
                    let container = blobstore::get_container(container)?;
                    json!({ "name": container.name()?, "info": container.info()?.name })
                }
                "list" => {
                    let names = blobstore::get_container(container)?.list_objects()?;
                    let (skipped, mut is_over) = names.skip_stream_object_names(query.number("skip", 0))?;
                    let mut all = Vec::new();
                    while !is_over {
                        let (some, last) = names.read_stream_object_names(query.number("page", 2))?;
                        all.extend(some);
                        is_over = last;
                    }
                    json!({ "skipped": skipped, "names": all })
                }
                "delete" => {
                    let names: Vec<String> = name.split(',').map(str::to_owned).collect();
                    blobstore::get_container(container)?.delete_objects(&names)?;
                    json!({})
                }
                "clear" => {
                    blobstore::get_container(container)?.clear()?;
                    json!({})
                }
                "copy" => {
                    let to = id(query.text("to-store", container), query.text("to", ""));
                    blobstore::copy_object(&id(container, name), &to)?;
                    json!({})
                }
                "move" => {
                    let to = id(query.text("to-store", container), query.text("to", ""));
                    blobstore::move_object(&id(container, name), &to)?;
                    json!({})
                }
                _ => return Err("no such call".into()),
            })
        }
    };
}

calls!(draft, draft_call);
calls!(draft_2024_09_01, draft_2024_09_01_call);
