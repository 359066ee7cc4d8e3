//! `wasi:filesystem` 0.2, as components import it.

use std::sync::Arc;

use bytes::Bytes;
use minnow_store::volume::{At, Change, Held, Usage};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtx, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult, InputStream, OutputStream, Pollable, StreamError,
        StreamResult,
        bindings::filesystem::{
            preopens,
            types::{
                self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
                ErrorCode, Filesize, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
            },
        },
    },
};

use super::{Files, Mount, TooMany, writer::Writer};
use crate::{
    Function,
    data::local::Connection,
    wasm::state::{GuestState, Owner},
};

/// What file calls need of a sandbox.
pub(in crate::wasm) struct FilesView<'a> {
    pub(in crate::wasm) owner: &'a Owner,
    pub(in crate::wasm) table: &'a mut ResourceTable,
    pub(in crate::wasm) files: &'a mut Option<Box<Files>>,
}

/// Says to wasmtime's linker what a host function gets.
struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = FilesView<'a>;
}

fn function_of(owner: &Owner) -> wasmtime::Result<&Arc<Function>> {
    owner.function().ok_or_else(|| wasmtime::format_err!("the sandbox has no invocation"))
}

/// Links the files of components.
pub(in crate::wasm) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<_, HasFiles>(linker, GuestState::files)?;
    types::add_to_linker::<_, HasFiles>(linker, GuestState::files)
}

type Fd = Resource<Descriptor>;

/// What wasmtime-wasi makes of the sandbox's handles.
macro_rules! wasi {
    ($view:ident) => {
        WasiFilesystemCtxView { ctx: &mut WasiFilesystemCtx::default(), table: $view.table }
    };
}

/// 0.2 has no code of its own for this: a file or stream more is more memory of the host's.
impl From<TooMany> for FsError {
    fn from(TooMany: TooMany) -> Self {
        ErrorCode::InsufficientMemory.into()
    }
}

impl FilesView<'_> {
    fn files(&mut self) -> wasmtime::Result<&mut Files> {
        match self.files {
            Some(files) => Ok(files),
            None => {
                let files = Files::new(function_of(self.owner)?, self.owner.run())?;
                Ok(self.files.insert(Box::new(files)))
            }
        }
    }

    /// Opens the folder of a mount when it is used for the first time. Answers which mount the handle is in.
    async fn ready(&mut self, fd: &Fd) -> FsResult<usize> {
        let files = self.files().map_err(FsError::trap)?;
        let open = files.open.get_mut(&fd.rep()).ok_or(ErrorCode::BadDescriptor)?;
        let at = open.mount;
        if open.is_untouched {
            let mount = files.mounts.get_mut(at).ok_or(ErrorCode::BadDescriptor)?;
            let dir = mount.open().await?;
            open.is_untouched = false;
            *self.table.get_mut(fd)? = Descriptor::Dir(dir);
        }
        Ok(at)
    }

    fn mount(&mut self, at: usize) -> FsResult<&mut Mount> {
        let files = self.files().map_err(FsError::trap)?;
        Ok(files.mounts.get_mut(at).ok_or(ErrorCode::BadDescriptor)?)
    }

    /// Something may have been deleted.
    fn freed(&mut self, at: usize) -> FsResult<()> {
        self.mount(at)?.volume.freed();
        Ok(())
    }

    /// Claims an entry, unless the guest may not make one.
    async fn claim_entry(&mut self, at: usize) -> FsResult<minnow_store::volume::Claim> {
        let mount = self.mount(at)?;
        if mount.read_only {
            return Err(ErrorCode::NotPermitted.into());
        }
        Ok(mount.volume.claim(mount.most, Usage::ENTRY).await?)
    }

    /// To be held while something is opened that may be truncated.
    async fn shortening(
        &mut self,
        at: usize,
        flags: OpenFlags,
    ) -> FsResult<Option<tokio::sync::OwnedRwLockWriteGuard<()>>> {
        let mount = self.mount(at)?;
        Ok(if flags.contains(OpenFlags::TRUNCATE) && !mount.read_only {
            Some(mount.volume.shortening().await)
        } else {
            None
        })
    }

    /// What is opened is in the table of handles from here on.
    fn opened(&mut self, fd: Fd, at: usize, place: tokio::sync::OwnedSemaphorePermit) -> FsResult<Fd> {
        let file = match self.table.get(&fd)? {
            Descriptor::File(file) => Some(Arc::clone(&file.file)),
            Descriptor::Dir(_) => None,
        };
        self.files().map_err(FsError::trap)?.opened(fd.rep(), at, file, place);
        Ok(fd)
    }

    fn connection(&mut self, fd: &Fd) -> FsResult<Option<Connection>> {
        Ok(self.files().map_err(FsError::trap)?.connection(fd.rep()).cloned())
    }

    /// Opens a connection to the services. What stands for it is the empty file that is there.
    async fn open_service(
        &mut self,
        fd: Fd,
        at: usize,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        use types::HostDescriptor as _;
        if open_flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE) {
            return Err(ErrorCode::Exist.into());
        }
        if open_flags.contains(OpenFlags::DIRECTORY) {
            return Err(ErrorCode::NotDirectory.into());
        }
        // Whoever only reads waits for ever, and whoever only writes learns nothing.
        if !flags.contains(DescriptorFlags::READ | DescriptorFlags::WRITE) {
            return Err(ErrorCode::Access.into());
        }
        let files = self.files().map_err(FsError::trap)?;
        let (place, connection) = (files.place()?, files.connect()?);
        let (open_flags, flags) = (OpenFlags::empty(), DescriptorFlags::READ);
        let opened = wasi!(self).open_at(fd, PathFlags::empty(), path, open_flags, flags).await?;
        let opened = self.opened(opened, at, place)?;
        self.files().map_err(FsError::trap)?.connected(opened.rep(), connection);
        Ok(opened)
    }

    fn writer(&mut self, fd: &Fd, at: At) -> FsResult<Resource<DynOutputStream>> {
        if let Some(connection) = self.connection(fd)? {
            let place = self.files().map_err(FsError::trap)?.stream()?;
            let writer: DynOutputStream = Box::new(ServiceWriter { connection, _place: place });
            return Ok(self.table.push(writer)?);
        }
        let Descriptor::File(file) = self.table.get(fd)? else { return Err(ErrorCode::BadDescriptor.into()) };
        if file.perms.write_not_permitted() {
            return Err(ErrorCode::NotPermitted.into());
        }
        let files = self.files().map_err(FsError::trap)?;
        let place = files.stream()?;
        let growing = files.growing(fd.rep()).ok_or(ErrorCode::BadDescriptor)?;
        let writer: DynOutputStream = Box::new(Writer::new(growing, at, place));
        Ok(self.table.push(writer)?)
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        let files = self.files()?;
        let paths: Vec<_> = files.mounts.iter().map(|mount| mount.path.to_string()).collect();
        let placeholder = function_of(self.owner)?.runtime().file_roots.placeholder()?;
        let mut directories = Vec::with_capacity(paths.len());
        for (at, path) in paths.into_iter().enumerate() {
            let fd = self.table.push(Descriptor::Dir(placeholder.clone()))?;
            self.files()?.open.insert(fd.rep(), Files::root(at));
            directories.push((fd, path));
        }
        Ok(directories)
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<std::io::Error>().map(ErrorCode::from))
    }
}

impl types::HostDescriptor for FilesView<'_> {
    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let connection = self.connection(&fd)?;
        let files = self.files().map_err(FsError::trap)?;
        let (place, held) = (files.stream()?, files.held(fd.rep()));
        if let Some(connection) = connection {
            let reader: DynInputStream = Box::new(ServiceReader { connection, _place: place });
            return Ok(self.table.push(reader)?);
        }
        let stream = wasi!(self).read_via_stream(fd, offset)?;
        let reader = self.table.delete(stream)?;
        let reader: DynInputStream = Box::new(Reader { reader, _held: held, _place: place });
        Ok(self.table.push(reader)?)
    }

    fn write_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, At::Offset(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, At::End)
    }

    async fn advise(&mut self, fd: Fd, offset: Filesize, length: Filesize, advice: Advice) -> FsResult<()> {
        wasi!(self).advise(fd, offset, length, advice).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.ready(&fd).await?;
        wasi!(self).sync_data(fd).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.ready(&fd).await?;
        if self.connection(&fd)?.is_some() {
            return Ok(DescriptorFlags::READ | DescriptorFlags::WRITE);
        }
        wasi!(self).get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        wasi!(self).get_type(fd).await
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        if self.mount(at)?.read_only {
            return Err(ErrorCode::NotPermitted.into());
        }
        let growing = self.files().map_err(FsError::trap)?.growing(fd.rep()).ok_or(ErrorCode::BadDescriptor)?;
        let growth = growing.claim(Change::Size(size)).await?;
        let is_shorter = growth.is_none();
        growth.finish(&growing.file, wasi!(self).set_size(fd, size).await)?;
        if is_shorter {
            self.freed(at)?;
        }
        Ok(())
    }

    async fn set_times(&mut self, fd: Fd, access: NewTimestamp, modification: NewTimestamp) -> FsResult<()> {
        self.ready(&fd).await?;
        wasi!(self).set_times(fd, access, modification).await
    }

    async fn read(&mut self, fd: Fd, length: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        if let Some(connection) = self.connection(&fd)? {
            let read = connection.read(usize::try_from(length).unwrap_or(usize::MAX)).await;
            return Ok(read.map_or_else(|| (Vec::new(), true), |bytes| (bytes.into(), false)));
        }
        wasi!(self).read(fd, length, offset).await
    }

    async fn write(&mut self, fd: Fd, buffer: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        if let Some(connection) = self.connection(&fd)? {
            connection.writable().await;
            return Ok(connection.write(&buffer) as u64);
        }
        let Descriptor::File(file) = self.table.get(&fd)? else { return Err(ErrorCode::BadDescriptor.into()) };
        if file.perms.write_not_permitted() {
            return Err(ErrorCode::NotPermitted.into());
        }
        let growing = self.files().map_err(FsError::trap)?.growing(fd.rep()).ok_or(ErrorCode::BadDescriptor)?;
        Ok(growing.write(At::Offset(offset), buffer.into()).await?)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        self.ready(&fd).await?;
        let Descriptor::Dir(dir) = self.table.get(&fd)? else { return Err(ErrorCode::NotDirectory.into()) };
        let folder = Arc::clone(&dir.dir);
        let listing = self.files().map_err(FsError::trap)?.list(folder).await??;
        let stream = wasi!(self).read_directory(fd).await?;
        self.files().map_err(FsError::trap)?.listings.insert(stream.rep(), listing);
        Ok(stream)
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.ready(&fd).await?;
        wasi!(self).sync(fd).await
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        let claim = self.claim_entry(at).await?;
        claim.unless_failed(wasi!(self).create_directory_at(fd, path).await)
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.ready(&fd).await?;
        wasi!(self).stat(fd).await
    }

    async fn stat_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.ready(&fd).await?;
        wasi!(self).stat_at(fd, flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        access: NewTimestamp,
        modification: NewTimestamp,
    ) -> FsResult<()> {
        self.ready(&fd).await?;
        wasi!(self).set_times_at(fd, flags, path, access, modification).await
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        old_flags: PathFlags,
        old_path: String,
        new_fd: Fd,
        new_path: String,
    ) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        if self.ready(&new_fd).await? != at {
            return Err(ErrorCode::CrossDevice.into());
        }
        let claim = self.claim_entry(at).await?;
        let _moving = self.mount(at)?.volume.moving().await;
        let linked = wasi!(self).link_at(fd, old_flags, old_path, new_fd, new_path).await;
        claim.unless_failed(linked)
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let at = self.ready(&fd).await?;
        if self.files().map_err(FsError::trap)?.is_service(at, &path) {
            return self.open_service(fd, at, path, open_flags, flags).await;
        }
        let place = self.files().map_err(FsError::trap)?.place()?;
        let (dir, named) = (fd.rep(), path.clone());
        let borrowed = || Resource::new_borrow(dir);
        let makes = open_flags.contains(OpenFlags::CREATE);
        // A file that is there claims nothing, so that it can be opened in a volume that is full.
        if !open_flags.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE) || open_flags.contains(OpenFlags::DIRECTORY) {
            let (mut open_flags, mut flags) = (open_flags, flags);
            if makes && !open_flags.contains(OpenFlags::DIRECTORY) {
                open_flags &= !OpenFlags::CREATE;
                // With the rights that one which is made would have.
                flags |= if flags.contains(DescriptorFlags::WRITE) {
                    DescriptorFlags::WRITE
                } else {
                    DescriptorFlags::WRITE | DescriptorFlags::READ
                };
            }
            let _shortening = self.shortening(at, open_flags).await?;
            match wasi!(self).open_at(borrowed(), path_flags, path, open_flags, flags).await {
                Ok(opened) => {
                    if open_flags.contains(OpenFlags::TRUNCATE) {
                        self.freed(at)?;
                    }
                    return self.opened(opened, at, place);
                }
                Err(error) if makes && matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)) => {}
                Err(error) => return Err(error),
            }
        }
        let claim = self.claim_entry(at).await?;
        // Somebody else may have made it meanwhile.
        let _shortening = self.shortening(at, open_flags).await?;
        let opened = wasi!(self).open_at(borrowed(), path_flags, named, open_flags, flags).await;
        let opened = claim.unless_failed(opened)?;
        self.opened(opened, at, place)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.ready(&fd).await?;
        wasi!(self).readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        wasi!(self).remove_directory_at(fd, path).await?;
        self.freed(at)
    }

    async fn rename_at(&mut self, fd: Fd, old_path: String, new_fd: Fd, new_path: String) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        if self.ready(&new_fd).await? != at {
            return Err(ErrorCode::CrossDevice.into());
        }
        let _moving = self.mount(at)?.volume.moving().await;
        wasi!(self).rename_at(fd, old_path, new_fd, new_path).await?;
        // It may have taken the place of another.
        self.freed(at)
    }

    async fn symlink_at(&mut self, fd: Fd, old_path: String, new_path: String) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        let claim = self.claim_entry(at).await?;
        claim.unless_failed(wasi!(self).symlink_at(fd, old_path, new_path).await)
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let at = self.ready(&fd).await?;
        wasi!(self).unlink_file_at(fd, path).await?;
        self.freed(at)
    }

    async fn is_same_object(&mut self, fd: Fd, other: Fd) -> wasmtime::Result<bool> {
        for fd in [&fd, &other] {
            self.ready(fd).await?;
        }
        wasi!(self).is_same_object(fd, other).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.ready(&fd).await?;
        wasi!(self).metadata_hash(fd).await
    }

    async fn metadata_hash_at(&mut self, fd: Fd, flags: PathFlags, path: String) -> FsResult<MetadataHashValue> {
        self.ready(&fd).await?;
        wasi!(self).metadata_hash_at(fd, flags, path).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        let number = fd.rep();
        self.table.delete(fd)?;
        self.files()?.closed(number);
        Ok(())
    }
}

impl types::HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        wasi!(self).read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        let number = stream.rep();
        self.table.delete(stream)?;
        self.files()?.listings.remove(&number);
        Ok(())
    }
}

/// What a guest reads from a connection to the services. Where in the file makes no difference.
struct ServiceReader {
    connection: Connection,
    _place: Arc<()>,
}

#[wasmtime_wasi::async_trait]
impl InputStream for ServiceReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.connection.read_now(size).ok_or(StreamError::Closed)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        // Of a guest that waits here nothing more can come meanwhile.
        self.connection.read(size).await.ok_or(StreamError::Closed)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for ServiceReader {
    async fn ready(&mut self) {
        self.connection.readable().await;
    }
}

/// What a guest writes to a connection to the services.
struct ServiceWriter {
    connection: Connection,
    _place: Arc<()>,
}

#[wasmtime_wasi::async_trait]
impl OutputStream for ServiceWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.connection.room() {
            return Err(StreamError::trap("wrote without a permit"));
        }
        self.connection.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.connection.room())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for ServiceWriter {
    async fn ready(&mut self) {
        self.connection.writable().await;
    }
}

/// A stream of wasmtime-wasi's that holds one of the sandbox's places.
struct Reader {
    reader: DynInputStream,
    _held: Option<Arc<Held>>,
    _place: Arc<()>,
}

#[wasmtime_wasi::async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.reader.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.reader.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.reader.cancel().await;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        self.reader.ready().await;
    }
}
