//! The tour's pages, rendered on the server from the templates in views/.
//!
//! `/` shows the request as the function sees it and what else there is to try; `/hello/NAME` greets.

use minijinja::{Environment, Value, context};
use wstd::http::{Body, Error, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    if path == "/" {
        return page(StatusCode::OK, "index.html", about(&request));
    }
    match path.strip_prefix("/hello/") {
        Some(name) => {
            let name = decode(name);
            page(StatusCode::OK, "hello.html", context! { name, ..about(&request) })
        }
        None => page(StatusCode::NOT_FOUND, "missing.html", about(&request)),
    }
}

/// What every page may show.
fn about(request: &Request<Body>) -> Value {
    let mut headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    context! {
        greeting => std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned()),
        method => request.method().as_str(),
        path => request.uri().path(),
        query => request.uri().query(),
        host => request.uri().authority().map(|authority| authority.as_str()),
        headers,
    }
}

fn page(status: StatusCode, view: &str, values: Value) -> Result<Response<Body>, Error> {
    let mut views = Environment::new();
    views.add_template("layout.html", include_str!("../views/layout.html"))?;
    views.add_template("index.html", include_str!("../views/index.html"))?;
    views.add_template("hello.html", include_str!("../views/hello.html"))?;
    views.add_template("missing.html", include_str!("../views/missing.html"))?;
    let html = views.get_template(view)?.render(values)?;
    Ok(Response::builder().status(status).header("content-type", "text/html; charset=utf-8").body(html.into())?)
}

/// Undoes a URL's percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%');
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(hex.unwrap_or(first));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
