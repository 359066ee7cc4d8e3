//! What files by their paths take of a volume, and where they lie.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use minnow_model::Tenant;
use rustix::fs::CWD;
use tempfile::TempDir;

use super::*;

const SIZE: u64 = 1 << 20;

struct Setting {
    _temp: TempDir,
    files: ByPath,
    root: PathBuf,
}

fn setting() -> Setting {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("tmp")).unwrap();
    let volumes = Volumes::open(&temp.path().join("files"), &temp.path().join("tmp")).unwrap();
    let store = StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "data".parse().unwrap() };
    let files = volumes.by_path(&store, SIZE);
    files.volume.open_root().unwrap();
    Setting { files, root: volumes.path(&store), _temp: temp }
}

fn path(text: &str) -> FilePath {
    FilePath::parse(text, None).unwrap()
}

fn bytes(bytes: usize) -> Bytes {
    vec![7; bytes].into()
}

fn code<T>(result: Result<T>) -> Option<FileCode> {
    result.err().map(|error| error.code)
}

#[tokio::test]
async fn a_file_that_is_replaced_keeps_what_it_has_where_the_new_content_does_not_fit() {
    let Setting { files, root, _temp } = setting();
    files.put(path("a"), How::Replace, bytes(700_000), true).await.unwrap();
    assert_eq!(code(files.put(path("a"), How::Replace, bytes(2_000_000), true).await), Some(FileCode::Full));
    assert_eq!(fs::metadata(root.join("a")).unwrap().len(), 700_000);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_replaced_takes_its_space_once() {
    let Setting { files, .. } = setting();
    files.put(path("a"), How::Replace, bytes(1), false).await.unwrap();
    // Nobody may count for the rest of this test: it would wait for a second that does not pass.
    let counting = tokio::time::Instant::now();
    for _ in 0..40 {
        files.put(path("a"), How::Replace, bytes(900_000), false).await.unwrap();
    }
    assert_eq!(counting.elapsed(), Duration::ZERO, "the files were counted again");
    assert_eq!(code(files.put(path("b"), How::Replace, bytes(200_000), false).await), Some(FileCode::Full));
}

#[tokio::test]
async fn nobody_counts_a_file_while_it_is_replaced() {
    let Setting { files, .. } = setting();
    let mut writer = files.write(path("a"), How::Replace).await.unwrap();
    let counting = Arc::clone(&files.volume.still).write_owned().await;
    let mut replacing = Box::pin(writer.replace(bytes(500_000)));
    // The first claim counts, so there has to have been one.
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut replacing).await.is_err());
    drop(counting);
    replacing.await.unwrap();
}

#[tokio::test]
async fn a_folder_goes_with_all_that_is_in_it_and_nothing_else() {
    let Setting { files, root, _temp } = setting();
    let outside = _temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "stays").unwrap();
    fs::create_dir(root.join("folder")).unwrap();
    symlink(&outside, root.join("folder/link")).unwrap();
    symlink(outside.join("file"), root.join("folder/link-to-file")).unwrap();
    // Deeper than a path can say, with something in each.
    let mut folder = openat(CWD, root.join("folder"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..1500 {
        for name in ["a-folder", "beside"] {
            mkdirat(&folder, name, Mode::RWXU).unwrap();
        }
        openat(&folder, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).unwrap();
        folder = openat(&folder, "a-folder", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert_eq!(code(files.remove(path("folder"), false).await), Some(FileCode::IsFolder));
    files.remove(path("folder"), true).await.unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "stays");
    assert_eq!(code(files.remove(path("folder"), true).await), Some(FileCode::NotFound));
}

#[tokio::test]
async fn what_is_no_file_is_neither_read_nor_written() {
    let Setting { files, root, _temp } = setting();
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(code(files.read(path("pipe"), 0, None).await), Some(FileCode::Invalid));
    assert_eq!(code(files.write(path("pipe"), How::Append).await), Some(FileCode::Invalid));
    assert_eq!(files.stat(path("pipe")).await.unwrap().kind, Kind::Other);
    assert_eq!(files.list(path("")).await.unwrap(), [("pipe".to_owned(), Kind::Other)]);
}

#[tokio::test]
async fn a_reader_gives_what_is_there_when_the_file_becomes_shorter() {
    let Setting { files, .. } = setting();
    files.put(path("a"), How::New, bytes(100_000), false).await.unwrap();
    let mut reader = files.read(path("a"), 10, Some(80_000)).await.unwrap();
    assert_eq!(
        (reader.size(), reader.remaining(), reader.next(30_000).await.unwrap().len()),
        (100_000, 80_000, 30_000)
    );
    files.resize(path("a"), 50_010).await.unwrap();
    assert_eq!(reader.next(30_000).await.unwrap().len(), 20_000);
    assert_eq!((reader.remaining(), reader.next(30_000).await.unwrap().len()), (0, 0));
}

#[tokio::test]
async fn a_list_that_is_too_long_is_refused() {
    let Setting { files, root, _temp } = setting();
    let name = "n".repeat(240);
    for number in 0..MAX_LISTING_BYTES / 250 + 1 {
        fs::hard_link(
            if number == 0 { fs::write(root.join("0"), "").map(|()| root.join("0")).unwrap() } else { root.join("0") },
            root.join(format!("{name}{number:06}")),
        )
        .unwrap();
    }
    let refused = files.list(path("")).await.unwrap_err();
    assert_eq!(refused.code, FileCode::TooLarge);
    assert!(refused.to_string().contains("divide it"), "{refused}");
}
