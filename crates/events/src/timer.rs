//! One timer for all that is due by the clock: messages that come again, messages that are held back, ticks.
//!
//! It goes by the wall clock, since that is what is stored; it looks at least once a minute, so that a clock that was set is noticed.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use minnow_model::StoreId;
use tokio::sync::Notify;

use crate::{invokes, schedules::ScheduleEntry, subscriptions::Follower};

/// The longest sleep.
const LOOK: Duration = Duration::from_secs(60);

/// What is due.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A message comes again.
    Follower(Arc<Follower>),
    /// A message of the topic that was held back, or copies of dead letters that found no room.
    Topic(StoreId),
    Schedule(Arc<ScheduleEntry>),
    /// Asynchronous invokes of a function.
    Lane(invokes::Key),
    /// What is too old is to go.
    Sweep,
}

/// What is to happen when. Each thing, by its number, is in it once.
#[derive(Default)]
pub(crate) struct Timer {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    /// Time in milliseconds since 1970, and the thing's number.
    order: BTreeSet<(u64, u64)>,
    things: HashMap<u64, (u64, What)>,
}

impl Timer {
    /// Has `what` be due at `at_ms`, or earlier where it is already.
    pub(crate) fn set(&self, number: u64, at_ms: u64, what: What) {
        let mut queue = self.queue();
        if queue.things.get(&number).is_some_and(|(before, _)| *before <= at_ms) {
            return;
        }
        queue.remove(number);
        let is_first = queue.order.first().is_none_or(|(first, _)| at_ms < *first);
        queue.order.insert((at_ms, number));
        queue.things.insert(number, (at_ms, what));
        drop(queue);
        if is_first {
            self.changed.notify_one();
        }
    }

    pub(crate) fn remove(&self, number: u64) {
        self.queue().remove(number);
    }

    /// Takes out what is due, in its order.
    pub(crate) fn take_due(&self, now_ms: u64) -> Vec<What> {
        let mut queue = self.queue();
        let mut due = Vec::new();
        while let Some((at_ms, number)) = queue.order.first().copied().filter(|(at_ms, _)| *at_ms <= now_ms) {
            queue.order.remove(&(at_ms, number));
            due.extend(queue.things.remove(&number).map(|(_, what)| what));
        }
        due
    }

    /// Waits until something may be due.
    pub(crate) async fn wait(&self, now_ms: u64) {
        let first = self.queue().order.first().map(|(at_ms, _)| *at_ms);
        let sleep = first.map_or(LOOK, |at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms)).min(LOOK));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            // One that was told before is remembered.
            () = self.changed.notified() => {}
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn remove(&mut self, number: u64) {
        if let Some((at_ms, _)) = self.things.remove(&number) {
            self.order.remove(&(at_ms, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> What {
        let topic = StoreId { tenant: Default::default(), app: "shop".parse().unwrap(), name: name.parse().unwrap() };
        What::Topic(topic)
    }

    fn names(due: Vec<What>) -> Vec<String> {
        let name = |what| match what {
            What::Topic(id) => id.name.to_string(),
            _ => "another".into(),
        };
        due.into_iter().map(name).collect()
    }

    #[test]
    fn things_are_due_in_their_order_each_once_and_at_its_earliest_time() {
        let timer = Timer::default();
        timer.set(1, 300, topic("a"));
        timer.set(2, 200, topic("b"));
        timer.set(1, 100, topic("a"));
        timer.set(2, 900, topic("b"));
        timer.set(3, 150, topic("c"));
        timer.remove(3);
        timer.remove(4);
        assert_eq!(names(timer.take_due(99)), Vec::<String>::new());
        assert_eq!(names(timer.take_due(1000)), ["a", "b"]);
        assert_eq!(names(timer.take_due(1000)), Vec::<String>::new());
        assert!(timer.queue().things.is_empty() && timer.queue().order.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_with_what_is_due_next_and_with_what_is_due_earlier() {
        let timer = Timer::default();
        let began = tokio::time::Instant::now();
        timer.wait(0).await;
        assert_eq!(began.elapsed(), LOOK);
        timer.set(1, 500, topic("a"));
        // Told of by the change, then by the time.
        timer.wait(0).await;
        timer.wait(0).await;
        assert_eq!(began.elapsed(), LOOK + Duration::from_millis(500));
        let wait = timer.wait(0);
        tokio::pin!(wait);
        assert!(futures::poll!(&mut wait).is_pending());
        timer.set(2, 900, topic("b"));
        assert!(futures::poll!(&mut wait).is_pending());
        timer.set(3, 400, topic("c"));
        assert!(futures::poll!(&mut wait).is_ready());
    }
}
