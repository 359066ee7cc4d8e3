//! The store that a verb is about.

use std::{fmt, path::Path, str::FromStr};

use minnow_model::{AppName, StoreName, manifest::FILE_NAME};

use crate::{project::Project, report::Failure};

/// `APP/STORE`, or `STORE` of the app whose manifest is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreArg {
    app: Option<AppName>,
    store: StoreName,
}

/// One store of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePath {
    pub app: AppName,
    pub store: StoreName,
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.store)
    }
}

impl FromStr for StoreArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (app, store) = match text.split_once('/') {
            Some((app, store)) => (Some(AppName::new(app).map_err(|error| error.to_string())?), store),
            None => (None, text),
        };
        let store = StoreName::new(store);
        let store = store.map_err(|error| format!("{error}; write APP/STORE, `minnow usage` lists the stores"))?;
        Ok(Self { app, store })
    }
}

impl StoreArg {
    /// The store, of the app in this folder where none was named.
    pub fn path(&self) -> anyhow::Result<StorePath> {
        self.path_in(None)
    }

    /// The store, of `app` where that was named apart.
    pub fn path_in(&self, app: Option<&AppName>) -> anyhow::Result<StorePath> {
        let store = self.store.clone();
        if let (Some(one), Some(other)) = (&self.app, app)
            && one != other
        {
            return Err(Failure::usage(format!("`{one}/{store}` is not of `{other}`"))
                .help("name the app once: as APP/NAME, or with --app APP")
                .into());
        }
        if let Some(app) = self.app.as_ref().or(app) {
            return Ok(StorePath { app: app.clone(), store });
        }
        if !Path::new(FILE_NAME).exists() {
            return Err(Failure::new(format!("no app is named, and there is no {FILE_NAME} here"))
                .help(format!("write APP/{store}; `minnow usage` lists the stores"))
                .into());
        }
        Ok(StorePath { app: Project::load(Path::new("."))?.manifest().name.clone(), store })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_with_its_app_or_alone() {
        for (text, expected) in [
            ("shop/main", Some((Some("shop"), "main"))),
            ("main", Some((None, "main"))),
            ("Shop/main", None),
            ("shop/", None),
            ("a/b/c", None),
            ("", None),
        ] {
            let found = text.parse::<StoreArg>().ok();
            let found = found.as_ref().map(|arg| (arg.app.as_ref().map(AppName::as_str), arg.store.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
