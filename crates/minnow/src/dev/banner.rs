//! What `minnow dev` says when it is ready.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use minnow_model::{Manifest, Version};

use crate::output::{BOLD, CYAN, DIM, GREEN};

/// Where the dev node is.
pub struct Place<'a> {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub app_dir: &'a Path,
    pub data_dir: &'a Path,
}

/// The URLs, what they lead to, and what to do next.
pub fn banner(manifest: &Manifest, version: &Version, place: &Place<'_>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = render(&mut text, manifest, version, place);
    text
}

fn render(out: &mut String, manifest: &Manifest, version: &Version, place: &Place<'_>) -> std::fmt::Result {
    let name = &manifest.name;
    let port = place.http.port();
    writeln!(out, "\n{GREEN}{BOLD}minnow dev{BOLD:#}{GREEN:#}  {BOLD}{name}@{version}{BOLD:#} is live\n")?;
    writeln!(out, "  {CYAN}http://{}/{CYAN:#}", reachable(place.http))?;
    writeln!(out, "  {CYAN}http://{name}.localhost:{port}/{CYAN:#}")?;
    writeln!(out, "  {DIM}control API  http://{}/v1{DIM:#}\n", reachable(place.admin))?;
    let routes: Vec<(String, &str)> = manifest
        .functions
        .iter()
        .flat_map(|(function, spec)| spec.routes.iter().map(move |route| (route.to_string(), function.as_str())))
        .collect();
    let statics = manifest.static_dirs.iter();
    let width = statics.clone().map(|(prefix, _)| prefix.len()).chain(routes.iter().map(|(route, _)| route.len()));
    let width = width.max().unwrap_or(0);
    for (route, function) in &routes {
        writeln!(out, "  {route:width$}  → {BOLD}{function}{BOLD:#}")?;
    }
    for (prefix, folder) in statics {
        writeln!(out, "  {prefix:width$}  → files in {folder}/")?;
    }
    for (function, _) in manifest.functions.iter().filter(|(_, spec)| spec.routes.is_empty()) {
        writeln!(out, "  {:width$}  {BOLD}{function}{BOLD:#} has no route: minnow invoke {name}/{function}", "–")?;
    }
    let unwatched: Vec<&str> = manifest
        .functions
        .iter()
        .filter(|(_, spec)| spec.build.is_some() && spec.watch.is_empty())
        .map(|(function, _)| function.as_str())
        .collect();
    writeln!(out, "\n  {BOLD}Next{BOLD:#}")?;
    writeln!(out, "  edit     the files in {}: a change is live once it is built", place.app_dir.display())?;
    if !unwatched.is_empty() {
        let names = unwatched.join(", ");
        writeln!(out, "           {DIM}add `watch = [\"src/**\"]` to {names} to build on change{DIM:#}")?;
    }
    let token = place.data_dir.join("admin.token");
    writeln!(out, "  inspect  minnow login http://{} --token-file {}", reachable(place.admin), token.display())?;
    writeln!(out, "           minnow status {name}   (in another terminal; also invoke, logs, versions)")?;
    writeln!(out, "  publish  minnow publish 0.1.0 && minnow deploy 0.1.0   (to a node of your own: minnow login)")?;
    writeln!(out, "  learn    minnow --help, docs/guide.md")?;
    writeln!(out, "\n  {DIM}Ctrl-C ends it. The log of the app follows.{DIM:#}")
}

/// An address that a browser can open: every address of this machine includes loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_shows_urls_routes_and_static_folders() {
        let text = r#"
            name = "shop"
            [functions.api]
            wasm = "api.wasm"
            routes = ["/api/{*rest}", "POST /submit"]
            [static]
            "/" = "public"
        "#;
        let manifest = Manifest::parse(text, "minnow.toml").unwrap().manifest;
        let place = Place {
            http: "0.0.0.0:7702".parse().unwrap(),
            admin: "127.0.0.1:7703".parse().unwrap(),
            app_dir: Path::new("shop"),
            data_dir: Path::new("shop/.minnow"),
        };
        let shown = banner(&manifest, &"0.1.0-dev.3".parse().unwrap(), &place);
        let plain = anstream::adapter::strip_str(&shown).to_string();
        for expected in [
            "shop@0.1.0-dev.3 is live",
            "  http://127.0.0.1:7702/\n",
            "  http://shop.localhost:7702/\n",
            "  /api/{*rest}  → api\n",
            "  POST /submit  → api\n",
            "  /             → files in public/\n",
            "minnow login http://127.0.0.1:7703 --token-file shop/.minnow/admin.token",
        ] {
            assert!(plain.contains(expected), "{expected:?} is not in\n{plain}");
        }
    }
}
