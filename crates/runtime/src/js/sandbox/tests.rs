//! The system's walls alone: Deno runs with all of its own permissions here, and calls the system directly.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{limits::Limits, process::Ended, start::Settings, *};
use crate::js::tools::{Tool, Tools};

const MIB: u64 = 1 << 20;

/// What everything has to happen within, on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// The launcher must have one thread only, and a test never has: the test binary becomes the launcher before its `main`
/// begins.
#[used]
#[unsafe(link_section = ".init_array")]
static BECOME_THE_LAUNCHER: extern "C" fn() = {
    extern "C" fn become_the_launcher() {
        // The arguments of the standard library may not be there yet.
        let arguments = fs::read("/proc/self/cmdline").unwrap_or_default();
        if arguments.split(|byte| *byte == 0).nth(1) == Some(VERB.as_bytes()) {
            let succeeded = main() == std::process::ExitCode::SUCCESS;
            // SAFETY: ends the process, which has only begun.
            unsafe { libc::_exit(i32::from(!succeeded)) }
        }
    }
    become_the_launcher
};

fn deno() -> PathBuf {
    // Names a copy that another user can read, where the tests run again as one.
    if let Some(path) = std::env::var_os("MINNOW_DENO") {
        return path.into();
    }
    let tools = Tools::of_environment(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(tools.provide(Tool::Deno, &|step| eprintln!("{step}")));
    found.unwrap_or_else(|error| panic!("{error}; {}", error.remedy())).path
}

static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::prepare(&deno(), &std::env::current_exe().unwrap(), "").unwrap());

/// With all permissions that Deno can give.
fn settings<'a>(boot: &'a str, rest: &[&str], memory_bytes: u64) -> Settings<'a> {
    let mut args = command::args(memory_bytes);
    args.retain(|arg| !arg.starts_with("--allow-") && !arg.starts_with("--deny-") && !arg.starts_with("{run}"));
    args.insert(1, "--allow-all".into());
    args.push("{run}".into());
    args.extend(rest.iter().copied().map(str::to_owned));
    let limits = Limits { open_files: 512, threads: 64 };
    Settings { args, env: command::env(), boot, limits, memory_bytes }
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts from a thread that stays, as Deno dies with the thread that has started it.
fn start(sandbox: &Sandbox, settings: Settings<'static>) -> Started {
    static STARTER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<Job>();
        thread::spawn(move || receiver.into_iter().for_each(|job| job()));
        sender
    });
    let (sender, receiver) = mpsc::channel();
    let sandbox = sandbox.clone();
    STARTER.send(Box::new(move || sender.send(sandbox.start_with(&settings)).unwrap())).unwrap();
    receiver.recv().unwrap().unwrap()
}

fn wait(running: &Running) -> Ended {
    let mut ended = None;
    eventually("it ends", || {
        ended = running.0.ended().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

struct Output {
    lines: Vec<String>,
    errors: String,
    ended: Ended,
}

/// Everything that it prints until it ends.
fn output(started: Started) -> Output {
    let Started { running, stdout, stderr, .. } = started;
    let errors = thread::spawn(move || {
        let mut errors = String::new();
        fs::File::from(stderr).read_to_string(&mut errors).unwrap();
        errors
    });
    let lines = BufReader::new(fs::File::from(stdout)).lines().map(Result::unwrap).collect();
    Output { lines, errors: errors.join().unwrap(), ended: wait(&running) }
}

fn first_line(started: &Started) -> String {
    let mut line = String::new();
    BufReader::new(fs::File::from(started.stdout.try_clone().unwrap())).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

macro_rules! numbers {
    ($($name:ident),* $(,)?) => { BTreeMap::from([$((stringify!($name).trim_start_matches("SYS_"), libc::$name)),*]) };
}

fn calls() -> String {
    let calls: BTreeMap<&str, libc::c_long> = numbers![
        SYS_getpid,
        SYS_mmap,
        SYS_socket,
        SYS_clone,
        SYS_clone3,
        SYS_prlimit64,
        SYS_prctl,
        SYS_ioctl,
        SYS_kill,
        SYS_tgkill,
        SYS_unshare,
        SYS_setns,
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_chroot,
        SYS_open_tree,
        SYS_fsopen,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_pidfd_open,
        SYS_pidfd_getfd,
        SYS_bpf,
        SYS_perf_event_open,
        SYS_io_uring_setup,
        SYS_userfaultfd,
        SYS_memfd_create,
        SYS_keyctl,
        SYS_add_key,
        SYS_request_key,
        SYS_kexec_load,
        SYS_init_module,
        SYS_reboot,
        SYS_swapon,
        SYS_setuid,
        SYS_setgid,
        SYS_capset,
        SYS_personality,
        SYS_seccomp,
        SYS_open_by_handle_at,
        SYS_name_to_handle_at,
        SYS_mknodat,
        SYS_inotify_init1,
        SYS_fanotify_init,
        SYS_msgget,
        SYS_semget,
        SYS_shmget,
        SYS_mq_open,
        SYS_sethostname,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_syslog,
        SYS_quotactl,
        SYS_acct,
        SYS_setpriority,
        SYS_sched_setaffinity,
        SYS_sched_setscheduler,
        SYS_mlock,
        SYS_setsid,
        SYS_timer_create,
        SYS_landlock_create_ruleset,
    ];
    serde_json::to_string(&calls).unwrap()
}

/// What may come out otherwise than "refused", and how it has to come out then.
fn harmless(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "see files" => &["bin boot.js dev lib lib64 proc run", "bin boot.js dev lib proc run"],
        "see environment" => &["DENO_NO_UPDATE_CHECK HOME LD_LIBRARY_PATH NO_COLOR"],
        "see host name" => &["minnow"],
        "see own number" => &["1"],
        "see interfaces" => &["0"],
        "see user" | "call getpid" | "call mmap private" | "end" => &[],
        // Reads nothing and keeps nothing.
        "write /dev/null" => &[],
        _ => return None,
    })
}

#[test]
fn no_attempt_to_get_out_succeeds_even_with_all_of_denos_permissions() {
    assert!(SANDBOX.walls().keeps_tenants_apart(), "this machine lacks walls: {:?}", SANDBOX.walls().missing());
    let output = output(start(&SANDBOX, settings(include_str!("tests/attempts.js"), &[&calls()], 256 * MIB)));
    let mut tried = 0;
    let mut got_out = Vec::new();
    for line in &output.lines {
        let attempt: BTreeMap<String, String> = serde_json::from_str(line).unwrap();
        let (name, result) = (&attempt["name"], attempt["result"].as_str());
        tried += 1;
        let is_fine = match harmless(name) {
            Some([]) => !result.starts_with("refused: 1"),
            Some(expected) => expected.contains(&result) || result.starts_with("refused"),
            // System calls have to be refused by the filter, not by chance: EPERM, or ENOSYS for the one that is to
            // look absent.
            None if name == "call clone3" => result == format!("refused: {}", libc::ENOSYS),
            None if name.starts_with("call ") => result == format!("refused: {}", libc::EPERM),
            None => result.starts_with("refused"),
        };
        if !is_fine {
            got_out.push(line.as_str());
        }
    }
    assert!(got_out.is_empty(), "{got_out:#?}");
    assert_eq!(output.ended, Ended::Exited(0), "{}", output.errors);
    assert!(tried > 90, "only {tried} attempts were made: {}", output.errors);
}

/// Root tests the way of root; this one tests the way of everybody else.
#[test]
fn an_ordinary_user_has_the_same_walls() {
    if !rustix::process::geteuid().is_root() {
        // The other tests have just shown it.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where root keeps them others may not look.
    for (from, name) in [(std::env::current_exe().unwrap(), "tests"), (deno(), "deno")] {
        fs::copy(from, folder.path().join(name)).unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let filter = module_path!().split_once("::").unwrap().1;
    let output = Command::new(folder.path().join("tests"))
        .arg(filter)
        .env("MINNOW_DENO", folder.path().join("deno"))
        .env("TMPDIR", "/tmp")
        .uid(65533)
        .gid(65533)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("no_attempt_to_get_out_succeeds_even_with_all_of_denos_permissions ... ok"), "{text}");
}

const SERVER: &str = r#"
    Deno.serve({ path: Deno.args[0] + "/http", onListen: () => console.log("ready") }, async (request) => {
        const client = Deno.createHttpClient({ proxy: { transport: "unix", path: Deno.args[0] + "/egress" } });
        return new Response(await (await fetch("http://out.test/x", { client })).text());
    });
"#;

#[test]
fn requests_go_in_and_out_over_the_two_sockets() {
    let started = start(&SANDBOX, settings(SERVER, &[], 128 * MIB));
    assert_eq!(first_line(&started), "ready");
    let egress = started.egress.try_clone().unwrap();
    let outside = thread::spawn(move || {
        let (stream, _) = egress.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello").unwrap();
        line
    });
    let mut stream = UnixStream::connect(started.running.http_socket()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: in.test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    assert_eq!(outside.join().unwrap().trim(), "GET http://out.test/x HTTP/1.1");
}

#[test]
fn denos_own_permissions_are_small_too() {
    let boot = r#"
        for (const name of ["run", "ffi", "sys", "import"]) {
            if (Deno.permissions.querySync({ name }).state === "granted") console.log(name);
        }
        for (const path of ["/boot.js", "/bin/deno", "/run/other"]) {
            try { Deno.statSync(path); console.log(path); } catch {}
        }
        console.log("end");
    "#;
    let args = Settings { args: command::args(128 * MIB), ..settings(boot, &[], 128 * MIB) };
    let output = output(start(&SANDBOX, args));
    assert_eq!(output.lines, ["end"], "{}", output.errors);
}

#[test]
fn a_process_can_be_paused_measured_and_killed() {
    let started = start(&SANDBOX, settings("console.log('ready'); for (;;);", &[], 128 * MIB));
    let running = &started.running;
    assert_eq!(first_line(&started), "ready");
    let cpu = || running.cpu_ns().unwrap();
    let before = cpu();
    eventually("it uses CPU time", || cpu() > before + 20_000_000);
    assert!(running.memory_bytes().unwrap() > MIB);

    running.pause();
    eventually("it stands still", || {
        let now = cpu();
        thread::sleep(Duration::from_millis(50));
        cpu() == now
    });
    let paused = cpu();
    running.resume();
    eventually("it goes on", || cpu() > paused);

    assert_eq!(running.0.ended().unwrap(), None);
    running.kill();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (one, other) = runtime.block_on(async { tokio::join!(running.exited(), running.exited()) });
    assert_eq!((one.unwrap(), other.unwrap()), (Ended::Killed(libc::SIGKILL), Ended::Killed(libc::SIGKILL)));
    // It has not been taken away, so its number is still its own.
    assert!(Path::new(&format!("/proc/{}", running.pid())).exists());
    assert!(!running.was_out_of_memory());
}

#[test]
fn a_process_does_not_interrupt_the_node_when_it_is_woken() {
    let started = start(&SANDBOX, settings(SERVER, &[], 128 * MIB));
    assert_eq!(first_line(&started), "ready");
    // SAFETY: only asks.
    let policy = unsafe { libc::sched_getscheduler(started.running.pid()) };
    assert_eq!(policy, libc::SCHED_BATCH);
}

#[test]
fn a_process_dies_with_the_thread_that_has_started_it() {
    let idle = settings("setInterval(() => {}, 1000)", &[], 128 * MIB);
    let started = thread::spawn(move || SANDBOX.start_with(&idle).unwrap()).join().unwrap();
    assert_eq!(wait(&started.running), Ended::Killed(libc::SIGKILL));
}

#[test]
fn a_dropped_process_leaves_nothing_behind() {
    let started = start(&SANDBOX, settings(SERVER, &[], 128 * MIB));
    assert_eq!(first_line(&started), "ready");
    let process = format!("/proc/{}", started.running.pid());
    let group = started.running.0.group.as_ref().map(|group| group.door().parent().unwrap().to_path_buf());
    assert!(group.as_deref().is_none_or(Path::exists));
    drop(started);
    eventually("the process is gone", || !Path::new(&process).exists());
    eventually("its group is gone", || group.as_ref().is_none_or(|group| !group.exists()));
}

/// Uses memory of a kind until it ends.
const BOMB: &str = r#"
    const kind = Deno.args[1], keep = [];
    const one = {
        heap: () => keep.push({ list: new Array(1024).fill(keep.length), text: "t" + keep.length }),
        buffers: () => keep.push(new Uint8Array(1 << 20).fill(1)),
        wasm: () => { keep[0] ??= new WebAssembly.Memory({ initial: 1, maximum: 65536 }); keep[0].grow(16); new Uint8Array(keep[0].buffer).fill(1); },
        memories: () => keep.push(new Uint8Array(new WebAssembly.Memory({ initial: 16 }).buffer).fill(1)),
        threads: () => keep.push(new Worker("data:text/javascript,setInterval(() => {}, 1000)", { type: "module" })),
        garbage: () => new Uint8Array(1 << 20).fill(1),
    }[kind];
    const rounds = kind === "garbage" ? 500 : Infinity;
    try {
        for (let round = 0; round < rounds; round++) one();
    } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        console.log("caught");
    }
    Deno.exit(kind === "garbage" ? 0 : 9);
"#;

/// The most memory that it had, whether the kernel has killed it for that, and what it said.
fn bomb(kind: &str, memory_bytes: u64) -> (u64, bool, Output) {
    let started = start(&SANDBOX, settings(BOMB, &[kind], memory_bytes));
    let running = started.running.clone();
    let watch = thread::spawn(move || {
        let mut highest = 0;
        while running.0.ended().unwrap().is_none() {
            highest = highest.max(running.memory_bytes().unwrap_or(0));
            thread::sleep(Duration::from_millis(1));
        }
        (highest, running.was_out_of_memory())
    });
    let output = output(started);
    let (highest, was_killed) = watch.join().unwrap();
    (highest, was_killed, output)
}

#[test]
fn bombs_of_every_kind_of_memory_end_at_the_limit() {
    for kind in ["heap", "buffers", "wasm", "memories"] {
        for limit in [64 * MIB, 128 * MIB] {
            let (highest, was_killed, output) = bomb(kind, limit);
            assert!(highest <= limit + limit / 16 + 12 * MIB, "{kind}: {highest} bytes");
            let is_out = was_killed
                || output.lines.iter().any(|line| line == "caught")
                || output.errors.lines().any(says_out_of_memory);
            assert!(is_out, "{kind} with {limit}: {:?} {:?} {}", output.ended, output.lines, output.errors);
        }
    }
}

#[test]
fn memory_that_is_let_go_can_be_used_again() {
    for limit in [96 * MIB, 128 * MIB, 512 * MIB] {
        let (_, _, output) = bomb("garbage", limit);
        assert_eq!(output.ended, Ended::Exited(0), "with {limit}: {}", output.errors);
    }
}

#[test]
fn a_thread_bomb_ends_its_own_process_only() {
    let (highest, _, output) = bomb("threads", 128 * MIB);
    assert_ne!(output.ended, Ended::Exited(0));
    assert!(highest <= 148 * MIB);
}

/// Deno's server ends then. Without it the process would be of no use, and would stay.
#[test]
fn a_process_that_has_no_descriptor_for_a_connection_ends_and_says_so() {
    const OPEN_FILES: u64 = 64;
    let mut settings = settings(crate::js::BOOTSTRAP, &[], 128 * MIB);
    settings.args = command::args(128 * MIB);
    settings.limits.open_files = OPEN_FILES;
    let started = start(&SANDBOX, settings);
    assert!(first_line(&started).contains("ready"));
    let socket = started.running.http_socket();
    let connections: Vec<UnixStream> = (0..OPEN_FILES).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    let output = output(started);
    assert!(output.errors.contains("it takes no more connections"), "{}", output.errors);
    drop(connections);
}

#[test]
fn a_wall_that_does_not_hold_is_an_error() {
    let sandbox = SANDBOX.with_only(&[Wall::Landlock, Wall::Seccomp], 1000);
    let error = sandbox.start_with(&settings("", &[], 128 * MIB)).unwrap_err().to_string();
    assert!(error.contains("Landlock"), "{error}");
}

#[test]
fn without_namespaces_the_other_walls_are_built() {
    let sandbox = SANDBOX.with_only(&[Wall::Landlock, Wall::Seccomp], SANDBOX.walls().landlock_abi);
    let started = start(&sandbox, settings(SERVER, &[], 128 * MIB));
    assert_eq!(first_line(&started), "ready");
    UnixStream::connect(started.running.http_socket()).unwrap();
    let folder = started.running.http_socket().parent().unwrap().to_path_buf();
    drop(started);
    eventually("the folder of the sockets is gone", || !folder.exists());

    let output = output(start(&sandbox, settings(include_str!("tests/attempts.js"), &[&calls()], 256 * MIB)));
    for name in
        ["read /etc/passwd", "write /tmp/x", "run the shell", "connect to loopback", "call unshare", "call ptrace"]
    {
        let line = output.lines.iter().find(|line| line.contains(&format!("\"{name}\"")));
        assert!(line.is_some_and(|line| line.contains("refused")), "{name}: {line:?} {}", output.errors);
    }
}

#[test]
fn what_deno_says_when_memory_is_short_is_recognised() {
    for line in [
        "# Fatal JavaScript out of memory: Ineffective mark-compacts near heap limit",
        "# Fatal process out of memory: Failed to reserve virtual memory for CodeRange",
        "memory allocation of 8192 bytes failed",
    ] {
        assert!(says_out_of_memory(line), "{line}");
    }
    assert!(!says_out_of_memory("error: Uncaught (in promise) Error: out of memory"));
}
