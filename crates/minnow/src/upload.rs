//! Publishing: what the node lacks is uploaded, then the version is announced. An interrupted publish leaves only blobs
//! that no version names, which the node drops.

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use minnow_control::api_types::Published;

use crate::{
    client::{Client, file_body},
    pack::{Blob, Bundle, Content},
    progress::Progress,
    report::Failure,
};

/// How many blobs are looked up or uploaded at once: hides the latency of many small files, and still leaves the line
/// and the node's disk to others.
const PARALLEL: usize = 4;

/// What a publish did.
pub struct Outcome {
    pub published: Published,
    /// How many bytes the node did not have yet.
    pub uploaded_bytes: u64,
}

/// Uploads the blobs that the node lacks and publishes the version.
pub async fn publish(client: &Client, bundle: &Bundle, progress: Progress) -> anyhow::Result<Outcome> {
    let missing: Vec<&Blob> = stream::iter(&bundle.blobs)
        .map(|blob| async move { client.has_blob(&blob.digest).await.map(|has| (!has).then_some(blob)) })
        .buffer_unordered(PARALLEL)
        .try_filter_map(|missing| async move { Ok(missing) })
        .try_collect()
        .await?;
    let uploaded_bytes = missing.iter().map(|blob| blob.size).sum();
    let bar = progress.uploading(uploaded_bytes);
    let uploads = stream::iter(missing).map(|blob| upload(client, blob, &bar)).buffer_unordered(PARALLEL);
    let result = uploads.try_collect::<()>().await;
    bar.finish_and_clear();
    result?;
    let config = &bundle.config;
    let spinner = progress.waiting("the node checks and compiles");
    let published = client.publish(&config.app, &config.version, bundle.manifest.clone()).await;
    spinner.finish_and_clear();
    let published = published.with_context(|| format!("cannot publish {}@{}", config.app, config.version))?;
    Ok(Outcome { published, uploaded_bytes })
}

async fn upload(client: &Client, blob: &Blob, bar: &ProgressBar) -> anyhow::Result<()> {
    let body = match &blob.content {
        Content::Bytes(bytes) => {
            bar.inc(blob.size);
            reqwest::Body::from(bytes.clone())
        }
        Content::File(path) => {
            let bar = bar.clone();
            file_body(path, move |bytes| bar.inc(bytes)).await.with_context(|| {
                Failure::new(format!("cannot read {}", path.display()))
                    .help("it vanished after it was packed; publish again")
            })?
        }
    };
    client.put_blob(&blob.digest, blob.size, body).await.with_context(|| format!("cannot upload {}", blob.name))
}
