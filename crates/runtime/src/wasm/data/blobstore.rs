//! `wasi:blobstore`, in both versions that components are built for: containers are the buckets of the app.

use minnow_store::{
    BucketError,
    bucket::{Blob, Conditions, Content, Got, MAX_DELETE, MAX_PAGE, Meta, Range},
};
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::{
    DataView, HasDataView,
    blob::{Failure, OpenBucket, fits_one_call, place},
    failure::Told,
    streams::{Counted, Reading, Uploading},
};
use crate::{
    data::{Denied, Need},
    wasm::state::GuestState,
};

/// An object that a guest is about to read.
pub struct Incoming {
    content: Content,
    counted: Counted,
}

/// Where a guest is in the names of a container.
pub struct Names {
    /// As the guest knows it.
    bucket: String,
    after: Option<String>,
    is_over: bool,
}

mod draft {
    wasmtime::component::bindgen!({
        path: ["../../wit/io", "../../wit/blobstore-draft"],
        world: "wasi:blobstore/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:blobstore/container.container": super::super::blob::OpenBucket,
            "wasi:blobstore/container.stream-object-names": super::Names,
            "wasi:blobstore/types.incoming-value": super::Incoming,
            "wasi:blobstore/types.outgoing-value": super::super::streams::Uploading,
        },
        trappable_error_type: { "wasi:blobstore/types.error" => super::super::blob::Failure },
    });
}

mod draft_2024_09_01 {
    wasmtime::component::bindgen!({
        path: ["../../wit/io", "../../wit/blobstore-draft-2024-09-01"],
        world: "wasi:blobstore/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:blobstore/container.container": super::super::blob::OpenBucket,
            "wasi:blobstore/container.stream-object-names": super::Names,
            "wasi:blobstore/types.incoming-value": super::Incoming,
            "wasi:blobstore/types.outgoing-value": super::super::streams::Uploading,
        },
        trappable_error_type: { "wasi:blobstore/types.error" => super::super::blob::Failure },
    });
}

impl Told<BucketError> for String {
    fn denied(denied: Denied) -> Self {
        denied.to_string()
    }

    fn refused(why: String) -> Self {
        why
    }

    fn other(message: String) -> Self {
        message
    }
}

/// An object of a container, by the names that the guest has for them.
struct Object {
    container: String,
    name: String,
}

impl DataView<'_> {
    fn name_of(&self, container: &Resource<OpenBucket>) -> Result<String, Failure> {
        Ok(self.table.get(container)?.name.clone())
    }

    async fn find(&mut self, container: &str, name: &str) -> Result<Option<Blob>, Failure> {
        let bucket = self.granted(container, Need::Read)?;
        Ok(self.buckets()?.head(&bucket.store, name).await?)
    }

    async fn info_of(&mut self, container: &str, name: &str) -> Result<Blob, Failure> {
        self.find(container, name).await?.ok_or_else(|| no_object(container, name))
    }

    /// The bytes from `start` to `end`, both inclusive.
    async fn incoming(
        &mut self,
        container: &str,
        name: &str,
        start: u64,
        end: u64,
    ) -> Result<Resource<Incoming>, Failure> {
        let Some(length) = end.checked_sub(start) else {
            return Err(Failure::Refused(format!("the range ends at {end}, before its begin at {start}")));
        };
        let bucket = self.granted(container, Need::Read)?;
        let counted = self.open.streams.open()?;
        let range = Range::From { offset: start, length: Some(length.saturating_add(1)) };
        match self.buckets()?.get(&bucket.store, name, &Conditions::default(), Some(range)).await? {
            Got::Found { content, .. } => Ok(self.table.push(Incoming { content, counted })?),
            Got::Absent | Got::Unmet(_) => Err(no_object(container, name)),
        }
    }

    /// Says which object a value is to be.
    async fn send(&mut self, to: Object, value: &Resource<Uploading>) -> Result<(), Failure> {
        let bucket = self.granted(&to.container, Need::Write)?;
        if !self.table.get(value)?.is_nowhere() {
            return Err(Failure::Refused("the value goes to an object already; make another one".into()));
        }
        let upload = self.upload(&bucket, to.name, Meta::default(), Conditions::default()).await?;
        self.table.get(value)?.begin(upload);
        Ok(())
    }

    async fn remove(&mut self, container: &str, names: Vec<String>) -> Result<(), Failure> {
        let bucket = self.granted(container, Need::Write)?;
        let buckets = self.buckets()?;
        for names in names.chunks(MAX_DELETE) {
            buckets.delete(&bucket.store, names.to_vec()).await?;
        }
        Ok(())
    }

    async fn empty(&mut self, container: &str) -> Result<(), Failure> {
        let bucket = self.granted(container, Need::Write)?;
        let buckets = self.buckets()?;
        let mut after = None;
        loop {
            let page = buckets.list(&bucket.store, "", after.as_deref(), None, MAX_PAGE).await?;
            let names = page.blobs.into_iter().map(|blob| blob.key).collect();
            buckets.delete(&bucket.store, names).await?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// The next names, at most so many and at most a page.
    async fn names(&mut self, names: &Resource<Names>, most: u64) -> Result<(Vec<String>, bool), Failure> {
        let Names { bucket, after, is_over } = self.table.get(names)?;
        if *is_over || most == 0 {
            return Ok((Vec::new(), *is_over));
        }
        let (bucket, after) = (self.granted(bucket, Need::Read)?, after.clone());
        let limit = u32::try_from(most).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let page = self.buckets()?.list(&bucket.store, "", after.as_deref(), None, limit).await?;
        let names = self.table.get_mut(names)?;
        names.is_over = page.next.is_none();
        names.after = page.next;
        Ok((page.blobs.into_iter().map(|blob| blob.key).collect(), names.is_over))
    }

    async fn skip(&mut self, names: &Resource<Names>, most: u64) -> Result<(u64, bool), Failure> {
        let mut skipped: u64 = 0;
        loop {
            let (page, is_over) = self.names(names, most.saturating_sub(skipped)).await?;
            skipped = skipped.saturating_add(page.len() as u64);
            if is_over || skipped >= most {
                return Ok((skipped, is_over));
            }
        }
    }

    /// The copy. Without conditions there always is one.
    async fn copied(&mut self, from: &Object, to: Object) -> Result<Option<Blob>, Failure> {
        let source = self.granted(&from.container, Need::Read)?;
        let bucket = self.granted(&to.container, Need::Write)?;
        let only_if = Conditions::default();
        Ok(self.buckets()?.copy((&source.store, &from.name), place(&bucket), to.name, only_if).await?)
    }

    async fn copy_object(&mut self, from: &Object, to: Object) -> Result<(), Failure> {
        self.copied(from, to).await?;
        Ok(())
    }

    async fn move_object(&mut self, from: Object, to: Object) -> Result<(), Failure> {
        let source = self.granted(&from.container, Need::Write)?;
        let is_there = self.granted(&to.container, Need::Write)?.store == source.store && to.name == from.name;
        let copy = self.copied(&from, to).await?;
        // Where it already is, it stays.
        if let Some(copy) = copy
            && !is_there
        {
            // What somebody has put there meanwhile came after the move.
            let only_if = Conditions { if_match: Some(vec![copy.etag]), ..Conditions::default() };
            self.buckets()?.delete_if(&source.store, vec![from.name], only_if).await?;
        }
        Ok(())
    }
}

fn no_object(container: &str, name: &str) -> Failure {
    Failure::Refused(format!("there is no object `{name}` in `{container}`"))
}

/// Both versions have the same calls. They differ in what times are counted in: neither says, and so each has what the host
/// has that it comes from.
macro_rules! blobstore_host {
    ($version:ident, $units_per_ms:expr) => {
        impl $version::wasi::blobstore::types::Host for DataView<'_> {
            fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<String> {
                self.tell(failure)
            }
        }

        impl $version::wasi::blobstore::types::HostOutgoingValue for DataView<'_> {
            async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<Uploading>> {
                // The call has no way to fail but one.
                let counted = match self.open.streams.open() {
                    Ok(counted) => counted,
                    Err(failure) => return Err(wasmtime::Error::msg(self.tell::<BucketError, String>(failure)?)),
                };
                Ok(self.table.push(Uploading::new(None, self.span(), counted))?)
            }

            async fn outgoing_value_write_body(
                &mut self,
                value: Resource<Uploading>,
            ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
                let Some(body) = self.table.get(&value)?.body() else { return Ok(Err(())) };
                Ok(Ok(self.table.push(Box::new(body) as DynOutputStream)?))
            }

            async fn finish(&mut self, value: Resource<Uploading>) -> Result<(), Failure> {
                let value = self.table.delete(value)?;
                value.finish().await?;
                Ok(())
            }

            async fn drop(&mut self, value: Resource<Uploading>) -> wasmtime::Result<()> {
                self.table.delete(value)?.give_up();
                Ok(())
            }
        }

        impl $version::wasi::blobstore::types::HostIncomingValue for DataView<'_> {
            async fn incoming_value_consume_sync(&mut self, value: Resource<Incoming>) -> Result<Vec<u8>, Failure> {
                let Incoming { content, .. } = self.table.delete(value)?;
                fits_one_call(content.remaining())?;
                Ok(Reading::whole(content).await?)
            }

            async fn incoming_value_consume_async(
                &mut self,
                value: Resource<Incoming>,
            ) -> Result<Resource<DynInputStream>, Failure> {
                let Incoming { content, counted } = self.table.delete(value)?;
                let reading = Reading::new(content, self.span(), counted);
                Ok(self.table.push(Box::new(reading) as DynInputStream)?)
            }

            async fn size(&mut self, value: Resource<Incoming>) -> wasmtime::Result<u64> {
                Ok(self.table.get(&value)?.content.remaining())
            }

            async fn drop(&mut self, value: Resource<Incoming>) -> wasmtime::Result<()> {
                self.table.delete(value)?;
                Ok(())
            }
        }

        impl $version::wasi::blobstore::container::Host for DataView<'_> {}

        impl $version::wasi::blobstore::container::HostContainer for DataView<'_> {
            async fn name(&mut self, container: Resource<OpenBucket>) -> Result<String, Failure> {
                self.name_of(&container)
            }

            async fn info(
                &mut self,
                container: Resource<OpenBucket>,
            ) -> Result<$version::wasi::blobstore::types::ContainerMetadata, Failure> {
                let name = self.name_of(&container)?;
                Ok($version::wasi::blobstore::types::ContainerMetadata { name, created_at: 0 })
            }

            async fn get_data(
                &mut self,
                container: Resource<OpenBucket>,
                name: String,
                start: u64,
                end: u64,
            ) -> Result<Resource<Incoming>, Failure> {
                let container = self.name_of(&container)?;
                self.incoming(&container, &name, start, end).await
            }

            async fn write_data(
                &mut self,
                container: Resource<OpenBucket>,
                name: String,
                data: Resource<Uploading>,
            ) -> Result<(), Failure> {
                let container = self.name_of(&container)?;
                self.send(Object { container, name }, &data).await
            }

            async fn list_objects(&mut self, container: Resource<OpenBucket>) -> Result<Resource<Names>, Failure> {
                let bucket = self.name_of(&container)?;
                self.granted(&bucket, Need::Read)?;
                Ok(self.table.push(Names { bucket, after: None, is_over: false })?)
            }

            async fn delete_object(&mut self, container: Resource<OpenBucket>, name: String) -> Result<(), Failure> {
                let container = self.name_of(&container)?;
                self.remove(&container, vec![name]).await
            }

            async fn delete_objects(
                &mut self,
                container: Resource<OpenBucket>,
                names: Vec<String>,
            ) -> Result<(), Failure> {
                let container = self.name_of(&container)?;
                self.remove(&container, names).await
            }

            async fn has_object(&mut self, container: Resource<OpenBucket>, name: String) -> Result<bool, Failure> {
                let container = self.name_of(&container)?;
                Ok(self.find(&container, &name).await?.is_some())
            }

            async fn object_info(
                &mut self,
                container: Resource<OpenBucket>,
                name: String,
            ) -> Result<$version::wasi::blobstore::types::ObjectMetadata, Failure> {
                let container = self.name_of(&container)?;
                let Blob { key, size, uploaded_ms, .. } = self.info_of(&container, &name).await?;
                let created_at = $units_per_ms(uploaded_ms);
                Ok($version::wasi::blobstore::types::ObjectMetadata { name: key, container, created_at, size })
            }

            async fn clear(&mut self, container: Resource<OpenBucket>) -> Result<(), Failure> {
                let container = self.name_of(&container)?;
                self.empty(&container).await
            }

            async fn drop(&mut self, container: Resource<OpenBucket>) -> wasmtime::Result<()> {
                self.table.delete(container)?;
                Ok(())
            }
        }

        impl $version::wasi::blobstore::container::HostStreamObjectNames for DataView<'_> {
            async fn read_stream_object_names(
                &mut self,
                names: Resource<Names>,
                len: u64,
            ) -> Result<(Vec<String>, bool), Failure> {
                self.names(&names, len).await
            }

            async fn skip_stream_object_names(
                &mut self,
                names: Resource<Names>,
                num: u64,
            ) -> Result<(u64, bool), Failure> {
                self.skip(&names, num).await
            }

            async fn drop(&mut self, names: Resource<Names>) -> wasmtime::Result<()> {
                self.table.delete(names)?;
                Ok(())
            }
        }

        impl $version::wasi::blobstore::blobstore::Host for DataView<'_> {
            async fn create_container(&mut self, _name: String) -> Result<Resource<OpenBucket>, Failure> {
                Err(Failure::Refused(CREATE.into()))
            }

            async fn get_container(&mut self, name: String) -> Result<Resource<OpenBucket>, Failure> {
                self.open_bucket(name)
            }

            async fn delete_container(&mut self, _name: String) -> Result<(), Failure> {
                Err(Failure::Refused(DELETE.into()))
            }

            async fn container_exists(&mut self, name: String) -> Result<bool, Failure> {
                match self.granted(&name, Need::Read) {
                    Ok(_) => Ok(true),
                    Err(Failure::Denied(_)) => Ok(false),
                    Err(failure) => Err(failure),
                }
            }

            async fn copy_object(
                &mut self,
                src: $version::wasi::blobstore::types::ObjectId,
                dest: $version::wasi::blobstore::types::ObjectId,
            ) -> Result<(), Failure> {
                let from = Object { container: src.container, name: src.object };
                let to = Object { container: dest.container, name: dest.object };
                DataView::copy_object(self, &from, to).await
            }

            async fn move_object(
                &mut self,
                src: $version::wasi::blobstore::types::ObjectId,
                dest: $version::wasi::blobstore::types::ObjectId,
            ) -> Result<(), Failure> {
                let from = Object { container: src.container, name: src.object };
                let to = Object { container: dest.container, name: dest.object };
                DataView::move_object(self, from, to).await
            }
        }
    };
}

const CREATE: &str =
    "buckets are not made by functions; add `[blob.NAME]` to minnow.toml and the name to `blob` of the function";
const DELETE: &str = "buckets are not deleted by functions; use `clear`, or delete the app";

// wasmCloud's stores have seconds.
blobstore_host!(draft, |ms: u64| ms / 1000);
// Spin's have nanoseconds.
blobstore_host!(draft_2024_09_01, |ms: u64| ms.saturating_mul(1_000_000));

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    {
        use draft::wasi::blobstore::{blobstore, container, types};
        types::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
        container::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
        blobstore::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    }
    use draft_2024_09_01::wasi::blobstore::{blobstore, container, types};
    types::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    container::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    blobstore::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}
