//! The end-to-end tests' guest for wasi:http 0.2. The path picks what it does, well or badly; `/` lists the paths.
//!
//! It talks to the raw bindings, because most of the bad behaviour (no answer, two answers, a trap in the middle
//! of a body) cannot be expressed in a friendlier library.

mod answer;
mod fetch;
mod files;
mod hoard;
mod misbehave;
mod probe;
mod raw;
mod request;
mod socket;
mod stream;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use request::Query;

const PATHS: &str = "\
/hello /echo /count /download?bytes=N /sse?n=N&ms=M /trailers
/env /headers /random /clock /state /files /do-files /socket?addr=A /log
/status?code=N /burn?ms=N /alloc?mb=N /sleep?ms=N /fetch?url=U /fetch-many?url=U&n=N
/panic /exit?code=N /loop /never /noanswer /twice /bigheaders?kb=N /partial /stall
/hoard?what=fields|responses|requests|pollables&n=N /print?n=N
";

struct Lab;

impl Guest for Lab {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query::parse(query);
        match path {
            "/" => answer::text(out, PATHS),
            "/hello" => answer::text(out, "Hello, World!\n"),
            "/status" => answer::with_status(out, query.number("code", 200) as u16),

            "/echo" => stream::echo(request, out),
            "/count" => stream::count(request, out),
            "/download" => stream::download(out, query.number("bytes", 1024 * 1024)),
            "/sse" => stream::events(out, query.number("n", 5), query.number("ms", 100)),
            "/trailers" => stream::trailers(out),

            "/env" => probe::environment(out),
            "/headers" => probe::headers(&request, out),
            "/random" => probe::random(out),
            "/clock" => probe::clock(out),
            "/state" => probe::state(out),
            "/files" => probe::files(out),
            "/do-files" => answer::json(out, &files::all(&stream::whole(request), raw::step)),
            "/socket" => socket::try_socket(out, query.text("addr", "127.0.0.1:80")),
            "/log" => probe::log(out),
            "/burn" => probe::burn(out, query.number("ms", 100)),
            "/alloc" => probe::allocate(out, query.number("mb", 1)),
            "/sleep" => probe::sleep(out, query.number("ms", 100)),

            "/fetch" => fetch::once(out, query.text("url", "")),
            "/fetch-many" => fetch::many(out, query.text("url", ""), query.number("n", 10)),

            "/panic" => panic!("the lab panics, as it was asked to"),
            "/exit" => misbehave::exit(query.number("code", 0) as u8),
            "/loop" => misbehave::spin(),
            "/never" => misbehave::never(out),
            "/noanswer" => drop(out),
            "/twice" => misbehave::answer_twice(out),
            "/bigheaders" => misbehave::big_headers(out, query.number("kb", 64)),
            "/hoard" => hoard::hold(out, query.text("what", ""), query.number("n", 10)),
            "/print" => probe::print(out, query.number("n", 1000)),
            "/partial" => misbehave::partial(out),
            "/stall" => misbehave::stall(out),
            _ => answer::with_status(out, 404),
        }
    }
}

wasip2::http::proxy::export!(Lab);
