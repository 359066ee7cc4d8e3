use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use minnow_model::{AppName, Level, LogLine, LogSource, Tenant, log::MAX_MESSAGE_BYTES};
use tempfile::TempDir;

use super::{Follow, Followed, LogConfig, LogError, Logs, ReadQuery};

/// Logs in a folder that goes away with them.
struct Node {
    dir: TempDir,
    logs: Logs,
}

impl Node {
    fn new(config: LogConfig) -> Self {
        let dir = TempDir::new().unwrap();
        let logs = Logs::open(&dir.path().join("logs"), config).unwrap();
        Self { dir, logs }
    }

    /// The files of an app, sorted by name, with their sizes.
    fn files(&self, app: &str) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(self.dir.path().join("logs/default").join(app));
        let entries = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::metadata(&path).unwrap().len())).collect();
        files.sort();
        files
    }

    fn messages(&self, app: &str) -> Vec<String> {
        messages(&self.logs.read(&query(app)).unwrap())
    }
}

fn query(app: &str) -> ReadQuery {
    let app = app.parse().unwrap();
    ReadQuery { tenant: Tenant::default(), app, function: None, since_ms: None, limit: usize::MAX }
}

fn line(app: &str, time_ms: u64, message: impl Into<String>) -> LogLine {
    LogLine {
        time_ms,
        level: Level::Info,
        source: LogSource::Stdout,
        tenant: Tenant::default(),
        app: app.parse().unwrap(),
        version: Some("0.1.0".parse().unwrap()),
        function: Some("api".parse().unwrap()),
        request_id: None,
        message: message.into(),
    }
}

fn messages(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| line.message.clone()).collect()
}

fn numbers(range: impl IntoIterator<Item = u64>) -> Vec<String> {
    range.into_iter().map(|number| number.to_string()).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn next(follow: &mut Follow) -> Option<Followed> {
    tokio::time::timeout(Duration::from_secs(10), follow.next()).await.expect("nothing came")
}

async fn next_message(follow: &mut Follow) -> String {
    match next(follow).await {
        Some(Followed::Line(line)) => line.message.clone(),
        other => panic!("{other:?}"),
    }
}

/// A writer that stands still while the lock is held: the echo waits for it.
fn stoppable() -> (Arc<Mutex<()>>, LogConfig) {
    let gate = Arc::new(Mutex::new(()));
    let waits = Arc::clone(&gate);
    let echo = move |_: &LogLine| drop(waits.lock().unwrap());
    (gate, LogConfig { echo: Some(Box::new(echo)), ..LogConfig::default() })
}

#[test]
fn what_is_written_is_read_back_by_time_function_and_number() {
    let node = Node::new(LogConfig::default());
    for number in 0..100 {
        node.logs.write(line("hello", 1000 + number, number.to_string()));
        node.logs.write(LogLine { function: None, ..line("other", number, "other") });
    }
    let cases = [
        (None, None, usize::MAX, numbers(0..100)),
        (None, None, 3, numbers(97..100)),
        (Some(1090), None, usize::MAX, numbers(90..100)),
        (Some(1090), None, 2, numbers(98..100)),
        (Some(5000), None, 10, vec![]),
        (None, None, 0, vec![]),
        (None, Some("api"), 1, numbers(99..100)),
        (None, Some("web"), 10, vec![]),
    ];
    for (since_ms, function, limit, expected) in cases {
        let function = function.map(|name: &str| name.parse().unwrap());
        let lines = node.logs.read(&ReadQuery { since_ms, function, limit, ..query("hello") }).unwrap();
        assert_eq!(messages(&lines), expected, "{since_ms:?} {limit}");
    }
    let lines = node.logs.read(&ReadQuery { limit: 1, ..query("hello") }).unwrap();
    assert_eq!(lines, [line("hello", 1099, "99")], "the whole line comes back");
    assert_eq!(node.logs.dropped_total(), 0);
}

#[test]
fn nothing_is_created_before_a_line_is_written() {
    let node = Node::new(LogConfig::default());
    assert!(node.messages("hello").is_empty());
    block_on(node.logs.flush());
    drop(node.logs.follow(&Tenant::default(), &"hello".parse().unwrap()));
    assert!(!node.dir.path().join("logs").exists());
}

#[test]
fn a_log_folder_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(Logs::open(file.path(), LogConfig::default()), Err(LogError::NotADirectory(_))));
}

#[test]
fn an_app_keeps_its_newest_lines_within_its_bounds() {
    let node = Node::new(LogConfig { segment_bytes: 2000, segments_per_app: 3, ..LogConfig::default() });
    for number in 0..1000 {
        node.logs.write(line("hello", number, number.to_string()));
    }
    let kept = node.messages("hello");
    let files = node.files("hello");
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|(_, bytes)| *bytes <= 2000), "{files:?}");
    assert!(kept.len() > 20, "{kept:?}");
    assert_eq!(kept, numbers(1000 - kept.len() as u64..1000), "the newest, without a hole");
    assert_eq!(node.logs.dropped_total(), 0);
}

#[test]
fn all_apps_together_keep_within_the_total_and_the_oldest_segments_go() {
    let config =
        LogConfig { segment_bytes: 1000, segments_per_app: 100, max_total_bytes: 20_000, ..Default::default() };
    let node = Node::new(config);
    for number in 0..200 {
        node.logs.write(line("old", number, number.to_string()));
        if number % 50 == 0 {
            block_on(node.logs.flush());
        }
    }
    for number in 0..50 {
        node.logs.write(line("new", 10_000 + number, number.to_string()));
    }
    block_on(node.logs.flush());
    let total = |app| node.files(app).iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert!(total("old") + total("new") <= 20_000, "{} {}", total("old"), total("new"));
    assert_eq!(node.messages("new"), numbers(0..50), "the smaller app keeps all");
    let old = node.messages("old");
    assert_eq!(old, numbers(200 - old.len() as u64..200), "the larger app loses its oldest");
    assert!(old.len() > 50, "and not more than it has to");
    node.logs.write(line("old", 20_000, "on"));
    assert_eq!(node.messages("old").last().unwrap(), "on");
}

#[test]
fn apps_that_print_much_do_not_push_out_what_others_have_printed() {
    let config =
        LogConfig { segment_bytes: 2000, segments_per_app: 100, max_total_bytes: 40_000, ..Default::default() };
    let node = Node::new(config);
    for number in 0..20 {
        node.logs.write(line("quiet", number, number.to_string()));
    }
    for number in 0..2000 {
        for app in ["noisy-a", "noisy-b", "noisy-c"] {
            node.logs.write(line(app, 10_000 + number, number.to_string()));
        }
        if number % 100 == 0 {
            block_on(node.logs.flush());
        }
    }
    assert_eq!(node.messages("quiet"), numbers(0..20), "although they are the oldest of all");
    let noisy = ["noisy-a", "noisy-b", "noisy-c"].map(|app| node.messages(app).len());
    assert!(noisy.iter().all(|lines| (20..2000).contains(lines)), "{noisy:?}");
}

#[test]
fn lines_that_are_lost_one_after_the_other_are_told_in_one_line() {
    let node = Node::new(LogConfig::default());
    let (tenant, app): (Tenant, AppName) = (Tenant::default(), "hello".parse().unwrap());
    block_on(async {
        let mut follow = node.logs.follow(&tenant, &app);
        let begun = Instant::now();
        let mut lost = 0;
        // Far more batches than there may be lines about them.
        while begun.elapsed() < Duration::from_millis(300) {
            node.logs.lose(&tenant, &app);
            lost += 1;
        }
        let mut told = Vec::new();
        while told.iter().sum::<u64>() < lost {
            // Nothing else wakes the writer: it tells of its own accord.
            let message = next_message(&mut follow).await;
            told.push(message.split(' ').next().unwrap().parse().unwrap());
        }
        assert_eq!((told.iter().sum::<u64>(), node.logs.dropped_total()), (lost, lost));
        let seconds = begun.elapsed().as_secs() as usize;
        assert!(told.len() <= 1 + seconds, "{told:?} in {seconds} s");
    });
}

#[test]
fn half_a_line_after_a_crash_is_skipped_and_cut_off() {
    let node = Node::new(LogConfig::default());
    node.logs.write(line("hello", 1, "before"));
    block_on(node.logs.flush());
    let Node { dir, logs } = node;
    drop(logs);
    let path = fs::read_dir(dir.path().join("logs/default/hello")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::metadata(&path).unwrap().len();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"not a line at all\n{\"time_ms\":2,\"level\":\"in").unwrap();

    let logs = Logs::open(&dir.path().join("logs"), LogConfig::default()).unwrap();
    let node = Node { dir, logs };
    assert_eq!(node.messages("hello"), ["before"]);
    node.logs.write(line("hello", 3, "after"));
    assert_eq!(node.messages("hello"), ["before", "after"]);
    let content = fs::read_to_string(&path).unwrap();
    assert_eq!(content.lines().count(), 3, "{content}");
    assert!(content.len() as u64 > whole && content.ends_with("\"after\"}\n"), "{content}");
}

#[test]
fn a_follower_sees_its_app_and_function_only() {
    let node = Node::new(LogConfig::default());
    block_on(async {
        let mut follow = node.logs.follow(&Tenant::default(), &"hello".parse().unwrap());
        let only = ReadQuery { function: Some("web".parse().unwrap()), limit: 0, ..query("hello") };
        let (past, mut of_web) = node.logs.read_and_follow(only).await.unwrap();
        assert!(past.is_empty());
        node.logs.write(line("other", 1, "other"));
        node.logs.write(line("hello", 2, "api"));
        node.logs.write(LogLine { function: Some("web".parse().unwrap()), ..line("hello", 3, "web") });
        assert_eq!(next_message(&mut follow).await, "api");
        assert_eq!(next_message(&mut follow).await, "web");
        assert_eq!(next_message(&mut of_web).await, "web");
    });
}

#[test]
fn reading_and_then_following_leaves_no_gap_and_repeats_nothing() {
    // Fewer than a follower may be behind, since a busy machine can hold one up for any time.
    const LINES: u64 = 1000;
    const FOLLOWERS_BEGIN: [u64; 5] = [100, 250, 400, 550, 700];
    let node = Node::new(LogConfig { segment_bytes: 10_000, segments_per_app: 1000, ..LogConfig::default() });
    let logs = node.logs.clone();
    // Without room: the writer waits at these lines for the next follower, and goes on while that one reads.
    let (reached, begin) = mpsc::sync_channel(0);
    let writer = std::thread::spawn(move || {
        for number in 0..LINES {
            logs.write(line("hello", number, number.to_string()));
            if FOLLOWERS_BEGIN.contains(&number) {
                reached.send(()).unwrap();
            }
        }
    });
    block_on(async {
        // Several at different moments, each of which must see everything.
        let mut followers = tokio::task::JoinSet::new();
        for _ in FOLLOWERS_BEGIN {
            begin.recv().unwrap();
            let (past, mut follow) = node.logs.read_and_follow(query("hello")).await.unwrap();
            assert!(!past.is_empty());
            followers.spawn(async move {
                let mut seen = messages(&past);
                while *seen.last().unwrap() != (LINES - 1).to_string() {
                    seen.push(next_message(&mut follow).await);
                }
                assert_eq!(seen, numbers(0..LINES));
            });
        }
        while let Some(follower) = followers.join_next().await {
            follower.unwrap();
        }
    });
    writer.join().unwrap();
}

#[test]
fn a_slow_follower_is_told_how_many_lines_it_missed() {
    let node = Node::new(LogConfig::default());
    block_on(async {
        let mut follow = node.logs.follow(&Tenant::default(), &"hello".parse().unwrap());
        for number in 0..3000 {
            node.logs.write(line("hello", number, number.to_string()));
        }
        node.logs.flush().await;
        let Some(Followed::Missed(missed)) = next(&mut follow).await else { panic!("missed nothing") };
        assert_eq!(next_message(&mut follow).await, missed.to_string());
    });
}

#[test]
fn a_full_queue_drops_lines_counts_them_and_says_so_in_the_log() {
    for (message_bytes, at_most) in [(10, 16_384), (16 << 10, 256)] {
        let (gate, config) = stoppable();
        let node = Node::new(config);
        let stopped = gate.lock().unwrap();
        let begun = Instant::now();
        for number in 0..60_000 {
            node.logs.write(line("hello", number, "x".repeat(message_bytes)));
        }
        // It never waited for the writer, which stands still.
        assert!(begun.elapsed() < Duration::from_secs(20));
        let dropped = node.logs.dropped_total();
        // One batch may be with the writer, and one in the queue.
        assert!((60_000 - 2 * at_most..60_000).contains(&dropped), "{dropped}");
        drop(stopped);
        block_on(node.logs.flush());
        assert_eq!(node.logs.dropped_total(), dropped);
        let lines = node.logs.read(&query("hello")).unwrap();
        let told: Vec<_> = lines.iter().filter(|line| line.source == LogSource::Node).collect();
        let told_lines: u64 =
            told.iter().map(|line| line.message.split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(told_lines, dropped, "{told:?}");
        assert!(told[0].message.ends_with("log lines were dropped"), "{told:?}");
        assert_eq!(lines.len() - told.len() + dropped as usize, 60_000);
    }
}

#[test]
fn a_noisy_app_drops_its_own_lines_and_not_those_of_others() {
    let (gate, config) = stoppable();
    let node = Node::new(config);
    let stopped = gate.lock().unwrap();
    for app in ["a", "b", "c", "d", "e"].map(|name| format!("noisy-{name}")) {
        for number in 0..10_000 {
            node.logs.write(line(&app, number, ""));
        }
    }
    let told = LogLine { source: LogSource::Node, ..line("noisy-a", 1, "stopped") };
    node.logs.write(told);
    drop(stopped);
    block_on(node.logs.flush());
    assert!(node.messages("noisy-a").iter().any(|message| message == "stopped"));

    let stopped = gate.lock().unwrap();
    for number in 0..10_000 {
        node.logs.write(line("noisy-a", number, ""));
    }
    node.logs.write(line("quiet", 1, "heard"));
    drop(stopped);
    block_on(node.logs.flush());
    assert_eq!(node.messages("quiet"), ["heard"]);
}

#[test]
fn a_disk_that_takes_nothing_costs_lines_only() {
    let node = Node::new(LogConfig::default());
    let full = node.dir.path().join("logs/default/full");
    fs::create_dir_all(&full).unwrap();
    let segment = full.join("0000000000001-00000000.jsonl");
    // Writes to it fail as on a full disk.
    std::os::unix::fs::symlink("/dev/full", &segment).unwrap();
    let mut follow = node.logs.follow(&Tenant::default(), &"full".parse().unwrap());
    for number in 0..3 {
        node.logs.write(line("full", number, number.to_string()));
        block_on(node.logs.flush());
    }
    assert_eq!(node.logs.dropped_total(), 3);
    block_on(async {
        assert_eq!(next_message(&mut follow).await, "0", "who follows sees the lines all the same");
    });
    node.logs.write(line("fine", 1, "fine"));
    assert_eq!(node.messages("fine"), ["fine"], "other apps go on");

    fs::remove_file(&segment).unwrap();
    node.logs.write(line("full", 4, "there is room"));
    assert_eq!(node.messages("full"), ["there is room", "3 log lines were dropped"]);
    assert_eq!(node.logs.dropped_total(), 3);
}

#[test]
fn more_apps_than_open_files_keep_their_lines() {
    let node = Node::new(LogConfig::default());
    let apps: Vec<String> = (0..200).map(|number| format!("app-{number}")).collect();
    for round in ["first", "second"] {
        for app in &apps {
            node.logs.write(line(app, 1, round));
        }
    }
    for app in &apps {
        assert_eq!(node.messages(app), ["first", "second"], "{app}");
        assert_eq!(node.files(app).len(), 1, "{app}");
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    assert!(open.filter(|path| path.starts_with(node.dir.path())).count() <= 64);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let node = Node::new(LogConfig::default());
    let fits = "é".repeat(MAX_MESSAGE_BYTES / 2);
    for (time_ms, message) in [(1, fits.clone()), (2, format!("{fits}x")), (3, format!("x{fits}"))] {
        node.logs.write(line("hello", time_ms, message));
    }
    let kept = node.messages("hello");
    assert_eq!(kept[0], fits);
    for cut in &kept[1..] {
        assert!(cut.ends_with("é…") && cut.len() <= MAX_MESSAGE_BYTES && cut.len() > MAX_MESSAGE_BYTES - 4);
    }
}

#[test]
fn a_removed_app_loses_its_files_and_followers_and_can_begin_anew() {
    let node = Node::new(LogConfig::default());
    let (tenant, app): (Tenant, AppName) = (Tenant::default(), "hello".parse().unwrap());
    node.logs.write(line("hello", 1, "before"));
    node.logs.write(line("other", 1, "other"));
    block_on(async {
        let mut follow = node.logs.follow(&tenant, &app);
        node.logs.remove_app(&tenant, &app).await.unwrap();
        while let Some(followed) = next(&mut follow).await {
            assert!(matches!(followed, Followed::Line(_)));
        }
        node.logs.remove_app(&tenant, &"never-was".parse().unwrap()).await.unwrap();
    });
    assert!(node.files("hello").is_empty());
    assert_eq!(node.messages("other"), ["other"]);
    node.logs.write(line("hello", 2, "after"));
    assert_eq!(node.messages("hello"), ["after"]);
}

#[test]
fn lines_that_were_taken_are_written_when_the_logs_are_dropped() {
    let Node { dir, logs } = Node::new(LogConfig::default());
    let mut follow = logs.follow(&Tenant::default(), &"hello".parse().unwrap());
    logs.write(line("hello", 1, "last words"));
    drop(logs);
    block_on(async {
        assert_eq!(next_message(&mut follow).await, "last words");
        assert_eq!(next(&mut follow).await, None, "ends when the writer has");
    });
    let logs = Logs::open(&dir.path().join("logs"), LogConfig::default()).unwrap();
    assert_eq!(Node { dir, logs }.messages("hello"), ["last words"]);
}
