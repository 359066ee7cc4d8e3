//! Publishing: what the node lacks is uploaded, then the version is announced. An interrupted publish leaves only blobs
//! that no version names, which the node drops.

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use minnow_control::api_types::Published;

use crate::{
    client::{Client, file_body},
    pack::{Blob, Bundle, Content},
    report::Failure,
};

/// How many blobs are looked up or uploaded at once: hides the latency of many small files, and still leaves the line
/// and the node's disk to others.
const PARALLEL: usize = 4;

/// Whether a progress bar is drawn (only ever on a terminal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Shown,
    Hidden,
}

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
    let bar = bar(uploaded_bytes, progress);
    let uploads = stream::iter(missing).map(|blob| upload(client, blob, &bar)).buffer_unordered(PARALLEL);
    let result = uploads.try_collect::<()>().await;
    bar.finish_and_clear();
    result?;
    let config = &bundle.config;
    let spinner = spinner(progress);
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

fn bar(bytes: u64, progress: Progress) -> ProgressBar {
    if progress == Progress::Hidden || bytes == 0 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("uploading {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    // At once, also where the first bytes take their time.
    bar.tick();
    bar
}

/// Shows that the node is checking and compiling, which takes a while for large code.
fn spinner(progress: Progress) -> ProgressBar {
    if progress == Progress::Hidden {
        return ProgressBar::hidden();
    }
    // Without a length the default style is that of a bar, which shows no message.
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_style(ProgressStyle::default_spinner())
        .with_message("the node checks and compiles");
    spinner.tick();
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}
