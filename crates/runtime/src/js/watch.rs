//! What looks after a process: reads what it prints, bounds what it uses, pauses it, and learns how it ends.

use std::{
    sync::{Arc, PoisonError, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::BodyExt as _;
use minnow_model::{Level, LogSource};
use tokio::{io::AsyncRead, net::unix::pipe::Receiver, time::MissedTickBehavior};

use super::{
    lines::{Line, Lines, Skipped},
    process::{Call, Ending, PING, Process, TICK, full, nanoseconds},
    sandbox::says_out_of_memory,
    stack, team,
};
use crate::Function;

/// How long a process goes on after its last invocation before it is stopped. Long enough that a client's next request
/// costs no signals, short enough that nothing runs when nothing is asked for.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// CPU time after its last invocation for which a process is stopped earlier: what goes on then nobody is charged for.
const IDLE_CPU: Duration = Duration::from_millis(100);

/// A process is busy when it computed for more than this share of the last [`BUSY_SPAN`].
const BUSY_SHARE: f64 = 0.9;
const BUSY_SPAN: Duration = Duration::from_millis(100);

/// How long a process in which something runs may be silent before it is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(1);

/// Lines that are heard before others get their turn.
const LINES_AT_ONCE: u32 = 64;

/// How long output is read after the process has ended. It is there by then, unless something else holds the pipe.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// What Deno says when it finds no memory for its threads.
const NO_THREADS: &str = "unable to create worker threads";

/// How much of what V8 says when it gives up is kept to tell why.
const LAST_WORDS_BYTES: usize = 4096;

/// What the watch remembers between two looks.
struct Watch {
    /// Since when, and from which CPU time on, the current span of business is counted.
    since: Instant,
    cpu_ns: u64,
    /// CPU time at the last look.
    last_cpu_ns: u64,
    /// When there was a sign of life, and since when one was asked for.
    alive: Instant,
    asked: Option<Instant>,
    lives: u64,
    /// Nothing was computed between the last two looks.
    is_quiet: bool,
}

impl Watch {
    fn from(cpu_ns: u64) -> Self {
        let now = Instant::now();
        Self { since: now, cpu_ns, last_cpu_ns: cpu_ns, alive: now, asked: None, lives: 0, is_quiet: false }
    }
}

impl Process {
    /// Looks after the process until it has ended.
    pub(super) async fn watch(self: Arc<Self>, stdout: Receiver, stderr: Receiver) {
        let (mut stdout, mut stderr) = (Lines::new(stdout), Lines::new(stderr));
        let mut exit = std::pin::pin!(self.running.exited());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::from(0);
        let mut last_words = String::new();
        let (mut out_ended, mut err_ended) = (false, false);
        // Lines until the next tick. Of what a function prints beyond its rate only the records for the node are read.
        let mut heard = 0;
        let mut is_flooded = false;
        let status = loop {
            tokio::select! {
                biased;
                status = &mut exit => break status,
                // In the pool there is nothing to look at.
                () = self.resumed.notified(), if self.function.get().is_none() => {}
                // Before the output: a process that prints without end is looked at all the same.
                _ = ticks.tick(), if self.function.get().is_some() => {
                    is_flooded = false;
                    self.tick(&mut watch);
                    if self.may_pause(&watch) && self.clock.pause(|| self.running.pause()) {
                        tokio::select! {
                            biased;
                            status = &mut exit => break status,
                            () = self.resumed.notified() => {}
                        }
                        ticks.reset_immediately();
                        watch = Watch::from(self.clock.look().cpu_ns());
                    }
                }
                heard = next(&mut stdout, is_flooded), if !out_ended => match heard {
                    Some(Skipped::Line(line)) => is_flooded |= !self.hear(line).await,
                    Some(Skipped::Lines(count)) => self.lose(count),
                    None => out_ended = true,
                },
                line = stderr.next(), if !err_ended && !is_flooded => match line {
                    Some(line) => is_flooded = !self.hear_stderr(line, &mut last_words),
                    None => err_ended = true,
                },
            }
            heard += 1;
            if heard >= LINES_AT_ONCE {
                heard = 0;
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(
            LAST_OUTPUT,
            drain(&mut stderr, |line| {
                self.hear_stderr(line, &mut last_words);
            }),
        )
        .await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let ending = self.asked.get().cloned().unwrap_or_else(|| self.why_it_ended(&status, &last_words));
        self.ended.send_replace(Some(ending.clone()));
        let last_lines = async {
            while let Some(line) = stdout.next().await {
                self.hear(line).await;
            }
        };
        let _ = tokio::time::timeout(LAST_OUTPUT, last_lines).await;
        let left: Vec<Arc<Call>> = self.calls().values().cloned().collect();
        for call in left {
            self.settle(&call);
        }
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            let held = function.js().ended(&self, &ending);
            if ending.is_fault() {
                let why = ending.describe(&function.spec().limits);
                function.log(Level::Error, LogSource::Node, None, format!("the function's process {why}"));
            }
            team::tell_held(&function, held);
        }
    }

    /// Whether nothing is left that the process has to run for. It must not be stopped in the middle of a computation: if that
    /// has no end, the next invocation would wait for it in vain.
    fn may_pause(&self, watch: &Watch) -> bool {
        let look = self.clock.look();
        let Some(idle_ns) = look.idle_ns() else { return false };
        self.is_loaded.load(Relaxed)
            && ((watch.is_quiet && self.idle_for() >= PAUSE_AFTER)
                || (idle_ns > nanoseconds(IDLE_CPU) && look.is_alive_since_idle()))
    }

    /// Charges what was used, and ends the process when that is too much.
    fn tick(self: &Arc<Self>, watch: &mut Watch) {
        let Some(function) = self.function.get() else { return };
        let Some(function) = function.upgrade() else {
            // Whatever it was loaded for is gone.
            self.end(Ending::Unneeded);
            return;
        };
        let limits = &function.spec().limits;
        let cpu_limit = nanoseconds(limits.cpu);
        let look = self.clock.look();
        let now = Instant::now();
        self.note_business(&look.cpu_ns(), watch, now);
        if look.lives() != watch.lives {
            (watch.alive, watch.asked, watch.lives) = (now, None, look.lives());
        }
        watch.is_quiet = look.cpu_ns().saturating_sub(watch.last_cpu_ns) < nanoseconds(TICK / 10);
        watch.last_cpu_ns = look.cpu_ns();

        let calls: Vec<Arc<Call>> = self.calls().values().cloned().collect();
        let spent = |call: &Arc<Call>| look.of(&call.began.lock().unwrap_or_else(PoisonError::into_inner));
        let is_spent = |call: &Arc<Call>| !call.is_upgraded.load(Relaxed) && spent(call) > cpu_limit;
        if self.is_loaded.load(Relaxed) && (look.silent_ns() > cpu_limit || calls.iter().any(is_spent)) {
            return self.end(Ending::Cpu);
        }
        let computes =
            look.silent_ns() > cpu_limit / 2 || look.idle_ns().is_some_and(|idle| idle > nanoseconds(IDLE_CPU));
        let is_silent = !calls.is_empty() && now.duration_since(watch.alive) > SILENCE;
        match watch.asked {
            None if self.is_loaded.load(Relaxed) && (computes || is_silent) => {
                watch.asked = Some(now);
                tokio::spawn(Arc::clone(self).ping());
            }
            Some(asked) if now.duration_since(asked) > limits.timeout.max(SILENCE) => return self.end(Ending::Stuck),
            _ => {}
        }
        for call in calls {
            call.run.holds_memory(self.memory_bytes.load(Relaxed));
            // What goes on after the response has the time of the whole invocation.
            let is_late = now > call.run.started + limits.timeout;
            if is_late && call.is_over.load(Relaxed) && call.waits.swap(false, Relaxed) {
                let timeout = humantime::format_duration(limits.timeout);
                let message = format!("what `waitUntil` was given is not over after limits.timeout = {timeout}");
                call.run.log(Level::Warn, LogSource::Node, message);
                self.settle(&call);
            }
        }
    }

    fn note_business(&self, cpu_ns: &u64, watch: &mut Watch, now: Instant) {
        let span = now.duration_since(watch.since);
        if span < BUSY_SPAN {
            return;
        }
        let used = cpu_ns.saturating_sub(watch.cpu_ns) as f64 / span.as_nanos() as f64;
        self.is_busy.store(used >= BUSY_SHARE, Relaxed);
        (watch.since, watch.cpu_ns) = (now, *cpu_ns);
        if let Some(bytes) = self.running.memory_bytes() {
            self.memory_bytes.store(bytes, Relaxed);
        }
    }

    /// Asks for a sign of life, on a connection of its own.
    async fn ping(self: Arc<Self>) {
        let Ok(mut sender) = self.connect().await else { return };
        let request = Request::builder().uri("/").header(&PING, "1").header(HOST, "localhost").body(full(Bytes::new()));
        let Ok(request) = request else { return };
        let asked = async { sender.send_request(request).await?.into_body().collect().await };
        let mut ended = self.ended.subscribe();
        tokio::select! {
            answer = asked => if answer.is_ok() {
                self.clock.is_alive();
            },
            _ = ended.wait_for(Option::is_some) => {}
        }
    }

    /// A line of the process. False when it prints more than is kept.
    async fn hear(&self, line: Line) -> bool {
        match line {
            Line::Ready => {
                self.is_ready.send_replace(true);
            }
            Line::Waits(number) => {
                if let Some(call) = self.call(number) {
                    call.waits.store(true, Relaxed);
                }
            }
            Line::Done(number) => {
                if let Some(call) = self.call(number) {
                    call.waits.store(false, Relaxed);
                    self.settle(&call);
                }
            }
            Line::Log { level, request, message } => {
                let Some(function) = self.function.get().and_then(Weak::upgrade) else { return true };
                // A process can claim any invocation: only those count that run in it.
                let request = request.and_then(|number| self.id_of(number));
                let source = if level >= Level::Warn { LogSource::Stderr } else { LogSource::Stdout };
                let message = self.mapped(&function, message).await;
                return function.print(level, source, request, message);
            }
            Line::Plain(message) => {
                if let Some(function) = self.function.get().and_then(Weak::upgrade) {
                    return function.print(Level::Info, LogSource::Stdout, None, message);
                }
            }
        }
        true
    }

    /// `message` with the places of the function's own sources in the stacks that it holds.
    pub(super) async fn mapped(&self, function: &Function, message: String) -> String {
        let module = stack::module(function);
        if !message.contains(&module) {
            return message;
        }
        let map = self.source_map.get_or_init(|| stack::load(function)).await;
        match map {
            Some(map) => stack::mapped(map, &module, &message),
            None => message,
        }
    }

    /// The function printed lines that nobody reads.
    fn lose(&self, count: u64) {
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            (0..count).for_each(|_| function.lose());
        }
    }

    /// A line of what Deno itself has to say. False when that is more than is kept.
    fn hear_stderr(&self, line: Line, last_words: &mut String) -> bool {
        // Records come over the standard output only.
        let Line::Plain(line) = line else { return true };
        if line.trim().is_empty() {
            return true;
        }
        if last_words.len() + line.len() < LAST_WORDS_BYTES {
            last_words.push_str(&line);
            last_words.push('\n');
        }
        let function = self.function.get().and_then(Weak::upgrade);
        function.is_none_or(|function| function.print(Level::Warn, LogSource::Stderr, None, line))
    }

    fn why_it_ended(&self, status: &str, last_words: &str) -> Ending {
        // Where no stack for a thread finds room, Deno says only that.
        let lacks_memory = last_words.lines().any(says_out_of_memory) || last_words.contains(NO_THREADS);
        if lacks_memory || self.running.was_out_of_memory() {
            return Ending::Memory;
        }
        match last_words.trim() {
            "" => Ending::Crashed(status.to_owned()),
            words => Ending::Crashed(format!("{status}: {words}")),
        }
    }
}

/// The next line, or, of a flood, the next one that the node has to know.
async fn next<R: AsyncRead + Unpin>(lines: &mut Lines<R>, is_flooded: bool) -> Option<Skipped> {
    if is_flooded { lines.skip().await } else { lines.next().await.map(Skipped::Line) }
}

async fn drain<R: AsyncRead + Unpin>(lines: &mut Lines<R>, mut hear: impl FnMut(Line)) {
    while let Some(line) = lines.next().await {
        hear(line);
    }
}
