//! `wasi:keyvalue`, in both versions that components are built for.

use minnow_model::{StoreId, StoreKind};
use minnow_store::kv::{Entry, KvError, Page, Write};
use wasmtime::component::{Linker, Resource};

use super::{DataView, HasDataView, failure::Told};
use crate::{
    data::{Denied, Need},
    meter::now_ms,
    wasm::state::GuestState,
};

/// Keys that one call of `list-keys` returns.
const PAGE: u32 = 1000;

/// A store that a guest has opened.
pub struct Bucket {
    store: StoreId,
    /// As the guest knows it.
    name: String,
    /// The page that comes next, for guests whose cursors are numbers: the number and the last key before it.
    next: Option<(u64, String)>,
}

/// A key as it was when a guest looked. Not its value: a guest may have a thousand of these, of 25 MiB each.
pub struct Cas {
    store: StoreId,
    name: String,
    key: String,
    /// `None`: there was none.
    version: Option<u64>,
}

/// Why a call gives the guest nothing.
pub type Failure = super::failure::Failure<KvError>;

mod draft {
    wasmtime::component::bindgen!({
        path: "../../wit/keyvalue-draft",
        world: "wasi:keyvalue/imports",
        imports: {
            "wasi:keyvalue/store.[method]bucket.get": async | trappable,
            "wasi:keyvalue/store.[method]bucket.set": async | trappable,
            "wasi:keyvalue/store.[method]bucket.delete": async | trappable,
            "wasi:keyvalue/store.[method]bucket.exists": async | trappable,
            "wasi:keyvalue/store.[method]bucket.list-keys": async | trappable,
            "wasi:keyvalue/atomics.increment": async | trappable,
            "wasi:keyvalue/batch.get-many": async | trappable,
            "wasi:keyvalue/batch.set-many": async | trappable,
            "wasi:keyvalue/batch.delete-many": async | trappable,
            default: trappable,
        },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::Failure },
    });
}

mod draft2 {
    wasmtime::component::bindgen!({
        path: ["../../wit/keyvalue-draft2", "../../wit/keyvalue"],
        inline: "
            package minnow:host;
            world host {
                include wasi:keyvalue/imports@0.2.0-draft2;
                import minnow:keyvalue/extras@0.1.0;
            }
        ",
        imports: {
            "minnow:keyvalue/extras.get-entry": async | trappable,
            "minnow:keyvalue/extras.set-entry": async | trappable,
            "minnow:keyvalue/extras.list-keys": async | trappable,
            "wasi:keyvalue/store.[method]bucket.get": async | trappable,
            "wasi:keyvalue/store.[method]bucket.set": async | trappable,
            "wasi:keyvalue/store.[method]bucket.delete": async | trappable,
            "wasi:keyvalue/store.[method]bucket.exists": async | trappable,
            "wasi:keyvalue/store.[method]bucket.list-keys": async | trappable,
            "wasi:keyvalue/atomics.increment": async | trappable,
            "wasi:keyvalue/atomics.[static]cas.new": async | trappable,
            "wasi:keyvalue/atomics.[method]cas.current": async | trappable,
            "wasi:keyvalue/atomics.swap": async | trappable,
            "wasi:keyvalue/batch.get-many": async | trappable,
            "wasi:keyvalue/batch.set-many": async | trappable,
            "wasi:keyvalue/batch.delete-many": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:keyvalue/store.bucket": super::Bucket,
            "wasi:keyvalue/atomics.cas": super::Cas,
        },
        trappable_error_type: {
            "wasi:keyvalue/store.error" => super::Failure,
            "wasi:keyvalue/atomics.cas-error" => super::SwapFailure,
        },
    });
}

/// Why a swap did not happen.
pub enum SwapFailure {
    Store(Failure),
    /// The value is another one now.
    Failed(Resource<Cas>),
}

impl<E: Into<Failure>> From<E> for SwapFailure {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

impl DataView<'_> {
    fn open_store(&mut self, name: String) -> Result<Resource<Bucket>, Failure> {
        let store = self.function()?.store(StoreKind::Kv, &name, Need::Read)?.store.clone();
        Ok(self.table.push(Bucket { store, name, next: None })?)
    }

    /// The store of a bucket, if the function may write to it.
    fn writable(&self, bucket: &Resource<Bucket>) -> Result<StoreId, Failure> {
        let bucket = self.table.get(bucket)?;
        self.function()?.store(StoreKind::Kv, &bucket.name, Need::Write)?;
        Ok(bucket.store.clone())
    }

    async fn get(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Result<Vec<Option<Entry>>, Failure> {
        let store = self.table.get(bucket)?.store.clone();
        let kv = self.data()?.kv.clone();
        Ok(kv.fetch(&store, keys).await?)
    }

    async fn get_one(&mut self, bucket: &Resource<Bucket>, key: String) -> Result<Option<Entry>, Failure> {
        Ok(self.get(bucket, vec![key]).await?.pop().flatten())
    }

    async fn page(
        &mut self,
        bucket: &Resource<Bucket>,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page, Failure> {
        let store = self.table.get(bucket)?.store.clone();
        let kv = self.data()?.kv.clone();
        Ok(kv.fetch_page(&store, prefix, after, limit).await?)
    }

    async fn version(&mut self, bucket: &Resource<Bucket>, key: &str) -> Result<Option<u64>, Failure> {
        let store = self.table.get(bucket)?.store.clone();
        let kv = self.data()?.kv.clone();
        Ok(kv.fetch_version(&store, key).await?)
    }

    async fn write(&mut self, bucket: &Resource<Bucket>, writes: Vec<Write>) -> Result<(), Failure> {
        let store = self.writable(bucket)?;
        let kv = self.data()?.kv.clone();
        Ok(kv.write(&store, writes).await?)
    }

    async fn add(&mut self, bucket: &Resource<Bucket>, key: &str, delta: i64) -> Result<i64, Failure> {
        let store = self.writable(bucket)?;
        let kv = self.data()?.kv.clone();
        Ok(kv.increment(&store, key, delta).await?)
    }
}

fn set(key: String, value: Vec<u8>) -> Write {
    Write::Set { key, value: value.into(), metadata: None, expires_ms: None }
}

/// What is the same in both versions.
macro_rules! keyvalue_host {
    ($version:ident) => {
        impl $version::wasi::keyvalue::batch::Host for DataView<'_> {
            async fn get_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Result<Vec<Option<(String, Vec<u8>)>>, Failure> {
                let found = self.get(&bucket, keys.clone()).await?;
                let pairs = keys.into_iter().zip(found);
                Ok(pairs.map(|(key, found)| Some((key, found?.value.into()))).collect())
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                key_values: Vec<(String, Vec<u8>)>,
            ) -> Result<(), Failure> {
                let writes = key_values.into_iter().map(|(key, value)| set(key, value)).collect();
                self.write(&bucket, writes).await
            }

            async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Failure> {
                let writes = keys.into_iter().map(|key| Write::Delete { key }).collect();
                self.write(&bucket, writes).await
            }
        }

        impl $version::wasi::keyvalue::store::Host for DataView<'_> {
            fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Failure> {
                self.open_store(identifier)
            }

            fn convert_error(
                &mut self,
                failure: Failure,
            ) -> wasmtime::Result<$version::wasi::keyvalue::store::Error> {
                self.tell(failure)
            }
        }

        impl Told<KvError> for $version::wasi::keyvalue::store::Error {
            fn denied(denied: Denied) -> Self {
                match denied {
                    Denied::ReadOnly { .. } => Self::AccessDenied,
                    _ => Self::NoSuchStore,
                }
            }

            fn refused(why: String) -> Self {
                Self::Other(why)
            }

            fn other(message: String) -> Self {
                Self::Other(message)
            }
        }

        impl $version::wasi::keyvalue::store::HostBucket for DataView<'_> {
            async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Failure> {
                Ok(self.get_one(&bucket, key).await?.map(|entry| entry.value.into()))
            }

            async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Failure> {
                self.write(&bucket, vec![set(key, value)]).await
            }

            async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Failure> {
                self.write(&bucket, vec![Write::Delete { key }]).await
            }

            async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Failure> {
                Ok(self.version(&bucket, &key).await?.is_some())
            }

            keyvalue_host!(@list $version);

            fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }
    };
    (@list draft) => {
        async fn list_keys(
            &mut self,
            bucket: Resource<Bucket>,
            cursor: Option<u64>,
        ) -> Result<draft::wasi::keyvalue::store::KeyResponse, Failure> {
            let last = match (cursor, &self.table.get(&bucket)?.next) {
                (None, _) => None,
                (Some(cursor), Some((number, last))) if cursor == *number => Some(last.clone()),
                (Some(_), _) => {
                    return Err(Failure::Refused("this cursor is not the one of the last page; begin again".into()));
                }
            };
            let page = self.page(&bucket, "", last.as_deref(), PAGE).await?;
            let opened = self.table.get_mut(&bucket)?;
            opened.next = page.next.map(|last| (cursor.unwrap_or(0).saturating_add(page.keys.len() as u64), last));
            let cursor = opened.next.as_ref().map(|(number, _)| *number);
            let keys = page.keys.into_iter().map(|info| info.key).collect();
            Ok(draft::wasi::keyvalue::store::KeyResponse { keys, cursor })
        }
    };
    (@list draft2) => {
        async fn list_keys(
            &mut self,
            bucket: Resource<Bucket>,
            cursor: Option<String>,
        ) -> Result<draft2::wasi::keyvalue::store::KeyResponse, Failure> {
            let page = self.page(&bucket, "", cursor.as_deref(), PAGE).await?;
            let keys = page.keys.into_iter().map(|info| info.key).collect();
            Ok(draft2::wasi::keyvalue::store::KeyResponse { keys, cursor: page.next })
        }
    };
}

keyvalue_host!(draft);
keyvalue_host!(draft2);

impl draft::wasi::keyvalue::atomics::Host for DataView<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Failure> {
        let too_large = || Failure::Refused("the sum does not fit".into());
        let sum = self.add(&bucket, &key, i64::try_from(delta).map_err(|_| too_large())?).await?;
        u64::try_from(sum).map_err(|_| Failure::Refused(format!("the sum is below 0: {sum}")))
    }
}

impl draft2::wasi::keyvalue::atomics::Host for DataView<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Result<i64, Failure> {
        self.add(&bucket, &key, delta).await
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<(), SwapFailure> {
        let Cas { store, name, key, version } = self.table.delete(cas)?;
        self.function()?.store(StoreKind::Kv, &name, Need::Write)?;
        let kv = self.data()?.kv.clone();
        if kv.compare_and_swap(&store, version, set(key.clone(), value)).await? {
            return Ok(());
        }
        let version = kv.fetch_version(&store, &key).await?;
        Err(SwapFailure::Failed(self.table.push(Cas { store, name, key, version })?))
    }

    fn convert_cas_error(
        &mut self,
        failure: SwapFailure,
    ) -> wasmtime::Result<draft2::wasi::keyvalue::atomics::CasError> {
        use draft2::wasi::keyvalue::{atomics::CasError, store::Host as _};
        Ok(match failure {
            SwapFailure::Store(failure) => CasError::StoreError(self.convert_error(failure)?),
            SwapFailure::Failed(cas) => CasError::CasFailed(cas),
        })
    }
}

impl draft2::wasi::keyvalue::atomics::HostCas for DataView<'_> {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Resource<Cas>, Failure> {
        let version = self.version(&bucket, &key).await?;
        let Bucket { store, name, .. } = self.table.get(&bucket)?;
        let cas = Cas { store: store.clone(), name: name.clone(), key, version };
        Ok(self.table.push(cas)?)
    }

    /// The value now. Where that is not the one of the handle's version any more, the swap fails.
    async fn current(&mut self, cas: Resource<Cas>) -> Result<Option<Vec<u8>>, Failure> {
        let Cas { store, key, .. } = self.table.get(&cas)?;
        let (store, key) = (store.clone(), key.clone());
        let kv = self.data()?.kv.clone();
        let now = kv.fetch(&store, vec![key]).await?.pop().flatten();
        Ok(now.map(|entry| entry.value.into()))
    }

    fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

impl draft2::minnow::keyvalue::extras::Host for DataView<'_> {
    async fn get_entry(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Option<draft2::minnow::keyvalue::extras::Entry>, Failure> {
        let found = self.get_one(&bucket, key).await?;
        Ok(found.map(|entry| draft2::minnow::keyvalue::extras::Entry {
            value: entry.value.into(),
            metadata: entry.metadata,
            expires: entry.expires_ms,
            version: entry.version,
        }))
    }

    async fn set_entry(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        options: draft2::minnow::keyvalue::extras::Options,
    ) -> Result<(), Failure> {
        let expires_ms = options.time_to_live.map(|time| now_ms().saturating_add(time));
        let write = Write::Set { key, value: value.into(), metadata: options.metadata, expires_ms };
        self.write(&bucket, vec![write]).await
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<draft2::minnow::keyvalue::extras::Page, Failure> {
        let page = self.page(&bucket, &prefix, after.as_deref(), limit).await?;
        let keys = page.keys.into_iter().map(|info| draft2::minnow::keyvalue::extras::KeyInfo {
            key: info.key,
            metadata: info.metadata,
            expires: info.expires_ms,
        });
        Ok(draft2::minnow::keyvalue::extras::Page { keys: keys.collect(), next: page.next })
    }
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    {
        use draft::wasi::keyvalue::{atomics, batch, store};
        store::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
        atomics::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
        batch::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    }
    use draft2::wasi::keyvalue::{atomics, batch, store};
    store::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    atomics::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    batch::add_to_linker::<_, HasDataView>(linker, GuestState::data)?;
    draft2::minnow::keyvalue::extras::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}
