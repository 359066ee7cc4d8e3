//! Which earlier deployment a rollback goes to.
//!
//! The rule: every deployment stands for a deploy: a deploy for itself, a rollback for the deploy that it brought back. A
//! rollback goes to what the deployment before the one that the live deployment stands for stood for. So rolling back
//! twice walks two steps back and never returns to what was rolled back from. Passed over are deployments whose versions
//! are no longer all published with the content that they had, and those that would change nothing.

use minnow_model::{Digest, Share};

/// One deployment of an app's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub revision: u64,
    /// For a rollback: the deploy that it brought back. Always smaller than `revision`.
    pub restores: Option<u64>,
    pub shares: Vec<Share>,
    /// Of the versions in `shares`, in their order; empty when they are not known.
    pub digests: Vec<Digest>,
}

/// The deploy that a rollback brings back, given the history with the newest first; `None` when there is none. `is_published` says
/// whether every version of an entry is there as it was.
pub fn rollback_target(history: &[Entry], is_published: impl Fn(&Entry) -> bool) -> Option<&Entry> {
    let live = history.first()?;
    let mut at = stands_for(history, live);
    loop {
        let before = history.iter().filter(|entry| entry.revision < at.revision).max_by_key(|entry| entry.revision)?;
        at = stands_for(history, before);
        if at.shares != live.shares && is_published(at) {
            return Some(at);
        }
    }
}

/// A deploy that is no longer in the history is represented by the rollback to it.
fn stands_for<'a>(history: &'a [Entry], entry: &'a Entry) -> &'a Entry {
    entry.restores.and_then(|revision| history.iter().find(|entry| entry.revision == revision)).unwrap_or(entry)
}

#[cfg(test)]
mod tests {
    use minnow_model::Version;

    use super::*;

    enum Step {
        Deploy(&'static str),
        /// Rolls back and expects these shares, or nothing to go back to.
        Back(Option<&'static str>),
        Delete(&'static str),
    }

    /// `1:90 2:10` → 90 % on 1.0.0 and 10 % on 2.0.0; `1` → all on 1.0.0.
    fn shares(text: &str) -> Vec<Share> {
        text.split(' ')
            .map(|share| {
                let (major, weight) = share.split_once(':').unwrap_or((share, "100"));
                Share { version: format!("{major}.0.0").parse().unwrap(), weight: weight.parse().unwrap() }
            })
            .collect()
    }

    fn entry(revision: u64, restores: Option<u64>, shares: Vec<Share>) -> Entry {
        Entry { revision, restores, shares, digests: Vec::new() }
    }

    #[test]
    fn rolling_back_walks_back_through_what_was_deployed() {
        use Step::{Back, Delete, Deploy};
        let table: &[(&str, &[Step])] = &[
            ("nothing before the first", &[Deploy("1"), Back(None)]),
            ("one step", &[Deploy("1"), Deploy("2"), Back(Some("1")), Back(None)]),
            (
                "two steps, no ping-pong",
                &[Deploy("1"), Deploy("2"), Deploy("3"), Back(Some("2")), Back(Some("1")), Back(None)],
            ),
            (
                "what was rolled back from stays skipped",
                &[Deploy("1"), Deploy("2"), Back(Some("1")), Deploy("3"), Back(Some("1")), Back(None)],
            ),
            ("out of a canary", &[Deploy("1"), Deploy("1:90 2:10"), Back(Some("1")), Back(None)]),
            (
                "back into a canary",
                &[Deploy("1"), Deploy("1:90 2:10"), Deploy("2"), Back(Some("1:90 2:10")), Back(Some("1"))],
            ),
            (
                "deleted versions are passed over",
                &[Deploy("1"), Deploy("2"), Deploy("3"), Delete("2"), Back(Some("1"))],
            ),
            (
                "a canary with a deleted version too",
                &[Deploy("1"), Deploy("1:50 2:50"), Deploy("3"), Delete("2"), Back(Some("1"))],
            ),
            ("no step that changes nothing", &[Deploy("1"), Deploy("2"), Deploy("1"), Delete("2"), Back(None)]),
            (
                "deploying again what was rolled back from",
                &[Deploy("1"), Deploy("2"), Back(Some("1")), Deploy("2"), Back(Some("1")), Back(None)],
            ),
        ];
        for (name, steps) in table {
            let mut history: Vec<Entry> = Vec::new();
            let mut deleted: Vec<Version> = Vec::new();
            for (index, step) in steps.iter().enumerate() {
                let revision = history.first().map_or(1, |entry| entry.revision + 1);
                match step {
                    Deploy(text) => history.insert(0, entry(revision, None, shares(text))),
                    Delete(text) => deleted.push(shares(text)[0].version.clone()),
                    Back(expected) => {
                        let target = rollback_target(&history, |entry| {
                            !entry.shares.iter().any(|share| deleted.contains(&share.version))
                        })
                        .cloned();
                        let found = target.as_ref().map(|entry| entry.shares.clone());
                        assert_eq!(found, expected.map(shares), "{name}, step {index}");
                        if let Some(target) = target {
                            let restores = Some(target.revision);
                            history.insert(0, entry(revision, restores, target.shares));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_history_that_lost_its_beginning_still_ends() {
        let history = [entry(12, Some(3), shares("1")), entry(11, None, shares("2"))];
        assert_eq!(rollback_target(&history, |_| true).unwrap().revision, 11);
        assert_eq!(rollback_target(&history[1..], |_| true), None);
        assert_eq!(rollback_target(&[], |_| true), None);
    }
}
