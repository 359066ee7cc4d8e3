//! `minnow:blob`: the buckets of an app. [`super::blobstore`] has what WASI's draft has of it; the streams of both are in
//! [`super::streams`].

use std::time::Duration;

use minnow_model::StoreKind;
use minnow_store::{
    BucketError, Buckets,
    bucket::{self, Blob, Conditions, Got, Meta, Range},
};
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::{
    DataView, HasDataView,
    failure::Told,
    streams::{Reading, Uploading},
};
use crate::{
    data::{
        Denied, GrantedStore, Need,
        signed::{SignError, SignRequest, SignedMethod},
    },
    wasm::state::GuestState,
};

/// The largest content that goes in or out in one call, in bytes. What is larger is streamed.
pub(super) const MAX_WHOLE_BYTES: u64 = 16 << 20;

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../../wit/io", "../../wit/blob"],
        world: "minnow:blob/imports",
        imports: {
            "minnow:blob/store.[static]bucket.open": trappable,
            "minnow:blob/store.[method]bucket.sign": trappable,
            "minnow:blob/store.[method]upload.body": trappable,
            default: async | trappable,
        },
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "minnow:blob/store.bucket": super::OpenBucket,
            "minnow:blob/store.upload": super::super::streams::Uploading,
        },
        trappable_error_type: { "minnow:blob/store.error" => super::Failure },
    });
}

use bindings::minnow::blob::store;

/// Why a call gives the guest nothing.
pub type Failure = super::failure::Failure<BucketError>;

/// A bucket that a guest has opened.
pub struct OpenBucket {
    /// As the guest knows it.
    pub(super) name: String,
}

impl Told<BucketError> for store::Error {
    fn denied(denied: Denied) -> Self {
        match denied {
            Denied::ReadOnly { .. } => Self::ReadOnly,
            denied => Self::NotGranted(denied.to_string()),
        }
    }

    fn refused(why: String) -> Self {
        Self::Refused(why)
    }

    fn other(message: String) -> Self {
        Self::Other(message)
    }

    fn of(error: BucketError) -> Result<Self, BucketError> {
        Ok(match error {
            BucketError::Range { size } => Self::Range(size),
            error @ (BucketError::Full { .. } | BucketError::DiskFull) => Self::Full(error.to_string()),
            error @ BucketError::Busy { .. } => Self::Busy(error.to_string()),
            error @ BucketError::TooLarge => Self::TooLarge(error.to_string()),
            error => return Err(error),
        })
    }
}

impl DataView<'_> {
    pub(super) fn open_bucket(&mut self, name: String) -> Result<Resource<OpenBucket>, Failure> {
        self.granted(&name, Need::Read)?;
        Ok(self.table.push(OpenBucket { name })?)
    }

    /// The bucket, as the function has it now: a share can be taken back.
    pub(super) fn granted(&self, name: &str, need: Need) -> Result<GrantedStore, Failure> {
        Ok(self.function()?.store(StoreKind::Blob, name, need)?.clone())
    }

    fn bucket(&self, bucket: &Resource<OpenBucket>, need: Need) -> Result<GrantedStore, Failure> {
        self.granted(&self.table.get(bucket)?.name, need)
    }

    pub(super) fn buckets(&self) -> wasmtime::Result<Buckets> {
        Ok(self.data()?.buckets.clone())
    }

    /// Begins an upload.
    pub(super) async fn upload(
        &mut self,
        bucket: &GrantedStore,
        key: String,
        meta: Meta,
        only_if: Conditions,
    ) -> Result<bucket::Upload, Failure> {
        Ok(self.buckets()?.put(place(bucket), key, meta, only_if).await?)
    }

    /// Gives the guest what is left of a blob, to read.
    pub(super) fn reading(&mut self, content: bucket::Content) -> Result<Resource<DynInputStream>, Failure> {
        let reading = Reading::new(content, self.span(), self.open.streams.open()?);
        Ok(self.table.push(Box::new(reading) as DynInputStream)?)
    }
}

/// Where something is written to.
pub(super) fn place(granted: &GrantedStore) -> bucket::Bucket<'_> {
    bucket::Bucket { store: &granted.store, size_bytes: granted.size_bytes }
}

/// Refuses what is too large for one call.
pub(super) fn fits_one_call(bytes: u64) -> Result<(), Failure> {
    if bytes > MAX_WHOLE_BYTES {
        return Err(Failure::Refused(format!(
            "{bytes} bytes in one call, the most is {MAX_WHOLE_BYTES}; use a stream instead"
        )));
    }
    Ok(())
}

impl store::Host for DataView<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<store::Error> {
        self.tell(failure)
    }
}

impl store::HostBucket for DataView<'_> {
    fn open(&mut self, name: String) -> Result<Resource<OpenBucket>, Failure> {
        self.open_bucket(name)
    }

    async fn head(&mut self, bucket: Resource<OpenBucket>, key: String) -> Result<Option<store::Info>, Failure> {
        let bucket = self.bucket(&bucket, Need::Read)?;
        Ok(self.buckets()?.head(&bucket.store, &key).await?.map(Into::into))
    }

    async fn get(
        &mut self,
        bucket: Resource<OpenBucket>,
        key: String,
        options: store::GetOptions,
    ) -> Result<Option<store::Got>, Failure> {
        let bucket = self.bucket(&bucket, Need::Read)?;
        let range = options.range.map(Into::into);
        let got = self.buckets()?.get(&bucket.store, &key, &conditions(options.only_if), range).await?;
        Ok(match got {
            Got::Absent => None,
            Got::Unmet(blob) => Some(store::Got { info: blob.into(), part: None }),
            Got::Found { blob, range, content } => {
                let body = self.reading(content)?;
                let part = store::Part { offset: range.start, size: range.end.saturating_sub(range.start), body };
                Some(store::Got { info: blob.into(), part: Some(part) })
            }
        })
    }

    async fn get_bytes(
        &mut self,
        bucket: Resource<OpenBucket>,
        key: String,
        options: store::GetOptions,
    ) -> Result<Option<store::GotBytes>, Failure> {
        let bucket = self.bucket(&bucket, Need::Read)?;
        let range = options.range.map(Into::into);
        let got = self.buckets()?.get(&bucket.store, &key, &conditions(options.only_if), range).await?;
        Ok(match got {
            Got::Absent => None,
            Got::Unmet(blob) => Some(store::GotBytes { info: blob.into(), bytes: None }),
            Got::Found { blob, content, .. } => {
                fits_one_call(content.remaining())?;
                Some(store::GotBytes { info: blob.into(), bytes: Some(Reading::whole(content).await?) })
            }
        })
    }

    async fn put(
        &mut self,
        bucket: Resource<OpenBucket>,
        key: String,
        options: store::PutOptions,
    ) -> Result<Resource<Uploading>, Failure> {
        let bucket = self.bucket(&bucket, Need::Write)?;
        let counted = self.open.streams.open()?;
        let upload = self.upload(&bucket, key, meta(options.metadata)?, conditions(options.only_if)).await?;
        Ok(self.table.push(Uploading::new(Some(upload), self.span(), counted))?)
    }

    async fn put_bytes(
        &mut self,
        bucket: Resource<OpenBucket>,
        key: String,
        content: Vec<u8>,
        options: store::PutOptions,
    ) -> Result<Option<store::Info>, Failure> {
        let bucket = self.bucket(&bucket, Need::Write)?;
        fits_one_call(content.len() as u64)?;
        let (meta, only_if) = (meta(options.metadata)?, conditions(options.only_if));
        let blob = self.buckets()?.put_bytes(place(&bucket), key, meta, only_if, content.into()).await?;
        Ok(blob.map(Into::into))
    }

    async fn delete(&mut self, bucket: Resource<OpenBucket>, keys: Vec<String>) -> Result<u64, Failure> {
        let bucket = self.bucket(&bucket, Need::Write)?;
        Ok(self.buckets()?.delete(&bucket.store, keys).await?)
    }

    async fn list(
        &mut self,
        bucket: Resource<OpenBucket>,
        options: store::ListOptions,
    ) -> Result<store::Listed, Failure> {
        let bucket = self.bucket(&bucket, Need::Read)?;
        let store::ListOptions { prefix, delimiter, after, limit } = options;
        let listed =
            self.buckets()?.list(&bucket.store, &prefix, after.as_deref(), delimiter.as_deref(), limit).await?;
        let blobs = listed.blobs.into_iter().map(Into::into).collect();
        Ok(store::Listed { blobs, prefixes: listed.prefixes, next: listed.next })
    }

    async fn copy(
        &mut self,
        bucket: Resource<OpenBucket>,
        key: String,
        to: Resource<OpenBucket>,
        to_key: String,
        only_if: Option<store::Conditions>,
    ) -> Result<Option<store::Info>, Failure> {
        let (from, to) = (self.bucket(&bucket, Need::Read)?, self.bucket(&to, Need::Write)?);
        let copied = self.buckets()?.copy((&from.store, &key), place(&to), to_key, conditions(only_if)).await?;
        Ok(copied.map(Into::into))
    }

    fn sign(
        &mut self,
        bucket: Resource<OpenBucket>,
        key: String,
        options: store::SignOptions,
    ) -> Result<String, Failure> {
        let (method, need) = match options.method {
            store::Method::Get => (SignedMethod::Get, Need::Read),
            store::Method::Put => (SignedMethod::Put, Need::Write),
        };
        let bucket = self.bucket(&bucket, need)?;
        let request = SignRequest {
            method,
            expires_in: Duration::from_secs(options.expires_in),
            max_size: options.max_size,
            content_type: options.content_type,
        };
        let signed = self.data()?.signer.sign(&bucket.store, &key, &request);
        signed.map_err(|error: SignError| {
            Failure::Refused(if error.is_refusal() { error.to_string() } else { self.told(&error) })
        })
    }

    async fn drop(&mut self, bucket: Resource<OpenBucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl store::HostUpload for DataView<'_> {
    fn body(&mut self, upload: Resource<Uploading>) -> Result<Resource<DynOutputStream>, Failure> {
        let body = self.table.get(&upload)?.body();
        let body = body.ok_or_else(|| Failure::Refused("an upload gives its body once".into()))?;
        Ok(self.table.push(Box::new(body) as DynOutputStream)?)
    }

    async fn finish(&mut self, upload: Resource<Uploading>) -> Result<Option<store::Info>, Failure> {
        let upload = self.table.delete(upload)?;
        Ok(upload.finish().await?.map(Into::into))
    }

    async fn drop(&mut self, upload: Resource<Uploading>) -> wasmtime::Result<()> {
        self.table.delete(upload)?.give_up();
        Ok(())
    }
}

impl From<Blob> for store::Info {
    fn from(blob: Blob) -> Self {
        let Blob { key, size, etag, uploaded_ms, meta } = blob;
        let Meta { content_type, content_encoding, content_language, content_disposition, cache_control, custom } =
            meta;
        let metadata = store::Metadata {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            custom: custom.into_iter().collect(),
        };
        Self { key, size, etag, uploaded: uploaded_ms, metadata }
    }
}

impl From<store::ByteRange> for Range {
    fn from(range: store::ByteRange) -> Self {
        match range {
            store::ByteRange::From(offset) => Self::From { offset, length: None },
            store::ByteRange::Part((offset, length)) => Self::From { offset, length: Some(length) },
            store::ByteRange::Last(bytes) => Self::Last(bytes),
        }
    }
}

fn conditions(only_if: Option<store::Conditions>) -> Conditions {
    let Some(only_if) = only_if else { return Conditions::default() };
    Conditions {
        if_match: only_if.if_match,
        if_none_match: only_if.if_none_match,
        uploaded_before_ms: only_if.uploaded_before,
        uploaded_after_ms: only_if.uploaded_after,
    }
}

fn meta(metadata: Option<store::Metadata>) -> Result<Meta, Failure> {
    let Some(metadata) = metadata else { return Ok(Meta::default()) };
    let mut meta = Meta {
        content_type: metadata.content_type,
        content_encoding: metadata.content_encoding,
        content_language: metadata.content_language,
        content_disposition: metadata.content_disposition,
        cache_control: metadata.cache_control,
        ..Meta::default()
    };
    for (name, value) in metadata.custom {
        if meta.custom.insert(name.clone(), value).is_some() {
            return Err(Failure::Refused(format!("the metadata has `{name}` twice")));
        }
    }
    Ok(meta)
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    store::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}
