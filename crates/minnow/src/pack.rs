//! Packs an app's files as a bundle: an OCI image manifest with a layer for each function's code, each static file and
//! each migration.

mod files;
mod migrations;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use minnow_model::{
    BundleConfig, BundledCode, BundledFunction, BundledSql, Digest, FunctionName, Version,
    bundle::{FILE_TYPE, JS_TYPE, Layer, MAX_APP_MIGRATIONS, OciError, SOURCE_MAP_TYPE, WASM_TYPE, oci_manifest},
    digest::Digester,
    manifest::{Code, Function, ManifestErrors, Mistake, Parsed, Place},
};

use crate::{
    output,
    progress::{Progress, Reading},
    recipe::bundler,
};

/// What a node takes in one version by default, in bytes. What this node takes it does not say before the upload, and reading
/// all of an app that is far larger takes minutes.
const DEFAULT_MAX_BYTES: u64 = 128 << 20;

/// A packed app: ready to upload.
#[derive(Debug)]
pub struct Bundle {
    /// The OCI manifest as JSON. The digest of the version is the digest of these bytes.
    pub manifest: Vec<u8>,
    pub config: BundleConfig,
    /// Every content that the manifest names, once each.
    pub blobs: Vec<Blob>,
}

/// One content of a bundle.
#[derive(Debug)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub content: Content,
    /// What it is, for progress and errors: a file's path.
    pub name: String,
}

#[derive(Debug)]
pub enum Content {
    Bytes(Bytes),
    File(PathBuf),
}

impl Bundle {
    /// Equal for two bundles that differ in nothing but their version.
    pub fn fingerprint(&self) -> Digest {
        let config = BundleConfig { version: Version::new(0, 0, 0), ..self.config.clone() };
        Digest::of(&serde_json::to_vec(&config).unwrap_or_default())
    }
}

/// Why an app could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    #[error("the app does not make a bundle: {0}")]
    Oci(#[from] OciError),
}

/// Reads and packs everything that the manifest in `dir` names, as `version`. All mistakes are found at once.
pub fn pack(dir: &Path, parsed: &Parsed, version: &Version, progress: Progress) -> Result<Bundle, PackError> {
    let manifest = &parsed.manifest;
    let mut packer = Packer::new(progress);
    let mut mistakes = Vec::new();
    let mut functions = BTreeMap::new();
    for (name, function) in &manifest.functions {
        match code(dir, parsed, name, function, &mut packer) {
            Ok(code) => {
                functions.insert(
                    name.clone(),
                    BundledFunction {
                        code,
                        routes: function.routes.clone(),
                        env: function.env.clone(),
                        egress: function.egress.clone(),
                        instances: function.instances,
                        limits: function.limits,
                        grants: function.grants.clone(),
                        topics: function.topics.clone(),
                        schedules: function.schedules.clone(),
                        asynchronous: function.asynchronous.clone(),
                    },
                );
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    let files = files::collect(dir, parsed, &mut packer, &mut mistakes);
    let mut sql = BTreeMap::new();
    for (name, store) in &manifest.sql {
        let migrations = match &store.migrations {
            Some(folder) => migrations::collect(dir, parsed, (name, folder), &mut packer, &mut mistakes),
            None => Vec::new(),
        };
        sql.insert(name.clone(), BundledSql { share: store.share.clone(), migrations });
    }
    let count: usize = sql.values().map(|store| store.migrations.len()).sum();
    if count > MAX_APP_MIGRATIONS
        && let Some(store) = sql.keys().next_back()
    {
        let what = format!("the app has {count} migrations, the most is {MAX_APP_MIGRATIONS}");
        let remedy = "join the first ones of a store that was not deployed yet into one file, or split the app in two";
        mistakes.push(parsed.mistake(Place::Migrations(store), what, remedy));
    }
    ManifestErrors::check(mistakes)?;
    let config = BundleConfig {
        app: manifest.name.clone(),
        version: version.clone(),
        functions,
        files,
        sticky: manifest.sticky.clone(),
        kv: manifest.kv.clone(),
        sql,
        blob: manifest.blob.clone(),
        volumes: manifest.volumes.clone(),
        locks: manifest.locks,
        topics: manifest.topics.clone(),
    };
    Ok(packer.finish(config)?)
}

/// The code of one function.
fn code(
    dir: &Path,
    parsed: &Parsed,
    name: &FunctionName,
    function: &Function,
    packer: &mut Packer,
) -> Result<BundledCode, Mistake> {
    let wasm = match &function.code {
        Code::Wasm(wasm) => wasm,
        Code::Js(_) => return js(dir, parsed, name, packer),
    };
    let path = dir.join(wasm);
    let refuse = |what: String, remedy: &str| parsed.mistake(Place::Code(name), what, remedy);
    match starts_as_wasm(&path).and_then(|is_wasm| if is_wasm { packer.read(&path).map(Some) } else { Ok(None) }) {
        Ok(Some(blob)) => Ok(BundledCode::Wasm(packer.add(WASM_TYPE, name.as_str(), blob))),
        Ok(None) => Err(refuse(
            format!("`{wasm}` is not WebAssembly: it does not start with the bytes `\\0asm`"),
            "name the compiled .wasm file, not its source or its text form",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(parsed.missing_code(name)),
        Err(error) => Err(refuse(format!("cannot read `{wasm}`: {error}"), "name a file that can be read")),
    }
}

/// What was bundled of a function in JavaScript.
fn js(dir: &Path, parsed: &Parsed, name: &FunctionName, packer: &mut Packer) -> Result<BundledCode, Mistake> {
    let (module, source_map) = bundler::paths(dir, name);
    let mut read = |path: &Path| {
        packer.read_whole(path).map_err(|error| {
            let what = format!("cannot read `{}`: {error}", path.display());
            parsed.mistake(Place::Code(name), what, "run the command again, which bundles the function")
        })
    };
    let (module, source_map) = (read(&module)?, read(&source_map)?);
    Ok(BundledCode::Js {
        module: packer.add(JS_TYPE, &format!("{name}.js"), module),
        source_map: packer.add(SOURCE_MAP_TYPE, &format!("{name}.js.map"), source_map),
    })
}

fn starts_as_wasm(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start == b"\0asm")
}

/// Gathers layers and contents; equal contents are uploaded once.
struct Packer {
    layers: Vec<Layer>,
    blobs: Vec<Blob>,
    known: BTreeSet<Digest>,
    reading: Reading,
    /// Whether it was told that the app is large.
    is_told: bool,
}

impl Packer {
    fn new(progress: Progress) -> Self {
        let reading = Reading::new(progress);
        Self { layers: Vec::new(), blobs: Vec::new(), known: BTreeSet::new(), reading, is_told: false }
    }

    /// Reads a file for its digest and size.
    fn read(&mut self, path: &Path) -> io::Result<Blob> {
        let mut file = File::open(path)?;
        self.expect(path, file.metadata()?.len());
        let mut digester = Digester::default();
        let mut size = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = file.read(&mut buffer)?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            digester.update(piece);
            size += read as u64;
            self.reading.add(read as u64);
        }
        let name = path.display().to_string();
        Ok(Blob { digest: digester.finish(), size, content: Content::File(path.into()), name })
    }

    /// Reads a file that may be another one by the time of the upload: a bundle, which another `minnow` may make anew.
    fn read_whole(&mut self, path: &Path) -> io::Result<Blob> {
        let content = fs::read(path)?;
        let size = content.len() as u64;
        self.expect(path, size);
        self.reading.add(size);
        let name = path.display().to_string();
        Ok(Blob { digest: Digest::of(&content), size, content: Content::Bytes(content.into()), name })
    }

    /// Says that an app is larger than usual before that is read, so that nobody waits for a file that came along by mistake.
    fn expect(&mut self, path: &Path, length: u64) {
        if self.is_told || self.reading.bytes().saturating_add(length) <= DEFAULT_MAX_BYTES {
            return;
        }
        self.is_told = true;
        self.reading.warn(format_args!(
            "with {} ({}) the app has more than the {} that a node takes, unless its `bundles.max_size` says otherwise",
            path.display(),
            output::size(length),
            output::size(DEFAULT_MAX_BYTES)
        ));
    }

    /// `title` is what OCI tools show: a relative path.
    fn add(&mut self, media_type: &str, title: &str, blob: Blob) -> Digest {
        let Blob { digest, size, .. } = blob;
        self.layers.push(Layer { digest, size, media_type: media_type.into(), title: title.into() });
        if self.known.insert(digest) {
            self.blobs.push(blob);
        }
        digest
    }

    fn finish(mut self, config: BundleConfig) -> Result<Bundle, OciError> {
        // Cannot fail: every map has string keys.
        let config_json = Bytes::from(serde_json::to_vec(&config).unwrap_or_default());
        let digest = Digest::of(&config_json);
        let size = config_json.len() as u64;
        let manifest = oci_manifest((digest, size), self.layers)?;
        self.blobs.push(Blob {
            digest,
            size,
            content: Content::Bytes(config_json),
            name: "the bundle's config".into(),
        });
        Ok(Bundle { manifest, config, blobs: self.blobs })
    }
}

#[cfg(test)]
mod tests {
    use minnow_model::{Manifest, bundle::read_oci_manifest};

    use super::*;

    fn manifest() -> Parsed {
        let text = r#"
            name = "shop"
            [functions.api]
            wasm = "api.wasm"
            routes = ["/api/{*rest}"]
            [functions.twin]
            wasm = "twin.wasm"
            routes = ["/twin"]
            [static]
            "/" = "public"
            "/assets" = "static"
        "#;
        Manifest::parse(text, "minnow.toml").unwrap()
    }

    fn app() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("api.wasm", "\0asm1"),
            ("twin.wasm", "\0asm1"),
            ("public/index.html", "<h1>"),
            ("public/.env", "SECRET"),
            ("public/.well-known/security.txt", "contact"),
            ("static/css/a b.css", "b{}"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn version() -> Version {
        Version::new(0, 1, 0)
    }

    #[test]
    fn a_bundle_names_every_file_once() {
        let dir = app();
        let bundle = pack(dir.path(), &manifest(), &version(), Progress::Hidden).unwrap();
        let files: Vec<&str> = bundle.config.files.keys().map(String::as_str).collect();
        assert_eq!(files, ["/.well-known/security.txt", "/assets/css/a b.css", "/index.html"], "no hidden files");
        assert_eq!(bundle.blobs.len(), 5, "equal code is one blob; three files and the config");
        let image = read_oci_manifest(&bundle.manifest).unwrap();
        let config = bundle.blobs.last().unwrap();
        assert_eq!(image.config, (config.digest, config.size));
        assert!(bundle.config.check_layers(&image).is_ok());
        let mut layers: Vec<(&str, &str)> =
            image.layers.iter().map(|layer| (layer.media_type.as_str(), layer.title.as_str())).collect();
        layers.sort_unstable();
        let expected = [
            (FILE_TYPE, ".well-known/security.txt"),
            (FILE_TYPE, "assets/css/a b.css"),
            (FILE_TYPE, "index.html"),
            (WASM_TYPE, "api"),
        ];
        assert_eq!(layers, expected);
    }

    #[test]
    fn javascript_is_its_bundle_and_the_source_map() {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"shop\"\n[functions.api]\njs = \"src/api.ts\"\nroutes = [\"/\"]\n";
        let parsed = Manifest::parse(text, "minnow.toml").unwrap();
        let packed = || pack(dir.path(), &parsed, &version(), Progress::Hidden);
        assert!(packed().unwrap_err().to_string().contains("mistake"), "it was not bundled");
        let (module, source_map) = bundler::paths(dir.path(), &"api".parse().unwrap());
        fs::create_dir_all(module.parent().unwrap()).unwrap();
        fs::write(module, "export {}").unwrap();
        fs::write(source_map, "{}").unwrap();
        let bundle = packed().unwrap();
        let code = BundledCode::Js { module: Digest::of(b"export {}"), source_map: Digest::of(b"{}") };
        assert_eq!(bundle.config.functions["api"].code, code);
        let layers = read_oci_manifest(&bundle.manifest).unwrap().layers;
        let mut layers: Vec<_> = layers.iter().map(|layer| (layer.media_type.as_str(), layer.title.as_str())).collect();
        layers.sort_unstable();
        assert_eq!(layers, [(SOURCE_MAP_TYPE, "api.js.map"), (JS_TYPE, "api.js")]);
    }

    /// The mistakes that packing finds.
    fn mistakes(dir: &Path) -> Vec<Mistake> {
        match pack(dir, &manifest(), &version(), Progress::Hidden) {
            Err(PackError::Manifest(errors)) => errors.mistakes().to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn packing_twice_gives_the_same_bytes() {
        let dir = app();
        let first = pack(dir.path(), &manifest(), &version(), Progress::Hidden).unwrap();
        let second = pack(dir.path(), &manifest(), &version(), Progress::Hidden).unwrap();
        assert_eq!(first.manifest, second.manifest);
        let other = pack(dir.path(), &manifest(), &Version::new(0, 2, 0), Progress::Hidden).unwrap();
        assert_ne!(first.manifest, other.manifest);
        assert_eq!(first.fingerprint(), other.fingerprint());
    }

    #[test]
    fn every_file_that_cannot_be_packed_is_reported() {
        let dir = app();
        fs::remove_file(dir.path().join("api.wasm")).unwrap();
        fs::write(dir.path().join("twin.wasm"), "(module)").unwrap();
        fs::remove_dir_all(dir.path().join("static")).unwrap();
        let mistakes = mistakes(dir.path());
        let found: Vec<(usize, &str)> =
            mistakes.iter().map(|mistake| (mistake.line, mistake.message.as_str())).collect();
        let expected = [
            (4, "there is no file `api.wasm`"),
            (7, "`twin.wasm` is not WebAssembly: it does not start with the bytes `\\0asm`"),
            (11, "there is no folder `static`"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = app();
        let public = dir.path().join("public");
        let _socket = std::os::unix::net::UnixListener::bind(public.join("chat.sock")).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, public.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let found: Vec<String> = mistakes(dir.path()).into_iter().map(|mistake| mistake.message).collect();
        let path = |name: &str| public.canonicalize().unwrap().join(name).display().to_string();
        let expected = [
            format!("`{}` is a socket and no file", path("chat.sock")),
            format!("`{}` is a named pipe and no file", path("pipe")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_usual_limit_is_the_nodes_default() {
        let node = minnow_control::ControlConfig::new("127.0.0.1:0".parse().unwrap(), "localhost");
        assert_eq!(DEFAULT_MAX_BYTES, node.max_bundle_bytes);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let dir = app();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("public/leak")).unwrap();
        std::os::unix::fs::symlink("index.html", dir.path().join("public/home.html")).unwrap();
        let mistakes = mistakes(dir.path());
        assert_eq!(mistakes.len(), 1, "a link within the folder is fine: {mistakes:?}");
        assert!(mistakes[0].message.contains("leak"), "{mistakes:?}");
    }
}
