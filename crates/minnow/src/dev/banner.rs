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
    let webhooks: Vec<(String, String)> = manifest
        .topics
        .iter()
        .filter_map(|(topic, spec)| Some((spec.webhook.as_ref()?.route().to_string(), topic.to_string())))
        .collect();
    let statics = manifest.static_dirs.iter();
    let width = statics.clone().map(|(prefix, _)| prefix.len()).chain(routes.iter().map(|(route, _)| route.len()));
    let width = width.chain(webhooks.iter().map(|(route, _)| route.len()));
    let width = width.max().unwrap_or(0);
    for (route, function) in &routes {
        writeln!(out, "  {route:width$}  → {BOLD}{function}{BOLD:#}")?;
    }
    for (route, topic) in &webhooks {
        writeln!(out, "  {route:width$}  → the topic {BOLD}{topic}{BOLD:#}")?;
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
    // Not `minnow login`: this node must not become the default of later commands, which are meant for another.
    let token = quoted(&place.data_dir.join("admin.token").display().to_string());
    writeln!(out, "  inspect  in another terminal, which then talks to this node:")?;
    writeln!(out, "           export MINNOW_SERVER=http://{} MINNOW_TOKEN=\"$(cat {token})\"", reachable(place.admin))?;
    writeln!(out, "           minnow status {name}   (also invoke, logs, versions)")?;
    writeln!(
        out,
        "  publish  minnow login SERVER && minnow publish 0.1.0 && minnow deploy 0.1.0   (to a node of your own)"
    )?;
    writeln!(out, "  learn    minnow --help, docs/guide.md")?;
    writeln!(out, "\n  {DIM}Ctrl-C ends it. The log of the app follows.{DIM:#}")
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if path.chars().all(is_plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
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
            "export MINNOW_SERVER=http://127.0.0.1:7703 MINNOW_TOKEN=\"$(cat shop/.minnow/admin.token)\"\n",
        ] {
            assert!(plain.contains(expected), "{expected:?} is not in\n{plain}");
        }
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_needs_it() {
        for (path, expected) in
            [("/a/b-c/.d", "/a/b-c/.d"), ("/my apps/a", "'/my apps/a'"), ("/it's", r"'/it'\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(quoted(path), expected);
        }
    }
}
