//! Renders its pages on the server, from the templates in views/.

use minijinja::{Environment, Value, context};
use wstd::http::{Body, Error, Request, Response, StatusCode};

/// Called once for each request, in a sandbox of its own.
#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    match request.uri().path() {
        "/" => page(StatusCode::OK, context! { greeting }),
        path => page(StatusCode::NOT_FOUND, context! { missing => path }),
    }
}

fn page(status: StatusCode, values: Value) -> Result<Response<Body>, Error> {
    let mut views = Environment::new();
    views.add_template("layout.html", include_str!("../views/layout.html"))?;
    views.add_template("index.html", include_str!("../views/index.html"))?;
    let html = views.get_template("index.html")?.render(values)?;
    Ok(Response::builder().status(status).header("content-type", "text/html; charset=utf-8").body(html.into())?)
}
