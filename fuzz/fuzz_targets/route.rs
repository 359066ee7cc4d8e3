//! Routes, one a line, then a request: `METHOD PATH` in the last line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minnow_model::{
    RoutePattern,
    route::{Found, Router},
};

fuzz_target!(|text: &str| {
    let (routes, request) = text.rsplit_once('\n').unwrap_or(("", text));
    let routes: Vec<RoutePattern> = routes.lines().filter_map(|line| line.parse().ok()).collect();
    let count = routes.len();
    let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
    if let Ok(router) = Router::new(routes.into_iter().zip(0..))
        && let Found::Function { index, script_len, .. } = router.find(method, path)
    {
        assert!(index < count);
        assert!(path.is_char_boundary(script_len));
    }
});
