//! What a request is for: the version that gets it, and in it a function or a static file.

use std::{borrow::Cow, collections::BTreeMap, str, sync::Arc};

use http::{HeaderMap, Method};
use minnow_model::{
    BundledFile,
    deployment::{pick, sticky_draw, sticky_value},
    media_type, path,
    route::Found,
};
use minnow_runtime::{Function, LiveApp, LiveVersion, LiveWebhook};
use percent_encoding::percent_decode_str;

/// The longest name of a static file, in bytes: `/` and a path.
const MAX_NAME_BYTES: usize = 1 + path::MAX_BYTES;

/// What answers a request.
pub(crate) enum Target {
    Function {
        function: Arc<Function>,
        /// Length of the path before the route's wildcard, in bytes.
        script_len: usize,
    },
    File(FoundFile),
    /// A public route to a topic.
    Webhook(Arc<LiveWebhook>),
    /// A blob of this app, by a signed URL.
    Blob(Arc<LiveApp>),
    /// The path is a folder's without the `/` that makes relative links work.
    Folder,
    /// The path exists for these methods only.
    NotAllowed(Vec<String>),
    Nothing,
}

/// A static file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundFile {
    pub(crate) file: BundledFile,
    pub(crate) content_type: Cow<'static, str>,
}

/// The version of `app` that gets this request: by weight, and always the same for a client that names itself by the
/// cookie or header that the manifest gives. While two versions are live the newer one's manifest counts.
pub(crate) fn version<'a>(app: &'a LiveApp, headers: &HeaderMap) -> Option<&'a Arc<LiveVersion>> {
    if let [(_, only)] = app.shares.as_slice() {
        return Some(only);
    }
    let sticky = app.shares.iter().rev().find_map(|(_, version)| version.sticky.as_ref());
    let client =
        sticky.and_then(|sticky| sticky_value(sticky, |name| headers.get(name).and_then(|value| value.to_str().ok())));
    let draw = client.map_or_else(|| rand::random_range(0..100), |client| sticky_draw(client.as_bytes()));
    let index = pick(app.shares.iter().map(|(weight, _)| *weight), draw);
    app.shares.get(index).map(|(_, version)| version)
}

/// What answers `method` on `path` (as the client sent it) in `version`. A static file and a folder win over a route with
/// `{*rest}`; every other route wins over both.
pub(crate) fn find(version: &LiveVersion, method: &Method, path: &str) -> Target {
    match version.router.find(method.as_str(), path) {
        Found::Function { index, script_len, by_wildcard } => {
            if by_wildcard
                && !version.files.is_empty()
                && let found @ (Target::File(_) | Target::Folder) = static_file(&version.files, method, path)
            {
                return found;
            }
            if let Some(function) = version.functions.get(index) {
                return Target::Function { function: Arc::clone(function), script_len };
            }
            let webhook = index.checked_sub(version.functions.len()).and_then(|index| version.webhooks.get(index));
            webhook.map_or(Target::Nothing, |webhook| Target::Webhook(Arc::clone(webhook)))
        }
        Found::MethodNotAllowed { mut allow } => match static_file(&version.files, method, path) {
            found @ (Target::File(_) | Target::Folder) => found,
            Target::NotAllowed(more) => {
                allow.extend(more);
                allow.sort();
                allow.dedup();
                Target::NotAllowed(allow)
            }
            Target::Function { .. } | Target::Webhook(_) | Target::Blob(_) | Target::Nothing => {
                Target::NotAllowed(allow)
            }
        },
        Found::None => static_file(&version.files, method, path),
    }
}

/// The static file at `path`, by its exact name: `..` and the like name nothing. A folder is its `index.html`. Requests for
/// functions pass here, too, so that only a path that is escaped allocates.
fn static_file(files: &BTreeMap<String, BundledFile>, method: &Method, path: &str) -> Target {
    let Ok(path) = percent_decode_str(path).decode_utf8() else { return Target::Nothing };
    let is_folder = path.ends_with('/');
    let found = if is_folder { find_joined(files, &path, "index.html") } else { files.get_key_value(&*path) };
    let Some((name, file)) = found else {
        let names_folder = !is_folder && is_read(method) && find_joined(files, &path, "/index.html").is_some();
        return if names_folder { Target::Folder } else { Target::Nothing };
    };
    if !is_read(method) {
        return Target::NotAllowed(vec!["GET".into(), "HEAD".into()]);
    }
    Target::File(FoundFile { file: file.clone(), content_type: media_type(name) })
}

/// The file whose name is `start` and `end` together.
fn find_joined<'a>(
    files: &'a BTreeMap<String, BundledFile>,
    start: &str,
    end: &str,
) -> Option<(&'a String, &'a BundledFile)> {
    let mut buffer = [0; MAX_NAME_BYTES];
    // No file's name is longer than the buffer.
    let name = buffer.get_mut(..start.len() + end.len())?;
    let (front, back) = name.split_at_mut(start.len());
    front.copy_from_slice(start.as_bytes());
    back.copy_from_slice(end.as_bytes());
    files.get_key_value(str::from_utf8(name).ok()?)
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

#[cfg(test)]
mod tests {
    use minnow_model::{Digest, Version, route::Router};

    use super::*;

    fn files(names: &[&str]) -> BTreeMap<String, BundledFile> {
        let file = |name: &str| BundledFile { digest: Digest::of(name.as_bytes()), size: 1 };
        names.iter().map(|name| (name.to_string(), file(name))).collect()
    }

    #[test]
    fn a_path_finds_the_file_of_exactly_that_name() {
        let names = ["/index.html", "/style.css", "/docs/index.html", "/a b.txt", "/é.txt", "/100%.txt"];
        let files = files(&names);
        for (path, expected) in [
            ("/", "/index.html"),
            ("/index.html", "/index.html"),
            ("/style.css", "/style.css"),
            ("/docs/", "/docs/index.html"),
            ("/docs", "folder"),
            ("/a%20b.txt", "/a b.txt"),
            ("/%C3%A9.txt", "/é.txt"),
            ("/%c3%a9.txt", "/é.txt"),
            ("/100%25.txt", "/100%.txt"),
            ("/100%.txt", "/100%.txt"),
            ("/%73tyle.css", "/style.css"),
            ("/docs%2Findex.html", "/docs/index.html"),
            ("/%FF", "nothing"),
            ("/../style.css", "nothing"),
            ("/%2e%2e/etc/passwd", "nothing"),
            ("//style.css", "nothing"),
            ("/style.css/", "nothing"),
            ("/Style.css", "nothing"),
            ("/docs/index.html/index.html", "nothing"),
            ("", "folder"),
            ("*", "nothing"),
        ] {
            let found = match static_file(&files, &Method::GET, path) {
                Target::File(found) => names.iter().copied().find(|name| files[*name] == found.file).unwrap(),
                Target::Folder => "folder",
                Target::Nothing => "nothing",
                Target::NotAllowed(_) | Target::Blob(_) | Target::Webhook(_) | Target::Function { .. } => {
                    "something else"
                }
            };
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn a_name_is_found_up_to_its_greatest_length() {
        let folder = "x".repeat(path::MAX_BYTES - "/index.html".len());
        let files = files(&[&format!("/{folder}/index.html")]);
        assert!(matches!(static_file(&files, &Method::GET, &format!("/{folder}/")), Target::File(_)));
        assert!(matches!(static_file(&files, &Method::GET, &format!("/{folder}")), Target::Folder));
        for longer in [format!("/{folder}x"), format!("/{folder}x/"), "/".repeat(5000)] {
            assert!(matches!(static_file(&files, &Method::GET, &longer), Target::Nothing));
        }
    }

    #[test]
    fn a_file_and_a_folder_win_over_a_wildcard_and_no_other_route() {
        let names = ["/index.html", "/style.css", "/docs/index.html"];
        for (route, method, path, expected) in [
            ("/{*rest}", Method::GET, "/style.css", "file"),
            ("/{*rest}", Method::GET, "/", "file"),
            ("/{*rest}", Method::GET, "/docs/", "file"),
            ("/{*rest}", Method::GET, "/docs", "folder"),
            ("/{*rest}", Method::HEAD, "/docs", "folder"),
            ("/{*rest}", Method::POST, "/docs", "function"),
            ("/{*rest}", Method::POST, "/style.css", "function"),
            ("/{*rest}", Method::GET, "/docs/x", "function"),
            ("/{*rest}", Method::GET, "/doc", "function"),
            ("/docs/{*rest}", Method::GET, "/docs", "folder"),
            ("/docs/{*rest}", Method::GET, "/docs/", "file"),
            ("/docs/{*rest}", Method::GET, "/docs/x", "function"),
            ("/style.css/{*rest}", Method::GET, "/style.css", "file"),
            ("/docs", Method::GET, "/docs", "function"),
            ("/{name}", Method::GET, "/docs", "function"),
            ("/{name}", Method::GET, "/style.css", "function"),
            ("/", Method::GET, "/", "function"),
            ("POST /docs", Method::GET, "/docs", "folder"),
            ("POST /style.css", Method::GET, "/style.css", "file"),
            ("POST /docs", Method::PUT, "/docs", "POST"),
            ("POST /style.css", Method::PUT, "/style.css", "GET,HEAD,POST"),
        ] {
            // Without functions: where one would answer, and every path here has something that does, there is nothing.
            let version = LiveVersion {
                version: Version::new(1, 0, 0),
                router: Router::new([(route.parse().unwrap(), 0)]).unwrap(),
                functions: Vec::new(),
                files: files(&names),
                sticky: None,
                buckets: Arc::default(),
                cors: BTreeMap::new(),
                topics: BTreeMap::new(),
                webhooks: Vec::new(),
            };
            let found = match find(&version, &method, path) {
                Target::File(_) => "file".into(),
                Target::Folder => "folder".into(),
                Target::NotAllowed(allow) => allow.join(","),
                Target::Function { .. } | Target::Webhook(_) | Target::Blob(_) | Target::Nothing => {
                    String::from("function")
                }
            };
            assert_eq!(found, expected, "{method} {path} beside {route}");
        }
    }

    #[test]
    fn files_can_only_be_read() {
        let files = files(&["/index.html"]);
        assert!(matches!(static_file(&files, &Method::HEAD, "/"), Target::File(_)));
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            match static_file(&files, &method, "/") {
                Target::NotAllowed(allow) => assert_eq!(allow, ["GET", "HEAD"]),
                _ => panic!("{method}"),
            }
        }
    }
}
