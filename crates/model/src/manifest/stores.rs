//! The stores that an app declares, and what its functions are granted of them.

use std::collections::BTreeMap;

use toml_span::{Span, Value};

use super::{
    MAX_GRANTS, MAX_ORIGINS, MAX_SHARES, MAX_STORES, keys,
    parse::is_whole_app,
    places::Places,
    read::{Field, Fields, Reader},
};
use crate::{
    AppName, BlobStore, FilesStore, Grants, KvStore, Mount, MountPath, Origin, SqlStore, StoreGrant, StoreKind,
    StoreName, Topic, VariableName,
    grant::{
        DEFAULT_BLOB_BYTES, DEFAULT_FILES_BYTES, GrantError, LOCKS_VARIABLE, STORE_BYTES, clashes, publish_mistake,
        remedy_for_variable,
    },
    name::{NameError, remedy_for_name},
};

/// What a manifest declares.
pub(super) struct Stores<'v> {
    pub kv: BTreeMap<StoreName, KvStore>,
    pub sql: BTreeMap<StoreName, SqlStore>,
    pub blob: BTreeMap<StoreName, BlobStore>,
    pub volumes: BTreeMap<StoreName, FilesStore>,
    pub locks: bool,
    pub topics: BTreeMap<StoreName, Topic>,
    /// Where the webhooks of topics stand.
    pub webhooks: BTreeMap<StoreName, Span>,
    /// The app, when its name could be read.
    app: Option<AppName>,
    named: BTreeMap<StoreKind, Named<'v>>,
}

/// The names of the stores of a kind as they stand there, also of those that are not right. `None` where that could not be
/// read: a grant of one that is not found then says nothing.
type Named<'v> = Option<Vec<&'v str>>;

impl Stores<'_> {
    fn named(&self, kind: StoreKind) -> Option<&Vec<&str>> {
        self.named.get(&kind)?.as_ref()
    }

    pub(super) fn has(&self, kind: StoreKind, store: &StoreName) -> bool {
        self.named(kind).is_none_or(|names| names.contains(&store.as_str()))
    }

    /// Why a store cannot be granted, with the remedy.
    fn refusal(&self, kind: StoreKind, grant: &StoreGrant) -> Option<(String, String)> {
        let store = &grant.store;
        let written = StoreGrant { app: None, ..grant.clone() };
        match &grant.app {
            Some(app) if Some(app) == self.app.as_ref() => {
                return Some((format!("`{grant}` is a store of this app"), format!("write `{written}`")));
            }
            None if !self.has(kind, store) => {}
            _ => return None,
        }
        let message = format!("the app has no {} `{store}`", kind.noun());
        let has = |other: &StoreKind| self.named(*other).is_some_and(|names| names.contains(&store.as_str()));
        if let Some(other) = StoreKind::ALL.into_iter().find(has) {
            let line = match other {
                StoreKind::Files => format!("files = {{ {} = \"/data\" }}", key_of(&written)),
                _ => format!("{} = [\"{written}\"]", other.grant_key()),
            };
            return Some((message, format!("it is a {}: write `{line}`", other.noun())));
        }
        let guess = self.guess(kind, store);
        Some((
            message,
            match kind {
                StoreKind::Topic => format!("{guess}add `[topic.{store}]`"),
                _ => format!("{guess}add `[{kind}.{store}]`, or write `APP/{written}` for another app's"),
            },
        ))
    }

    /// The name of a store that was probably meant, as the beginning of a remedy; empty when none is like it.
    pub(super) fn guess(&self, kind: StoreKind, store: &StoreName) -> String {
        // A long key is no typing error, and the distance costs the product of both lengths.
        let names = self.named(kind).into_iter().flatten().filter(|name| name.len() <= 63);
        let nearest = names.map(|name| (strsim::damerau_levenshtein(store.as_str(), name), name)).min();
        match nearest {
            Some((distance, name)) if distance <= 1 + name.len() / 4 => {
                format!("did you mean `{}`? Else ", name.escape_debug())
            }
            _ => String::new(),
        }
    }
}

/// A grant as a key of TOML.
fn key_of(grant: &StoreGrant) -> String {
    let text = grant.to_string();
    if text.contains([':', '/']) { format!("\"{text}\"") } else { text }
}

/// One thing that a function finds in its `env`, with its place.
type PlacedVariable = (String, (String, Span));

impl Reader {
    /// `[kv.NAME]`, `[sql.NAME]`, `[blob.NAME]`, `[files.NAME]`, `[topic.NAME]` and `[lock]`.
    pub(super) fn stores<'v>(
        &mut self,
        fields: Fields<'v, '_>,
        app: Option<&AppName>,
        places: &mut Places,
    ) -> Stores<'v> {
        let mut stores = Stores {
            kv: BTreeMap::new(),
            sql: BTreeMap::new(),
            blob: BTreeMap::new(),
            volumes: BTreeMap::new(),
            locks: false,
            topics: BTreeMap::new(),
            webhooks: BTreeMap::new(),
            app: app.cloned(),
            named: BTreeMap::new(),
        };
        for kind in StoreKind::ALL {
            let (named, entries) = self.named(fields, kind);
            stores.named.insert(kind, named);
            for (key, span, value) in entries {
                let (name, fields) = self.store(kind, key, span, value);
                if kind == StoreKind::Topic {
                    let topic = fields.map(|fields| self.topic(fields)).unwrap_or_default();
                    let webhook = fields.and_then(|fields| fields.get("webhook")).map(|field| field.value.span);
                    stores.webhooks.extend(name.clone().zip(webhook));
                    stores.topics.extend(name.map(|name| (name, topic)));
                    continue;
                }
                let share = fields.map(|fields| self.share(fields, app)).unwrap_or_default();
                // A table is asked only for the keys of its kind.
                let get = |kinds: &[StoreKind], key| fields.filter(|_| kinds.contains(&kind))?.get(key);
                let size = get(&[StoreKind::Blob, StoreKind::Files], "size");
                let size_bytes = size.and_then(|field| self.size(field, *STORE_BYTES.start(), *STORE_BYTES.end()));
                let cors = get(&[StoreKind::Blob], "cors").map(|field| self.origins(field)).unwrap_or_default();
                let field = get(&[StoreKind::Sql], "migrations");
                let migrations = field.and_then(|field| self.migrations(field));
                let Some(name) = name else { continue };
                if let Some(field) = field {
                    places.migrations.insert(name.clone(), field.value.span);
                }
                match kind {
                    StoreKind::Kv => drop(stores.kv.insert(name, KvStore { share })),
                    StoreKind::Sql => drop(stores.sql.insert(name, SqlStore { share, migrations })),
                    StoreKind::Blob => {
                        let size_bytes = size_bytes.unwrap_or(DEFAULT_BLOB_BYTES);
                        stores.blob.insert(name, BlobStore { share, cors, size_bytes });
                    }
                    StoreKind::Files => {
                        let size_bytes = size_bytes.unwrap_or(DEFAULT_FILES_BYTES);
                        stores.volumes.insert(name, FilesStore { share, size_bytes });
                    }
                    StoreKind::Topic => {}
                }
            }
        }
        if let Some(field) = fields.get("lock") {
            stores.locks = true;
            self.table(field, &keys::LOCK);
        }
        stores
    }

    /// The stores of one kind, at most as many as an app may have.
    fn named<'v, 'de>(
        &mut self,
        fields: Fields<'v, 'de>,
        kind: StoreKind,
    ) -> (Named<'v>, Vec<(&'v str, Span, &'v Value<'de>)>) {
        let is_halved = self.halved.contains(kind.as_str());
        let Some(field) = fields.get(kind.as_str()) else {
            return ((!is_halved).then(Vec::new), Vec::new());
        };
        let is_table = field.value.as_table().is_some();
        let mut entries = self.entries(field);
        self.at_most(field, entries.len(), MAX_STORES);
        let is_whole = is_table && !is_halved && entries.len() <= MAX_STORES;
        let named = is_whole.then(|| entries.iter().map(|(name, ..)| *name).collect());
        entries.truncate(MAX_STORES);
        (named, entries)
    }

    fn store<'v, 'de>(
        &mut self,
        kind: StoreKind,
        key: &str,
        span: Span,
        value: &'v Value<'de>,
    ) -> (Option<StoreName>, Option<Fields<'v, 'de>>) {
        let name = key.parse::<StoreName>();
        if let Err(error) = &name {
            self.refuse(span, error.to_string(), remedy_for_name(key));
        }
        let table = value.as_table();
        if table.is_none() {
            let message = format!("the {} `{}` is not a table", kind.noun(), key.escape_debug());
            self.refuse(value.span, message, format!("write `[{kind}.NAME]` with its keys below, if it has any"));
        }
        let doc = match kind {
            StoreKind::Kv => &keys::KV,
            StoreKind::Sql => &keys::SQL,
            StoreKind::Blob => &keys::BLOB,
            StoreKind::Files => &keys::FILES,
            StoreKind::Topic => &keys::TOPIC,
        };
        (name.ok(), table.map(|table| self.fields(table, doc)))
    }

    /// The apps that are let in.
    fn share(&mut self, fields: Fields<'_, '_>, own: Option<&AppName>) -> Vec<AppName> {
        let mut apps = Vec::new();
        let Some(field) = fields.get("share") else { return apps };
        for (text, span) in self.strings(field, MAX_SHARES) {
            match text.parse::<AppName>() {
                Ok(app) if Some(&app) == own => {
                    self.refuse(span, format!("`{app}` is this app, whose functions need no `share`"), "remove it");
                }
                Ok(app) if apps.contains(&app) => {
                    self.refuse(span, format!("`{app}` stands twice in `share`"), "remove one");
                }
                Ok(app) => apps.push(app),
                Err(error) => {
                    let error: NameError = error;
                    self.refuse(span, format!("not the name of an app: {error}"), remedy_for_name(text));
                }
            }
        }
        apps
    }

    /// The origins whose pages are let in.
    fn origins(&mut self, field: Field<'_, '_>) -> Vec<Origin> {
        let mut origins = Vec::new();
        for (text, span) in self.strings(field, MAX_ORIGINS) {
            match text.parse::<Origin>() {
                Ok(origin) if origins.contains(&origin) => {
                    self.refuse(span, format!("`{origin}` stands twice in `cors`"), "remove one");
                }
                Ok(origin) => origins.push(origin),
                Err(error) => {
                    let remedy =
                        "write it as browsers do, for example `https://app.example` or `http://localhost:5173`";
                    self.refuse(span, format!("not an origin: {error}"), remedy);
                }
            }
        }
        origins
    }

    fn migrations(&mut self, field: Field<'_, '_>) -> Option<String> {
        let folder = self.string(field)?;
        if is_whole_app(folder) {
            let message = format!("`{folder}` is the app's own folder");
            let remedy = "put the migrations in a folder of their own, such as `migrations`, and name that";
            self.refuse(field.value.span, message, remedy);
            return None;
        }
        self.path(folder, field.value.span).map(str::to_owned)
    }

    /// What a function is granted: `kv`, `sql`, `blob`, `files`, `locks`, `secrets` and `publish`. `function` is its name and the place of that.
    pub(super) fn grants(
        &mut self,
        function: (&str, Span),
        is_js: bool,
        fields: Fields<'_, '_>,
        stores: &Stores<'_>,
    ) -> Grants {
        let mut found = Vec::new();
        let kv = self.store_grants(StoreKind::Kv, fields, stores, &mut found);
        let sql = self.store_grants(StoreKind::Sql, fields, stores, &mut found);
        let blob = self.store_grants(StoreKind::Blob, fields, stores, &mut found);
        let files = self.mounts(fields, stores, &mut found, is_js);
        let locks = fields.get("locks").is_some_and(|field| {
            let locks = self.boolean(field).unwrap_or_default();
            if locks && !stores.locks {
                let message = "`locks` is true, and the app has no locks";
                self.refuse(field.value.span, message, "add the table `[lock]`, or remove `locks`");
            }
            if locks {
                found.push((LOCKS_VARIABLE.to_owned(), ("`locks`".to_owned(), field.value.span)));
            }
            locks
        });
        let secrets = self.secrets(fields, &mut found);
        let publish = self.store_grants(StoreKind::Topic, fields, stores, &mut found);
        let grants = Grants { kv, sql, blob, files, locks, secrets, publish };
        let (name, place) = (function.0.escape_debug(), function.1);
        if grants.count() > MAX_GRANTS {
            let message = format!("the function `{name}` has {} grants, the most is {MAX_GRANTS}", grants.count());
            self.refuse(place, message, "leave some out, or split the function in two");
        }
        let env = fields.get("env").and_then(|field| field.value.as_table()).into_iter().flatten();
        let env = env.map(|(key, _)| {
            let what = format!("`{}` of its `env`", key.name.escape_debug());
            (key.name.to_string(), (what, key.span))
        });
        for (variable, (first, first_span), (second, span)) in clashes(env, found) {
            let variable = variable.escape_debug();
            self.refuse_places(
                &[(span, Some("and here")), (first_span, Some("first here"))],
                format!("the function `{name}` has two things called `{variable}`: {first} and {second}"),
                "rename one: names are the same when they are in upper case with `_` for `-`",
            );
        }
        grants
    }

    /// The stores of one kind that a function is granted.
    fn store_grants(
        &mut self,
        kind: StoreKind,
        fields: Fields<'_, '_>,
        stores: &Stores<'_>,
        found: &mut Vec<PlacedVariable>,
    ) -> Vec<StoreGrant> {
        let mut grants: Vec<StoreGrant> = Vec::new();
        let Some(field) = fields.get(kind.grant_key()) else { return grants };
        for (text, span) in self.strings(field, MAX_GRANTS) {
            let known = |grant: &StoreGrant| grants.iter().any(|other| other.name() == grant.name());
            if let Some(grant) = self.store_grant(kind, text, span, stores, known) {
                found.push((grant.variable(), (grant.called(kind), span)));
                grants.push(grant);
            }
        }
        grants
    }

    /// One store that a function is granted.
    fn store_grant(
        &mut self,
        kind: StoreKind,
        text: &str,
        span: Span,
        stores: &Stores<'_>,
        is_known: impl Fn(&StoreGrant) -> bool,
    ) -> Option<StoreGrant> {
        let grant = match text.parse::<StoreGrant>() {
            Ok(grant) => grant,
            Err(error) => {
                let error: GrantError = error;
                self.refuse(span, error.reason, error.remedy);
                return None;
            }
        };
        if let Some(message) = publish_mistake(&grant).filter(|_| kind == StoreKind::Topic) {
            let store = &grant.store;
            let remedy = if stores.has(kind, store) {
                format!("write `{store}`")
            } else {
                "let a function of that app publish what this one sends it over HTTP".to_owned()
            };
            self.refuse(span, message, remedy);
            return None;
        }
        if let Some((message, remedy)) = stores.refusal(kind, &grant) {
            self.refuse(span, message, remedy);
            return None;
        }
        if is_known(&grant) {
            let message = format!("the store `{}` stands twice in `{}`", grant.name(), kind.grant_key());
            let remedy = match kind {
                StoreKind::Topic => "remove one",
                _ => "keep one: with `:ro` for reading, without it for reading and writing",
            };
            self.refuse(span, message, remedy);
            return None;
        }
        Some(grant)
    }

    /// The volumes that a function is granted, with their folders. Only JavaScript has variables for them.
    fn mounts(
        &mut self,
        fields: Fields<'_, '_>,
        stores: &Stores<'_>,
        found: &mut Vec<PlacedVariable>,
        is_js: bool,
    ) -> Vec<Mount> {
        let mut mounts: Vec<Mount> = Vec::new();
        let Some(field) = fields.get(StoreKind::Files.as_str()) else { return mounts };
        let entries = self.entries(field);
        self.at_most(field, entries.len(), MAX_GRANTS);
        for (text, span, value) in entries.into_iter().take(MAX_GRANTS) {
            let known = |grant: &StoreGrant| mounts.iter().any(|mount| mount.volume.name() == grant.name());
            let volume = self.store_grant(StoreKind::Files, text, span, stores, known);
            let Some(path) = value.as_str() else {
                let message = format!("the folder of the volume `{}` is no string", text.escape_debug());
                self.refuse(value.span, message, format!("write for example `{}`", field.doc.example));
                continue;
            };
            let path = match path.parse::<MountPath>() {
                Ok(path) => path,
                Err(error) => {
                    let error: GrantError = error;
                    self.refuse(value.span, error.reason, error.remedy);
                    continue;
                }
            };
            let Some(volume) = volume else { continue };
            if let Some(other) = mounts.iter().find(|mount| mount.path.overlaps(&path)) {
                let message = format!("the folders `{}` and `{path}` of volumes overlap", other.path);
                self.refuse(value.span, message, "give each volume a folder of its own, none in another");
                continue;
            }
            if is_js {
                found.push((volume.variable(), (volume.called(StoreKind::Files), span)));
            }
            mounts.push(Mount { volume, path });
        }
        mounts
    }

    fn secrets(&mut self, fields: Fields<'_, '_>, found: &mut Vec<PlacedVariable>) -> Vec<VariableName> {
        let mut secrets = Vec::new();
        let Some(field) = fields.get("secrets") else { return secrets };
        for (text, span) in self.strings(field, MAX_GRANTS) {
            match text.parse::<VariableName>() {
                Ok(name) if secrets.contains(&name) => {
                    self.refuse(span, format!("`{name}` stands twice in `secrets`"), "remove one");
                }
                Ok(name) => {
                    found.push((name.to_string(), (format!("the secret `{name}`"), span)));
                    secrets.push(name);
                }
                Err(error) => {
                    self.refuse(span, format!("not the name of a secret: {error}"), remedy_for_variable(text));
                }
            }
        }
        secrets
    }
}
