//! Who may run now, who waits, and who is turned away: a number of places and a bounded queue before them.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

/// A number of places, and a bounded first-come queue of those who wait for one.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Semaphore,
    total: u32,
    waiting: AtomicU32,
    queue: u32,
    /// One delivery at a time looks how many places are left, so that two do not take the last one that they may have.
    leaving: Mutex<()>,
}

/// Why a request does not get a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All places are taken and the queue is full.
    Full,
    /// It waited as long as it may.
    TooLate,
}

impl Admission {
    pub(crate) fn new(places: u32, queue: u32) -> Self {
        Self {
            places: Semaphore::new(places as usize),
            total: places,
            waiting: AtomicU32::new(0),
            queue,
            leaving: Mutex::new(()),
        }
    }

    /// Takes a place at once if one is free and nobody waits.
    pub(crate) fn try_enter(&self) -> bool {
        match self.places.try_acquire() {
            Ok(place) => {
                place.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Takes a place at once if more than `keep` are free, and nobody waits.
    pub(crate) fn try_enter_leaving(&self, keep: u32) -> bool {
        let _turn = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_place_leaving(keep) && self.try_enter()
    }

    /// Whether [`Admission::try_enter_leaving`] would take a place now.
    pub(crate) fn has_place_leaving(&self, keep: u32) -> bool {
        self.places.available_permits() > keep as usize
    }

    /// Takes a place, waiting in the queue at most `patience`. The caller gives it back with [`Admission::leave`].
    pub(crate) async fn enter(&self, patience: Duration) -> Result<(), Refused> {
        if self.try_enter() {
            return Ok(());
        }
        if self.waiting.fetch_add(1, Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(Refused::Full);
        }
        let _waiting = Waiting(&self.waiting);
        match tokio::time::timeout(patience, self.places.acquire()).await {
            Ok(Ok(place)) => {
                place.forget();
                Ok(())
            }
            // The semaphore is never closed, so only time can run out.
            Ok(Err(_)) | Err(_) => Err(Refused::TooLate),
        }
    }

    /// Gives a place back, to the one who has waited longest if there is one.
    pub(crate) fn leave(&self) {
        self.places.add_permits(1);
    }

    pub(crate) fn running(&self) -> u64 {
        u64::from(self.total).saturating_sub(self.places.available_permits() as u64)
    }

    pub(crate) fn queued(&self) -> u64 {
        u64::from(self.waiting.load(Relaxed))
    }
}

/// Counts one waiter for as long as it lives, so that a client that goes away leaves the queue.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_places_and_queue_a_request_is_refused() {
        let admission = Admission::new(1, 1);
        assert!(admission.enter(Duration::from_secs(1)).await.is_ok());
        let waiter = admission.enter(Duration::from_secs(1));
        tokio::pin!(waiter);
        assert!(futures::poll!(&mut waiter).is_pending());
        assert_eq!(admission.enter(Duration::from_secs(1)).await, Err(Refused::Full));
        assert_eq!((admission.running(), admission.queued()), (1, 1));
        admission.leave();
        assert_eq!(waiter.await, Ok(()));
        assert_eq!((admission.running(), admission.queued()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_places_free_takes_none_of_them_and_none_that_others_wait_for() {
        let admission = Admission::new(3, 1);
        assert!(!admission.try_enter_leaving(3));
        assert!(admission.try_enter_leaving(2));
        assert!(!admission.try_enter_leaving(2) && !admission.has_place_leaving(2));
        assert!(admission.try_enter_leaving(1) && admission.try_enter());
        let waiter = admission.enter(Duration::from_secs(1));
        tokio::pin!(waiter);
        assert!(futures::poll!(&mut waiter).is_pending());
        admission.leave();
        assert!(!admission.try_enter_leaving(0));
        assert_eq!(waiter.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_waits_too_long_or_goes_away_leaves_the_queue() {
        let admission = Admission::new(1, 1);
        assert!(admission.try_enter());
        assert_eq!(admission.enter(Duration::from_secs(1)).await, Err(Refused::TooLate));
        assert_eq!(admission.queued(), 0);
        {
            let gone = admission.enter(Duration::from_secs(1));
            tokio::pin!(gone);
            assert!(futures::poll!(&mut gone).is_pending());
            assert_eq!(admission.queued(), 1);
        }
        assert_eq!(admission.queued(), 0);
    }
}
