//! Which node the CLI talks to and with which token: MINNOW_SERVER and MINNOW_TOKEN, else what `minnow login` stored.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::{
    cli::DEFAULT_ADMIN,
    client::{ApiError, Client, is_loopback},
    report::Failure,
};

/// What `login` stores: a token for each server. A token only ever goes to the server that it was stored for.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The server of the last login: the default for every verb.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub server: Option<String>,
    #[serde(default)]
    pub servers: BTreeMap<String, Login>,
}

/// One server's token.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub token: String,
}

/// Where the server and the token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `--server`, MINNOW_SERVER or MINNOW_TOKEN.
    Given,
    /// The login file.
    Login,
    /// Nothing was said.
    Default,
}

/// A node and the token for it, if one is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Connection {
    pub server: Url,
    pub server_source: Source,
    /// Whether MINNOW_SERVER named the server.
    pub server_variable: bool,
    pub token: Option<String>,
    pub token_source: Source,
}

impl Connection {
    /// A client for the node, with its token.
    pub fn client(self) -> Result<Client, ApiError> {
        let remedy = self.remedy();
        Ok(Client::new(self.server, self.token)?.with_remedy(remedy))
    }

    /// What to do when the node refuses the token. A variable that is set wins over what `login` stores, so that logging in
    /// would change nothing.
    fn remedy(&self) -> String {
        let server = key(&self.server);
        match (self.token_source, self.server_variable) {
            (Source::Given, true) => {
                "the token in MINNOW_TOKEN is not one of the node's that MINNOW_SERVER names; correct or unset both"
                    .into()
            }
            (Source::Given, false) => {
                "the token in MINNOW_TOKEN is not one of this node's; correct or unset the variable".into()
            }
            (_, true) => format!(
                "the token that is stored for {server} is not one of its tokens any more; run `minnow login {server}`, or \
                 unset MINNOW_SERVER, which names it"
            ),
            (_, false) => format!(
                "the token that is stored for {server} is not one of its tokens any more; run `minnow login {server}`"
            ),
        }
    }
}

/// Finds the node and the token from the arguments, the environment and the login file.
pub fn resolve(server: Option<&str>) -> anyhow::Result<Connection> {
    let credentials = Credentials::load(&path()?)?;
    let mut connection = choose(server, variable("MINNOW_TOKEN"), &credentials)?;
    // clap does not tell the argument from the variable. Where both say the same, either may be meant.
    connection.server_variable = server.is_some() && variable("MINNOW_SERVER").as_deref() == server.map(str::trim);
    Ok(connection)
}

/// A variable of the environment, unless it is blank.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn choose(server: Option<&str>, token: Option<String>, credentials: &Credentials) -> anyhow::Result<Connection> {
    let (server, server_source) = match (server.filter(|server| !server.is_empty()), &credentials.server) {
        (Some(given), _) => (parse_server(given)?, Source::Given),
        (None, Some(login)) => (parse_server(login)?, Source::Login),
        (None, None) => (parse_server(DEFAULT_ADMIN)?, Source::Default),
    };
    let (token, token_source) = match token {
        Some(token) => (Some(token), Source::Given),
        None => match credentials.servers.get(&key(&server)) {
            Some(login) => (Some(login.token.clone()), Source::Login),
            None => (None, Source::Default),
        },
    };
    Ok(Connection { server, server_source, server_variable: false, token, token_source })
}

/// Reads a control API's address: a URL, or `HOST:PORT`, which is http on this machine and https elsewhere.
pub fn parse_server(text: &str) -> anyhow::Result<Url> {
    let refuse = |why: &str| Failure::usage(format!("`{text}` is no server: {why}")).help("write http://HOST:PORT");
    let url = if text.contains("://") {
        text.parse::<Url>()
    } else {
        let plain = format!("http://{text}").parse::<Url>();
        plain.and_then(|url| if is_loopback(&url) { Ok(url) } else { format!("https://{text}").parse() })
    };
    let mut url = url.map_err(|error| refuse(&error.to_string()))?;
    // As a node prints it.
    if url.path().trim_end_matches('/') == "/v1" {
        url.set_path("/");
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("only http and https are known").into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("a token does not go into the address").into());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it has no path but /v1").into());
    }
    Ok(url)
}

/// The name of a server in the login file.
pub fn key(server: &Url) -> String {
    server.as_str().trim_end_matches('/').to_owned()
}

/// `$XDG_CONFIG_HOME/minnow/credentials.toml`; without that variable `$HOME/.config/minnow/credentials.toml`.
pub fn path() -> anyhow::Result<PathBuf> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let config = config.ok_or_else(|| {
        Failure::new("cannot tell where the login file is: neither XDG_CONFIG_HOME nor HOME is set")
            .help("set HOME, or give MINNOW_SERVER and MINNOW_TOKEN")
    })?;
    Ok(config.join("minnow").join("credentials.toml"))
}

impl Credentials {
    /// Reads the login file; none is an empty one.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let failed = |help: &str| Failure::new(format!("cannot read the login file {}", path.display())).help(help);
        let damaged = || failed("delete it and run `minnow login` again");
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error: toml::de::Error| {
                // Only the place: the error's own words may quote a token.
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                anyhow::Error::msg(format!("line {line} is not what `minnow login` writes")).context(damaged())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            // Not UTF-8.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error).with_context(damaged),
            // Its tokens may be in order.
            Err(error) => Err(error).with_context(|| {
                failed("your user has to be able to read it; `sudo minnow login` may have made it root's")
            }),
        }
    }

    /// Writes the login file, readable by its owner only. It is replaced as a whole, so a crash leaves the old one. Without
    /// any login there is no file.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || Failure::new(format!("cannot write the login file {}", path.display()));
        if *self == Self::default() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(failed),
                _ => Ok(()),
            };
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(failed)?;
        let text = toml::to_string(self).with_context(failed)?;
        // A temporary file is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
        file.write_all(text.as_bytes()).with_context(failed)?;
        file.as_file().sync_all().with_context(failed)?;
        file.persist(path).with_context(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Credentials {
        let login = |token: &str| Login { token: token.into() };
        Credentials {
            server: Some("https://a.example".into()),
            servers: [("https://a.example".into(), login("A")), ("http://127.0.0.1:7701".into(), login("L"))].into(),
        }
    }

    #[test]
    fn the_login_file_reads_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("minnow").join("credentials.toml");
        assert_eq!(Credentials::load(&path).unwrap(), Credentials::default());
        stored().save(&path).unwrap();
        stored().save(&path).unwrap();
        assert_eq!(Credentials::load(&path).unwrap(), stored());
        Credentials::default().save(&path).unwrap();
        assert!(!path.exists(), "without a login there is no file");
        Credentials::default().save(&path).unwrap();
        stored().save(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_broken_login_file_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.toml");
        for text in [
            "server = 1",
            "[servers.\"http://h\"]\ntoken = mnw_secret",
            "\n[servers]\nh = \"mnw_secret\"",
            "[servers.h]\ntoken = \"t\"\nmnw_secret = 1",
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Credentials::load(&path).unwrap_err());
            assert!(error.contains(": line ") && !error.contains("mnw_secret"), "{error}");
        }
    }

    #[test]
    fn only_a_damaged_login_file_is_to_be_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let remedy = |path: &Path| {
            let error = Credentials::load(path).unwrap_err();
            format!("{:?}", error.downcast_ref::<Failure>().unwrap())
        };
        let path = folder.path().join("credentials.toml");
        for damaged in [&b"server = 1"[..], b"\xff"] {
            fs::write(&path, damaged).unwrap();
            assert!(remedy(&path).contains("delete it"), "{}", remedy(&path));
        }
        // What cannot be read for another reason; permissions do not hold root back.
        let unreadable = remedy(folder.path());
        assert!(unreadable.contains("able to read it") && !unreadable.contains("delete"), "{unreadable}");
    }

    #[test]
    fn a_refused_token_is_blamed_on_where_it_came_from() {
        for (token, server_variable, named, not_named) in [
            (Some("T"), false, &["MINNOW_TOKEN"][..], &["MINNOW_SERVER", "minnow login"][..]),
            (Some("T"), true, &["MINNOW_TOKEN", "MINNOW_SERVER"], &["minnow login"]),
            (None, false, &["minnow login https://a.example"], &["MINNOW_"]),
            (None, true, &["minnow login https://a.example", "MINNOW_SERVER"], &["MINNOW_TOKEN"]),
        ] {
            let found = choose(Some("https://a.example"), token.map(Into::into), &stored()).unwrap();
            let remedy = Connection { server_variable, ..found }.remedy();
            for part in named {
                assert!(remedy.contains(part), "`{part}` is not in {remedy}");
            }
            for part in not_named {
                assert!(!remedy.contains(part), "`{part}` is in {remedy}");
            }
        }
    }

    #[test]
    fn a_token_goes_only_to_its_own_server() {
        let cases = [
            (None, None, "https://a.example/", Some("A")),
            (Some("http://127.0.0.1:7701"), None, "http://127.0.0.1:7701/", Some("L")),
            (Some("127.0.0.1:7701"), None, "http://127.0.0.1:7701/", Some("L")),
            (Some("https://b.example"), None, "https://b.example/", None),
            (Some("https://b.example"), Some("E"), "https://b.example/", Some("E")),
            (None, Some("E"), "https://a.example/", Some("E")),
        ];
        for (server, token, expected_server, expected_token) in cases {
            let found = choose(server, token.map(Into::into), &stored()).unwrap();
            assert_eq!(found.server.as_str(), expected_server, "{server:?}");
            assert_eq!(found.token.as_deref(), expected_token, "{server:?}");
        }
        let nothing = choose(None, None, &Credentials::default()).unwrap();
        assert_eq!((nothing.server.as_str(), nothing.token), ("http://127.0.0.1:7701/", None));
    }

    #[test]
    fn addresses_are_checked() {
        for (text, expected) in [
            ("localhost:7701", Some("http://localhost:7701/")),
            ("node.example:7701", Some("https://node.example:7701/")),
            ("http://10.0.0.1:7701/", Some("http://10.0.0.1:7701/")),
            ("[::1]:7701", Some("http://[::1]:7701/")),
            ("http://127.0.0.1:7701/v1", Some("http://127.0.0.1:7701/")),
            ("127.0.0.1:7701/v1/", Some("http://127.0.0.1:7701/")),
            ("ftp://x", None),
            ("http://user:pw@x", None),
            ("http://x/v2", None),
            ("", None),
        ] {
            assert_eq!(parse_server(text).ok().as_ref().map(Url::as_str), expected, "{text}");
        }
    }
}
