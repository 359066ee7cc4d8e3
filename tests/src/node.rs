//! A node that runs as its own process.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Answer, App, Cli, Connection, Exchange, PATIENCE, Ran, Request, minnow,
    process::{self, command},
};

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeBuilder {
    work: Arc<TempDir>,
    data_dir: PathBuf,
    config: String,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    /// The size of a file system of its own for the data, as `mount` writes it.
    disk: Option<String>,
    /// A program with its arguments that runs the node.
    under: Vec<String>,
}

/// A running node; dropping it kills it.
#[derive(Debug)]
pub struct Node {
    child: Mutex<Child>,
    pid: u32,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    builder: NodeBuilder,
}

impl NodeBuilder {
    /// Lines of the configuration file.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn data_dir(mut self, path: &Path) -> Self {
        self.data_dir = path.to_owned();
        self
    }

    /// Keeps the data on a disk of this size (as `mount -o size=` takes it), which only the node sees.
    #[must_use]
    pub fn disk(mut self, size: &str) -> Self {
        self.disk = Some(size.into());
        self
    }

    /// Has calls of the system fail: `inject` as strace takes it, counted over the calls for `paths` of the data directory. The
    /// node is this process's child all the same.
    #[must_use]
    pub fn system_fails(mut self, inject: &str, paths: &[&str]) -> Self {
        self.under = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"].map(str::to_owned).into();
        for path in paths {
            self.under.extend(["-P".into(), self.data_dir.join(path).to_str().unwrap().into()]);
        }
        let calls = inject.split(':').next().unwrap_or_default();
        self.under.extend(["-e".into(), format!("trace={calls}"), "-e".into(), format!("inject={inject}")]);
        self
    }

    fn command(&self) -> Command {
        let mut command = match (&self.disk, self.under.as_slice()) {
            (None, []) => command(minnow()),
            (None, [program, arguments @ ..]) => {
                let mut command = command(Path::new(program));
                command.args(arguments).arg(minnow());
                command
            }
            (Some(size), _) => {
                // A name space of its own for mounts needs no rights beyond those of a user name space.
                let mut command = command(Path::new("unshare"));
                command.args(["--mount", "--map-root-user", "sh", "-c"]);
                command.arg(r#"mkdir -p "$1" && mount -t tmpfs -o size="$2" tmpfs "$1" && shift 2 && exec "$@""#);
                command.arg("sh").arg(&self.data_dir).arg(size).arg(minnow());
                command
            }
        };
        command.arg("node").arg("--data-dir").arg(&self.data_dir);
        for (name, address) in [("--http", "127.0.0.1:0"), ("--admin", "127.0.0.1:0")] {
            if !self.arguments.iter().any(|argument| argument == name) {
                command.args([name, address]);
            }
        }
        if !self.config.is_empty() {
            let path = self.work.path().join("node.toml");
            fs::write(&path, &self.config).unwrap();
            command.arg("--config").arg(path);
        }
        command.args(&self.arguments).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("HOME", self.work.path()).current_dir(self.work.path()).stdin(Stdio::null());
        command
    }

    fn log(&self) -> PathBuf {
        self.work.path().join("node.log")
    }

    /// Starts the node and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Node {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = process::spawn(command);
        let (said, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens any more once both addresses are known.
                let _ = said.send(line);
            }
        });
        let (mut http, mut admin) = (None, None);
        while http.is_none() || admin.is_none() {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                panic!("the node does not start:\n{}", fs::read_to_string(self.log()).unwrap_or_default());
            };
            let address =
                |name: &str| line.trim().strip_prefix(name)?.trim().strip_prefix("http://").map(str::to_owned);
            if let Some(found) = address("apps ") {
                http = Some(found.parse().unwrap());
            } else if let Some(found) = address("control API ") {
                admin = Some(found.trim_end_matches("/v1").parse().unwrap());
            }
        }
        Node { pid: child.id(), child: Mutex::new(child), http: http.unwrap(), admin: admin.unwrap(), builder: self }
    }

    /// Starts a node that has to refuse to start, and gives what it said.
    #[track_caller]
    pub fn refuses(self) -> Ran {
        let ran = process::run(self.command(), None, PATIENCE);
        assert_eq!(ran.code(), 1, "{ran:?}");
        ran
    }
}

impl Node {
    /// How a node is started: on free ports, with new data.
    pub fn builder() -> NodeBuilder {
        let work = tempfile::tempdir().unwrap();
        NodeBuilder {
            data_dir: work.path().join("data"),
            work: Arc::new(work),
            config: String::new(),
            arguments: Vec::new(),
            env: Vec::new(),
            disk: None,
            under: Vec::new(),
        }
    }

    /// A node on free ports, with new data.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// The node of all tests that need nothing special of theirs: each has an app of its own on it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Node> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The URL of the control API.
    pub fn server(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The folder of the node's data, also where it lies on a disk that only the node sees.
    pub fn data_dir(&self) -> PathBuf {
        match &self.builder.disk {
            None => self.builder.data_dir.clone(),
            Some(_) => {
                let inside = self.builder.data_dir.strip_prefix("/").unwrap();
                PathBuf::from(format!("/proc/{}/root", self.pid)).join(inside)
            }
        }
    }

    /// The admin token.
    pub fn token(&self) -> String {
        fs::read_to_string(self.data_dir().join("admin.token")).unwrap().trim().to_owned()
    }

    /// What the node has written to its own log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.builder.log()).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn cli(&self) -> Cli {
        Cli::of(self)
    }

    /// Publishes an app under the version in its manifest and sends all traffic to it.
    #[track_caller]
    pub fn serve(&self, app: &App) {
        let cli = self.cli().in_dir(app.path());
        cli.ok(["publish"]);
        cli.ok(["deploy"]);
    }

    /// GET from an app.
    #[track_caller]
    pub fn get(&self, app: &str, path: &str) -> Answer {
        self.send(&Request::get(app, path))
    }

    /// POST to an app.
    #[track_caller]
    pub fn post(&self, app: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(&Request::get(app, path).method("POST").body(body))
    }

    /// Sends a request on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        let sent = self.connect().exchange(request).and_then(Exchange::rest);
        sent.unwrap_or_else(|error| panic!("no answer to {request:?}: {error}"))
    }

    /// Sends a request and reads the head of its response.
    #[track_caller]
    pub fn open(&self, request: &Request) -> Exchange {
        self.connect().exchange(request).unwrap_or_else(|error| panic!("no answer to {request:?}: {error}"))
    }

    /// A connection to where apps answer.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.http).unwrap()
    }

    /// Calls the control API with the admin token.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        let token = format!("Bearer {}", self.token());
        let request = Request::get("node", path).method(method).header("authorization", &token);
        self.call(&request.header("content-type", "application/json").body(body))
    }

    /// Sends a request to the admin listener.
    #[track_caller]
    pub fn call(&self, request: &Request) -> Answer {
        let sent = Connection::open(self.admin).and_then(|connection| connection.exchange(request)?.rest());
        sent.unwrap_or_else(|error| panic!("no answer to {request:?}: {error}"))
    }

    /// The status of an app, as `minnow status --json` prints it.
    #[track_caller]
    pub fn status(&self, app: &str) -> Value {
        let answer = self.api("GET", &format!("/v1/apps/{app}"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// A number of all functions of an app together: `running` or `queued`.
    #[track_caller]
    pub fn count(&self, app: &str, what: &str) -> u64 {
        let status = self.status(app);
        status["functions"].as_array().unwrap().iter().map(|function| function[what].as_u64().unwrap()).sum()
    }

    /// The sum of all series of a metric whose line begins with `name` and contains all of `parts`.
    #[track_caller]
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = self.call(&Request::get("node", "/metrics")).text();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']));
            rest.is_some() && parts.iter().all(|part| line.contains(part))
        });
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// The lines of an app's log, oldest first.
    #[track_caller]
    pub fn logs(&self, app: &str) -> Vec<Value> {
        let answer = self.api("GET", &format!("/v1/apps/{app}/logs"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The processes for JavaScript that the node has started and that have not ended.
    pub fn js_processes(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // PID (NAME) STATE PARENT
            let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
            let state = fields.next();
            let is_child = fields.next().and_then(|parent| parent.parse().ok()) == Some(self.pid);
            is_child && state != Some("Z") && stat.contains("(deno)")
        })
        .collect()
    }

    /// Memory that the node has in RAM, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The most memory that the node ever had in RAM, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// CPU time that the node has used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // After the name in parentheses: utime and stime are fields 14 and 15, in hundredths of a second on Linux.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Asks the node to stop (SIGTERM).
    pub fn terminate(&self) {
        kill_process(Pid::from_raw(self.pid as i32).unwrap(), Signal::TERM).unwrap();
    }

    /// Waits for the node to end.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        let ended = process::wait(&mut self.child.lock().unwrap(), PATIENCE);
        ended.unwrap_or_else(|| panic!("the node does not end:\n{}", self.log()))
    }

    /// Kills the node (SIGKILL), as a power cut would.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Kills the node and starts it again with the same data.
    #[track_caller]
    pub fn kill_and_restart(self) -> Self {
        self.kill();
        self.builder.clone().start()
    }

    /// How this node was started, to start it again; no call of the system fails then.
    pub fn rebuild(&self) -> NodeBuilder {
        NodeBuilder { under: Vec::new(), ..self.builder.clone() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = fs::read_to_string(self.builder.log()).unwrap_or_default();
            let from = log.len().saturating_sub(4000);
            eprintln!("the node's log ends with:\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}
