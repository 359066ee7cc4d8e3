//! WASI preview 1, as core modules import it. All but files goes straight to wasmtime-wasi.

use std::{collections::HashSet, fs::File, sync::Arc};

use minnow_store::volume::{At, Change, Claim, Growing, Growth, Usage};
use wasmtime::Module;
use wasmtime_wasi::{
    WasiView as _,
    filesystem::{Descriptor, WasiFilesystemView as _},
    p1::{
        WasiP1Ctx,
        types::{
            Advice, CiovecArray, Clockid, Dircookie, Errno, Error, Event, Exitcode, Fd, Fdflags, Fdstat, Filedelta,
            Filesize, Filestat, Fstflags, IovecArray, Lookupflags, Oflags, Prestat, Riflags, Rights, Roflags, Sdflags,
            Siflags, Signal, Size, Subscription, Timestamp, Whence,
        },
        wasi_snapshot_preview1::WasiSnapshotPreview1,
    },
};
use wiggle::{GuestMemory, GuestPtr};

use super::{Files, Preopened, Roots, TooMany};
use crate::{data::local::Connection, meter::Run};

/// The file descriptor of the first folder: after those of input, output and errors.
const FIRST_FOLDER: u32 = 3;

/// Pieces of one write that are looked at: as many as Linux takes (IOV_MAX).
const MAX_PIECES: u32 = 1024;

/// The longest way in which a guest may write the path of the services within their folder, in bytes.
const MAX_SERVICE_PATH: u32 = 256;

type Result<T> = std::result::Result<T, Error>;

/// The context of a core module.
pub(in crate::wasm) struct P1 {
    wasi: WasiP1Ctx,
    /// `None` where the module imports none of the calls that reach files.
    files: Option<Box<P1Files>>,
}

struct P1Files {
    files: Files,
    /// What stands for each mount until it is used.
    places: Vec<Arc<File>>,
}

/// Whether a module can reach files.
pub(in crate::wasm) fn imports_files(module: &Module) -> bool {
    module.imports().any(|import| import.name().starts_with("path_"))
}

impl P1 {
    pub(in crate::wasm) fn new(wasi: WasiP1Ctx) -> Self {
        Self { wasi, files: None }
    }

    /// Lets the module see the folders of the function that runs.
    pub(in crate::wasm) fn with_files(wasi: WasiP1Ctx, run: &Arc<Run>) -> wasmtime::Result<Self> {
        let files = Files::new(&run.function, Some(run))?;
        Self::with(wasi, files, &run.function.runtime().file_roots)
    }

    pub(super) fn with(mut wasi: WasiP1Ctx, mut files: Files, roots: &Roots) -> wasmtime::Result<Self> {
        let Preopened { ctx, places } = roots.preopened(&files.mounts, files.services.is_some())?;
        *wasi.filesystem().ctx = ctx;
        files.open = (FIRST_FOLDER..).zip((0..files.mounts.len()).map(Files::root)).collect();
        Ok(Self { wasi, files: Some(Box::new(P1Files { files, places })) })
    }

    fn files(&mut self) -> Result<&mut Files> {
        self.files.as_mut().map(|files| &mut files.files).ok_or_else(|| Errno::Badf.into())
    }

    /// Opens the folder of a mount when it is used for the first time. Answers which mount a file or folder is in; `None` is for
    /// what is neither, such as output.
    async fn ready(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<Option<usize>> {
        let number = u32::from(fd);
        let Some(files) = &mut self.files else { return Ok(None) };
        let Some(open) = files.files.open.get_mut(&number) else { return Ok(None) };
        let at = open.mount;
        if open.is_untouched {
            // The folders are in the table from the first call on.
            self.wasi.fd_prestat_get(mem, fd)?;
            let (Some(mount), Some(place)) = (files.files.mounts.get_mut(at), files.places.get(at)) else {
                return Err(Errno::Badf.into());
            };
            let opened = mount.open().await.map_err(io)?;
            open.folder = Some(Arc::clone(&opened.dir));
            for entry in self.wasi.ctx().table.iter_mut() {
                if let Some(Descriptor::Dir(dir)) = (entry as &mut dyn std::any::Any).downcast_mut()
                    && Arc::ptr_eq(&dir.dir, place)
                {
                    *dir = opened.clone();
                }
            }
            open.is_untouched = false;
        }
        Ok(Some(at))
    }

    /// [`P1::ready`] where it has to be in a mount.
    async fn within(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<usize> {
        self.ready(mem, fd).await?.ok_or_else(|| Errno::Badf.into())
    }

    fn freed(&mut self, at: usize) -> Result<()> {
        if let Some(mount) = self.files()?.mounts.get(at) {
            mount.volume.freed();
        }
        Ok(())
    }

    async fn claim_entry(&mut self, at: usize) -> Result<Claim> {
        let mount = self.files()?.mounts.get(at).ok_or(Errno::Badf)?;
        if mount.read_only {
            return Err(Errno::Perm.into());
        }
        mount.volume.claim(mount.most, Usage::ENTRY).await.map_err(io)
    }

    /// Claims what the write of the first piece that is not empty takes: wasmtime-wasi writes no more at once. `None` where it goes
    /// to no file. Nothing is claimed in what may only be read, also not for a moment.
    async fn claim_write(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        pieces: CiovecArray,
        offset: Option<Filesize>,
    ) -> Result<Option<(Growing, Growth)>> {
        let number = u32::from(fd);
        let Some(files) = self.files.as_ref().map(|files| &files.files) else { return Ok(None) };
        let Some(growing) = files.growing(number) else { return Ok(None) };
        if files.mount_of(number).is_none_or(|mount| mount.read_only) {
            return Err(Errno::Perm.into());
        }
        let appends = files.open.get(&number).is_some_and(|open| open.appends);
        if pieces.len() > MAX_PIECES {
            return Err(Errno::Inval.into());
        }
        let mut bytes = 0;
        for piece in pieces.iter() {
            bytes = u64::from(mem.read(piece?)?.buf_len);
            if bytes > 0 {
                break;
            }
        }
        let at = match offset {
            _ if appends => At::End,
            Some(offset) => At::Offset(offset),
            None => At::Offset(self.wasi.fd_tell(mem, fd)?),
        };
        let growth = growing.claim(at.change(bytes)).await.map_err(io)?;
        Ok(Some((growing, growth)))
    }

    /// Notes what `path_open` has opened in the mount `at`.
    fn opened(&mut self, fd: Fd, at: usize, appends: bool, place: tokio::sync::OwnedSemaphorePermit) -> Result<Fd> {
        let number = u32::from(fd);
        let known = &self.files.as_ref().ok_or(Errno::Badf)?;
        let mounts = known.files.mounts.iter().filter_map(|mount| mount.dir.as_ref().map(|dir| &dir.dir));
        let open = known.files.open.values().flat_map(|open| [open.file(), open.folder.as_ref()]).flatten();
        let known: HashSet<*const File> = known.places.iter().chain(mounts).chain(open).map(Arc::as_ptr).collect();
        let is_new = |file: &Arc<File>| (!known.contains(&Arc::as_ptr(file))).then(|| Arc::clone(file));
        let (mut file, mut folder) = (None, None);
        for entry in self.wasi.ctx().table.iter_mut() {
            match (entry as &dyn std::any::Any).downcast_ref() {
                Some(Descriptor::File(found)) => file = file.or_else(|| is_new(&found.file)),
                Some(Descriptor::Dir(found)) => folder = folder.or_else(|| is_new(&found.dir)),
                None => {}
            }
        }
        let files = self.files()?;
        files.opened(number, at, file, place);
        if let Some(open) = files.open.get_mut(&number) {
            open.appends = appends;
            open.folder = folder;
        }
        Ok(fd)
    }
}

/// The way to the services is a stream: there are no places in it.
impl P1 {
    fn connection(&self, fd: Fd) -> Option<Connection> {
        self.files.as_ref()?.files.connection(fd.into()).cloned()
    }

    fn has_places(&self, fd: Fd) -> Result<()> {
        if self.connection(fd).is_some() { Err(Errno::Spipe.into()) } else { Ok(()) }
    }

    /// The path where it is the way to the services.
    fn is_service(&self, mem: &GuestMemory<'_>, at: usize, path: GuestPtr<str>) -> Result<bool> {
        let Some(files) = &self.files else { return Ok(false) };
        if files.files.services.is_none() || path.len() > MAX_SERVICE_PATH {
            return Ok(false);
        }
        Ok(files.files.is_service(at, &mem.as_cow_str(path)?))
    }

    /// Opens a connection. A number of wasmtime-wasi's stands for it: that of the empty file that is there.
    async fn open_service(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        at: usize,
        path: GuestPtr<str>,
        oflags: Oflags,
        base: Rights,
    ) -> Result<Fd> {
        if oflags.contains(Oflags::CREAT | Oflags::EXCL) {
            return Err(Errno::Exist.into());
        }
        if oflags.contains(Oflags::DIRECTORY) {
            return Err(Errno::Notdir.into());
        }
        // Whoever only reads waits for ever, and whoever only writes learns nothing.
        if !base.contains(Rights::FD_READ | Rights::FD_WRITE) {
            return Err(Errno::Acces.into());
        }
        let files = self.files()?;
        let (place, connection) = (files.place()?, files.connect()?);
        let (lookup, rights) = (Lookupflags::empty(), Rights::FD_READ);
        let opened =
            self.wasi.path_open(mem, fd, lookup, path, Oflags::empty(), rights, rights, Fdflags::empty()).await?;
        let opened = self.opened(opened, at, false, place)?;
        self.files()?.connected(opened.into(), connection);
        Ok(opened)
    }
}

/// Reads from a connection into the first piece that is not empty.
async fn read_service(mem: &mut GuestMemory<'_>, pieces: IovecArray, connection: &Connection) -> Result<Size> {
    if pieces.len() > MAX_PIECES {
        return Err(Errno::Inval.into());
    }
    for piece in pieces.iter() {
        let piece = mem.read(piece?)?;
        if piece.buf_len == 0 {
            continue;
        }
        let most = usize::try_from(piece.buf_len).map_err(|_| Errno::Inval)?;
        let read = connection.read(most).await.unwrap_or_default();
        let count = Size::try_from(read.len()).map_err(|_| Errno::Inval)?;
        mem.copy_from_slice(&read, piece.buf.as_array(count))?;
        return Ok(count);
    }
    Ok(0)
}

/// Writes the first piece that is not empty to a connection, or as much of it as there is room for.
async fn write_service(mem: &GuestMemory<'_>, pieces: CiovecArray, connection: &Connection) -> Result<Size> {
    if pieces.len() > MAX_PIECES {
        return Err(Errno::Inval.into());
    }
    for piece in pieces.iter() {
        let piece = mem.read(piece?)?;
        if piece.buf_len == 0 {
            continue;
        }
        connection.writable().await;
        let count = piece.buf_len.min(Size::try_from(connection.room()).map_err(|_| Errno::Inval)?);
        let bytes = mem.to_vec(piece.buf.as_array(count))?;
        return Ok(Size::try_from(connection.write(&bytes)).map_err(|_| Errno::Inval)?);
    }
    Ok(0)
}

/// A write that failed may have been done in part.
fn wrote<T>(claimed: Option<(Growing, Growth)>, written: Result<T>) -> Result<T> {
    match claimed {
        Some((growing, growth)) => growth.finish(&growing.file, written),
        None => written,
    }
}

fn io(error: std::io::Error) -> Error {
    wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode::from(error).into()
}

impl From<TooMany> for Error {
    fn from(TooMany: TooMany) -> Self {
        Errno::Mfile.into()
    }
}

/// Calls that have nothing to do with files.
macro_rules! pass {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, mem: &mut GuestMemory<'_>, $($argument: $type),*) -> $result {
            self.wasi.$name(mem, $($argument),*)
        })*
    };
}

/// Calls that read: the folder has to be there.
macro_rules! read {
    ($(fn $name:ident(fd: Fd $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => {
        $(async fn $name(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, $($argument: $type),*) -> $result {
            self.ready(mem, fd).await?;
            self.wasi.$name(mem, fd, $($argument),*).await
        })*
    };
}

impl WasiSnapshotPreview1 for P1 {
    pass! {
        fn args_get(argv: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Result<()>;
        fn args_sizes_get() -> Result<(Size, Size)>;
        fn environ_get(environ: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Result<()>;
        fn environ_sizes_get() -> Result<(Size, Size)>;
        fn clock_res_get(id: Clockid) -> Result<Timestamp>;
        fn clock_time_get(id: Clockid, precision: Timestamp) -> Result<Timestamp>;
        fn fd_allocate(fd: Fd, offset: Filesize, length: Filesize) -> Result<()>;
        fn fd_fdstat_set_rights(fd: Fd, base: Rights, inheriting: Rights) -> Result<()>;
        fn fd_prestat_get(fd: Fd) -> Result<Prestat>;
        fn fd_prestat_dir_name(fd: Fd, path: GuestPtr<u8>, length: Size) -> Result<()>;
        fn proc_exit(code: Exitcode) -> wasmtime::Error;
        fn proc_raise(signal: Signal) -> Result<()>;
        fn sched_yield() -> Result<()>;
        fn random_get(buffer: GuestPtr<u8>, length: Size) -> Result<()>;
        fn sock_accept(fd: Fd, flags: Fdflags) -> Result<Fd>;
        fn sock_recv(fd: Fd, data: IovecArray, flags: Riflags) -> Result<(Size, Roflags)>;
        fn sock_send(fd: Fd, data: CiovecArray, flags: Siflags) -> Result<Size>;
        fn sock_shutdown(fd: Fd, how: Sdflags) -> Result<()>;
    }

    read! {
        fn fd_advise(fd: Fd, offset: Filesize, length: Filesize, advice: Advice) -> Result<()>;
        fn fd_datasync(fd: Fd) -> Result<()>;
        fn fd_filestat_get(fd: Fd) -> Result<Filestat>;
        fn fd_filestat_set_times(fd: Fd, access: Timestamp, modification: Timestamp, flags: Fstflags) -> Result<()>;
        fn fd_sync(fd: Fd) -> Result<()>;
        fn path_filestat_get(fd: Fd, flags: Lookupflags, path: GuestPtr<str>) -> Result<Filestat>;
        fn path_filestat_set_times(
            fd: Fd,
            lookup: Lookupflags,
            path: GuestPtr<str>,
            access: Timestamp,
            modification: Timestamp,
            flags: Fstflags
        ) -> Result<()>;
        fn path_readlink(fd: Fd, path: GuestPtr<str>, buffer: GuestPtr<u8>, length: Size) -> Result<Size>;
    }

    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.wasi.set_hostcall_fuel(fuel);
    }

    async fn poll_oneoff(
        &mut self,
        mem: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<Subscription>,
        events: GuestPtr<Event>,
        count: Size,
    ) -> Result<Size> {
        self.wasi.poll_oneoff(mem, subscriptions, events, count).await
    }

    fn fd_fdstat_set_flags(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, flags: Fdflags) -> Result<()> {
        self.wasi.fd_fdstat_set_flags(mem, fd, flags)?;
        if let Some(files) = &mut self.files
            && let Some(open) = files.files.open.get_mut(&u32::from(fd))
        {
            open.appends = flags.contains(Fdflags::APPEND);
        }
        Ok(())
    }

    async fn fd_close(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<()> {
        // What stands for a folder is not found again otherwise.
        self.ready(mem, fd).await?;
        self.wasi.fd_close(mem, fd).await?;
        if let Some(files) = &mut self.files {
            files.files.closed(u32::from(fd));
        }
        Ok(())
    }

    async fn fd_renumber(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, to: Fd) -> Result<()> {
        self.ready(mem, fd).await?;
        self.ready(mem, to).await?;
        self.wasi.fd_renumber(mem, fd, to).await?;
        let (from, to) = (u32::from(fd), u32::from(to));
        if let Some(files) = &mut self.files
            && from != to
        {
            files.files.closed(to);
            if let Some(open) = files.files.open.remove(&from) {
                files.files.open.insert(to, open);
            }
        }
        Ok(())
    }

    fn fd_tell(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<Filesize> {
        self.has_places(fd)?;
        self.wasi.fd_tell(mem, fd)
    }

    async fn fd_seek(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filedelta,
        whence: Whence,
    ) -> Result<Filesize> {
        self.ready(mem, fd).await?;
        self.has_places(fd)?;
        self.wasi.fd_seek(mem, fd, offset, whence).await
    }

    async fn fd_fdstat_get(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<Fdstat> {
        self.ready(mem, fd).await?;
        let mut found = self.wasi.fd_fdstat_get(mem, fd).await?;
        if self.connection(fd).is_some() {
            // What stands for it can only be read.
            found.fs_rights_base |= Rights::FD_WRITE;
            found.fs_rights_base -= Rights::FD_SEEK | Rights::FD_TELL;
        }
        Ok(found)
    }

    async fn fd_read(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, pieces: IovecArray) -> Result<Size> {
        self.ready(mem, fd).await?;
        match self.connection(fd) {
            Some(connection) => read_service(mem, pieces, &connection).await,
            None => self.wasi.fd_read(mem, fd, pieces).await,
        }
    }

    async fn fd_pread(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        pieces: IovecArray,
        offset: Filesize,
    ) -> Result<Size> {
        self.ready(mem, fd).await?;
        self.has_places(fd)?;
        self.wasi.fd_pread(mem, fd, pieces, offset).await
    }

    async fn fd_write(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, pieces: CiovecArray) -> Result<Size> {
        if let Some(connection) = self.connection(fd) {
            return write_service(mem, pieces, &connection).await;
        }
        let claimed = self.claim_write(mem, fd, pieces, None).await?;
        let written = self.wasi.fd_write(mem, fd, pieces).await;
        wrote(claimed, written)
    }

    async fn fd_pwrite(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        pieces: CiovecArray,
        offset: Filesize,
    ) -> Result<Size> {
        self.has_places(fd)?;
        let claimed = self.claim_write(mem, fd, pieces, Some(offset)).await?;
        let written = self.wasi.fd_pwrite(mem, fd, pieces, offset).await;
        wrote(claimed, written)
    }

    async fn fd_filestat_set_size(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, size: Filesize) -> Result<()> {
        let at = self.within(mem, fd).await?;
        let files = self.files()?;
        if files.mounts.get(at).is_none_or(|mount| mount.read_only) {
            return Err(Errno::Perm.into());
        }
        let growing = files.growing(u32::from(fd)).ok_or(Errno::Badf)?;
        let growth = growing.claim(Change::Size(size)).await.map_err(io)?;
        let is_shorter = growth.is_none();
        growth.finish(&growing.file, self.wasi.fd_filestat_set_size(mem, fd, size).await)?;
        if is_shorter {
            self.freed(at)?;
        }
        Ok(())
    }

    async fn fd_readdir(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffer: GuestPtr<u8>,
        length: Size,
        cookie: Dircookie,
    ) -> Result<Size> {
        self.within(mem, fd).await?;
        let files = self.files()?;
        let folder = files.open.get(&u32::from(fd)).and_then(|open| open.folder.clone()).ok_or(Errno::Notdir)?;
        let (of_app, of_node) = (Arc::clone(&files.turns.of_app), Arc::clone(&files.turns.of_node));
        // That of the app first: who waits for it takes none of the node's. Nobody closes them.
        let _turn = of_app.acquire().await.map_err(|_| Errno::Io)?;
        let _turn_of_node = of_node.acquire().await.map_err(|_| Errno::Io)?;
        let _listing = self.files()?.list(folder).await.map_err(io)?.map_err(|TooMany| Errno::Nomem)?;
        self.wasi.fd_readdir(mem, fd, buffer, length, cookie).await
    }

    async fn path_create_directory(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, path: GuestPtr<str>) -> Result<()> {
        let at = self.within(mem, fd).await?;
        let claim = self.claim_entry(at).await?;
        claim.unless_failed(self.wasi.path_create_directory(mem, fd, path).await)
    }

    async fn path_link(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
        new_fd: Fd,
        new_path: GuestPtr<str>,
    ) -> Result<()> {
        let at = self.within(mem, fd).await?;
        if self.within(mem, new_fd).await? != at {
            return Err(Errno::Xdev.into());
        }
        let claim = self.claim_entry(at).await?;
        let _moving = self.moving(at).await?;
        claim.unless_failed(self.wasi.path_link(mem, fd, flags, path, new_fd, new_path).await)
    }

    async fn path_open(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
        oflags: Oflags,
        base: Rights,
        inheriting: Rights,
        fdflags: Fdflags,
    ) -> Result<Fd> {
        let at = self.within(mem, fd).await?;
        if self.is_service(mem, at, path)? {
            return self.open_service(mem, fd, at, path, oflags, base).await;
        }
        let place = self.files()?.place()?;
        let appends = fdflags.contains(Fdflags::APPEND);
        let makes = oflags.contains(Oflags::CREAT);
        // A file that is there claims nothing, so that it can be opened in a volume that is full.
        if !oflags.contains(Oflags::CREAT | Oflags::EXCL) {
            let there = if oflags.contains(Oflags::DIRECTORY) { oflags } else { oflags & !Oflags::CREAT };
            let _shortening = self.shortening(at, oflags).await?;
            match self.wasi.path_open(mem, fd, lookup, path, there, base, inheriting, fdflags).await {
                Ok(opened) => {
                    if oflags.contains(Oflags::TRUNC) {
                        self.freed(at)?;
                    }
                    return self.opened(opened, at, appends, place);
                }
                Err(error) => match error.downcast() {
                    Ok(Errno::Noent) if makes => {}
                    Ok(errno) => return Err(errno.into()),
                    Err(trap) => return Err(Error::trap(trap)),
                },
            }
        }
        let claim = self.claim_entry(at).await?;
        // Somebody else may have made it meanwhile.
        let _shortening = self.shortening(at, oflags).await?;
        let opened = self.wasi.path_open(mem, fd, lookup, path, oflags, base, inheriting, fdflags).await;
        let opened = claim.unless_failed(opened)?;
        self.opened(opened, at, appends, place)
    }

    async fn path_remove_directory(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, path: GuestPtr<str>) -> Result<()> {
        let at = self.within(mem, fd).await?;
        self.wasi.path_remove_directory(mem, fd, path).await?;
        self.freed(at)
    }

    async fn path_rename(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
        new_fd: Fd,
        new_path: GuestPtr<str>,
    ) -> Result<()> {
        let at = self.within(mem, fd).await?;
        if self.within(mem, new_fd).await? != at {
            return Err(Errno::Xdev.into());
        }
        let _moving = self.moving(at).await?;
        self.wasi.path_rename(mem, fd, path, new_fd, new_path).await?;
        // It may have taken the place of another.
        self.freed(at)
    }

    async fn path_symlink(
        &mut self,
        mem: &mut GuestMemory<'_>,
        path: GuestPtr<str>,
        fd: Fd,
        new_path: GuestPtr<str>,
    ) -> Result<()> {
        let at = self.within(mem, fd).await?;
        let claim = self.claim_entry(at).await?;
        claim.unless_failed(self.wasi.path_symlink(mem, path, fd, new_path).await)
    }

    async fn path_unlink_file(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, path: GuestPtr<str>) -> Result<()> {
        let at = self.within(mem, fd).await?;
        self.wasi.path_unlink_file(mem, fd, path).await?;
        self.freed(at)
    }
}

impl P1 {
    async fn moving(&mut self, at: usize) -> Result<tokio::sync::OwnedRwLockReadGuard<()>> {
        let volume = self.files()?.mounts.get(at).map(|mount| Arc::clone(&mount.volume)).ok_or(Errno::Badf)?;
        Ok(volume.moving().await)
    }

    /// To be held while something is opened that may be truncated.
    async fn shortening(
        &mut self,
        at: usize,
        oflags: Oflags,
    ) -> Result<Option<tokio::sync::OwnedRwLockWriteGuard<()>>> {
        let mount = self.files()?.mounts.get(at).ok_or(Errno::Badf)?;
        if !oflags.contains(Oflags::TRUNC) || mount.read_only {
            return Ok(None);
        }
        let volume = Arc::clone(&mount.volume);
        Ok(Some(volume.shortening().await))
    }
}
