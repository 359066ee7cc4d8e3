//! The guest that tests and benchmarks of the data services run. The path picks what it does; what fails is told in JSON.

#[path = "../../lab-p2/src/answer.rs"]
#[allow(dead_code)]
mod answer;
mod keyvalue;
mod locks;
#[path = "../../lab-p2/src/request.rs"]
#[allow(dead_code)]
mod request;
mod sql;

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
/lock?name=N&lease=MS&wait=MS&hold=MS&end=release|drop|trap|loop|forget|keep
/config?name=N
";

struct Data;

impl Guest for Data {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query::parse(query);
        let body = body(&request);
        let done = match path.strip_prefix("/kv/").map(|what| keyvalue::call(what, &query, &body)) {
            Some(done) => done,
            None => match path {
                "/" => return answer::text(out, PATHS),
                "/lock" => locks::hold(&query),
                "/config" => Ok(json!({ "value": config::get(query.text("name", "")), "all": config::all() })),
                path => match path.strip_prefix("/sql/") {
                    Some(what) => sql::call(what, &query, &body),
                    None => return answer::with_status(out, 404),
                },
            },
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
