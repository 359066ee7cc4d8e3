//! The guest that tests and benchmarks of the data services run. The path picks what it does; what fails is told in JSON.

#[path = "../../lab-p2/src/answer.rs"]
#[allow(dead_code)]
mod answer;
mod blob;
mod blobstore;
mod events;
mod keyvalue;
mod locks;
#[path = "../../lab-p2/src/request.rs"]
#[allow(dead_code)]
mod request;
mod sql;
mod topic;

use std::io::Read as _;

use minnow_sdk::config;
use request::Query;
use serde_json::{Value, json};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

const PATHS: &str = "\
/kv/get /kv/set /kv/delete /kv/exists /kv/entry /kv/keys /kv/add /kv/append /kv/many /kv/batch /kv/gets?n=N /kv/looks?n=N   ?store=S&key=K
/sql/run /sql/query /sql/batch /sql/script /sql/transfer /sql/leave-open /sql/forget /sql/cursors?n=N /sql/gets?n=N ?store=S
/blob/put /blob/get /blob/set /blob/text /blob/head /blob/delete /blob/list /blob/keys /blob/copy /blob/sign   ?store=S&key=K
/blob/fill?bytes=N&end=finish|drop|trap|forget|stay /blob/uploads?n=N /blob/readers?n=N /blob/overtaken          ?store=S&key=K
/wasi/draft/CALL /wasi/2024-09-01/CALL   ?store=S&key=K
/lock?name=N&lease=MS&wait=MS&hold=MS&end=release|drop|trap|loop|forget|keep
/topic?topic=T&key=K&id=I&type=T&subject=S&attribute=NAME=VALUE&content-type=T&delay=MS&n=N
/events/sends?n=N&own-ids=0|1 /events/send-time ?topic=T   /events/taken
/config?name=N
";

struct Data;

impl Guest for Data {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query::parse(query);
        let service = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let done = match (path, service) {
            ("/", _) => return answer::text(out, PATHS),
            // These two have no room for a body in memory.
            ("/blob/put", _) => blob::put(&query, request),
            ("/blob/get", _) => return blob::get(&query, out),
            ("/lock", _) => locks::hold(&query),
            ("/topic", _) => topic::send(&query, &body(&request)),
            ("/config", _) => Ok(json!({ "value": config::get(query.text("name", "")), "all": config::all() })),
            (_, (".minnow", what)) => match events::take(what, &request) {
                Ok(done) => Ok(done),
                // A failure, so that the event comes again.
                Err(error) => {
                    println!("the event is not taken: {error}");
                    return answer::with_status(out, 500);
                }
            },
            (_, ("events", what)) => events::call(what, &query, &body(&request)),
            (_, ("kv", what)) => keyvalue::call(what, &query, &body(&request)),
            (_, ("sql", what)) => sql::call(what, &query, &body(&request)),
            (_, ("blob", what)) => blob::call(what, &query, &body(&request)),
            (_, ("wasi", what)) => blobstore::call(what, &query, &body(&request)),
            _ => return answer::with_status(out, 404),
        };
        let done = done.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        answer::json(out, &done);
    }
}

type Done = Result<Value, Box<dyn std::error::Error>>;

fn body(request: &IncomingRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume()
        && let Ok(mut stream) = body.stream()
    {
        let _ = stream.read_to_end(&mut bytes);
    }
    bytes
}

wasip2::http::proxy::export!(Data);
