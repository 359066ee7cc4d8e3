//! What a process prints, heard: records for the node are acted on, everything else goes to the app's log.

use std::{sync::Weak, time::Instant};

use minnow_model::{Level, LogSource};
use tokio::{net::unix::pipe::Receiver, task::coop::consume_budget, time};

use super::{
    last_words::LastWords,
    lines::{Line, Lines, Skipped},
    process::{Process, TICK},
    stack::Stacks,
};

impl Process {
    /// Hears the standard output until it ends. A stack waits here for its source map, and the lines behind it with it.
    pub(super) async fn hear(&self, mut lines: Lines<Receiver>) {
        let mut stacks = Stacks::default();
        // Until then only records for the node are read: the function prints more than is kept.
        let mut flooded_until: Option<Instant> = None;
        loop {
            // A line costs no system call, so that nothing else would let others have their turn.
            consume_budget().await;
            let heard = match flooded_until.filter(|until| Instant::now() < *until) {
                None => {
                    flooded_until = None;
                    lines.next().await.map(Skipped::Line)
                }
                Some(until) => match time::timeout_at(until.into(), lines.skip()).await {
                    Ok(heard) => heard,
                    Err(_) => continue,
                },
            };
            match heard {
                Some(Skipped::Line(line)) => {
                    if !self.hear_line(line, &mut stacks).await {
                        flooded_until = Some(Instant::now() + TICK);
                    }
                }
                Some(Skipped::Lines(count)) => self.lose(count),
                None => return,
            }
        }
    }

    /// Hears the standard error until it ends. Safe to drop and call again.
    pub(super) async fn hear_errors(&self, lines: &mut Lines<Receiver>, last_words: &mut LastWords) {
        while let Some(line) = lines.next().await {
            consume_budget().await;
            if !self.hear_error(line, last_words) {
                time::sleep(TICK).await;
            }
        }
    }

    /// False when the function prints more than is kept.
    async fn hear_line(&self, line: Line, stacks: &mut Stacks) -> bool {
        match line {
            Line::Ready => {
                self.is_ready.send_replace(true);
            }
            Line::Waits(number) => {
                if let Some(call) = self.call(number) {
                    call.waits();
                }
            }
            Line::Done(number) => {
                if let Some(call) = self.call(number) {
                    self.done(&call);
                }
            }
            Line::Log { level, request, message } => {
                let Some(function) = self.function.get().and_then(Weak::upgrade) else { return true };
                // Before anything is done for the line.
                if !function.may_print(message.len()) {
                    return false;
                }
                // A process can claim any invocation: only those count that run in it.
                let request = request.and_then(|number| self.id_of(number));
                let source = if level >= Level::Warn { LogSource::Stderr } else { LogSource::Stdout };
                let message = stacks.mapped(&function, message).await;
                function.write(level, source, request, message);
            }
            Line::Plain(message) => {
                if let Some(function) = self.function.get().and_then(Weak::upgrade) {
                    return function.print(Level::Info, LogSource::Stdout, None, message);
                }
            }
        }
        true
    }

    /// The function printed lines that nobody reads.
    fn lose(&self, count: u64) {
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            (0..count).for_each(|_| function.lose());
        }
    }

    /// A line of what Deno itself has to say. False when that is more than is kept.
    pub(super) fn hear_error(&self, line: Line, last_words: &mut LastWords) -> bool {
        // Records come over the standard output only.
        let Line::Plain(line) = line else { return true };
        if !last_words.hear(&line) {
            return true;
        }
        let function = self.function.get().and_then(Weak::upgrade);
        function.is_none_or(|function| function.print(Level::Warn, LogSource::Stderr, None, line))
    }
}
