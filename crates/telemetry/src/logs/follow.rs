//! Who watches an app's log live.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use minnow_model::{FunctionName, LogLine};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};

use super::queue::AppKey;

/// Lines that wait for a slow follower; then it misses the oldest and is told how many. At most 16 MiB of messages.
const MAX_WAITING_LINES: usize = 1024;

/// The apps that are followed now. Costs one atomic load for each line while there are none.
#[derive(Default)]
pub(super) struct Followers {
    apps: Mutex<HashMap<AppKey, Sender<Arc<LogLine>>>>,
    count: AtomicUsize,
}

impl Followers {
    fn lock(&self) -> MutexGuard<'_, HashMap<AppKey, Sender<Arc<LogLine>>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows an app, or one function of it, from now on.
    pub(super) fn follow(self: &Arc<Self>, app: AppKey, function: Option<FunctionName>) -> Follow {
        let mut apps = self.lock();
        let sender = apps.entry(app.clone()).or_insert_with(|| channel(MAX_WAITING_LINES).0);
        let receiver = Some(sender.subscribe());
        self.count.store(apps.len(), Ordering::Release);
        Follow { receiver, app, function, followers: Arc::downgrade(self) }
    }

    /// Hands a line to those who follow its app.
    pub(super) fn send(&self, line: &Arc<LogLine>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(sender) = self.lock().get(&(line.tenant.clone(), line.app.clone())) {
            // An error says that the last follower just left.
            let _ = sender.send(Arc::clone(line));
        }
    }

    /// Ends those who follow an app.
    pub(super) fn end(&self, app: &AppKey) {
        let mut apps = self.lock();
        apps.remove(app);
        self.count.store(apps.len(), Ordering::Release);
    }

    /// Ends all.
    pub(super) fn end_all(&self) {
        self.lock().clear();
        self.count.store(0, Ordering::Release);
    }
}

/// Follows the log of one app. Dropping it ends that.
pub struct Follow {
    /// Always there until the drop.
    receiver: Option<Receiver<Arc<LogLine>>>,
    app: AppKey,
    function: Option<FunctionName>,
    followers: Weak<Followers>,
}

/// What a follower gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    Line(Arc<LogLine>),
    /// The follower was too slow and missed this many lines of the app.
    Missed(u64),
}

impl Follow {
    /// The next line, as soon as there is one; `None` when the app's log was removed or the logs are closed. Safe to
    /// cancel: no line is lost.
    pub async fn next(&mut self) -> Option<Followed> {
        let receiver = self.receiver.as_mut()?;
        loop {
            match receiver.recv().await {
                Ok(line) if self.function.is_some() && self.function != line.function => {}
                Ok(line) => return Some(Followed::Line(line)),
                Err(RecvError::Lagged(missed)) => return Some(Followed::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(followers) = self.followers.upgrade() {
            let mut apps = followers.lock();
            if apps.get(&self.app).is_some_and(|sender| sender.receiver_count() == 0) {
                apps.remove(&self.app);
            }
            followers.count.store(apps.len(), Ordering::Release);
        }
    }
}
