//! Many threads on one key. What they did and saw is recorded, and an order is looked for in which one after the other
//! could have done and seen the same (linearizability; the search is that of Wing and Gong, 1993).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Barrier,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
};

use super::{super::*, delete, embedded_kv, id, set, value};

const THREADS: usize = 4;
/// Of one thread in one round. All of a round are in the search at once: at most 64.
const CALLS: usize = 8;
const ROUNDS: usize = 60;

/// A value, by the number that it was given when written; 0 is an absent key.
type Number = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Get { saw: Number },
    Set { number: Number },
    Delete,
    Swap { expected: Number, number: Number, done: bool },
}

#[derive(Debug, Clone, Copy)]
struct Recorded {
    call: Call,
    /// Ticks of a clock that all threads share.
    began: u64,
    ended: u64,
}

/// What the key holds after `call`, if that could have gone so with `state` before it.
fn step(state: Number, call: Call) -> Option<Number> {
    match call {
        Call::Get { saw } => (saw == state).then_some(state),
        Call::Set { number } => Some(number),
        Call::Delete => Some(0),
        Call::Swap { expected, number, done } => match (expected == state, done) {
            (true, true) => Some(number),
            (false, false) => Some(state),
            _ => None,
        },
    }
}

/// Whether there is an order of `history` that respects who ended before whom began, takes `first` to `last`, and explains every answer.
fn is_linearizable(history: &[Recorded], first: Number, last: Number) -> bool {
    let all = (1u64 << history.len()) - 1;
    let (mut open, mut seen) = (vec![(0u64, first)], HashSet::new());
    while let Some((done, state)) = open.pop() {
        if done == all && state == last {
            return true;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
        // What ended first has to come before all that began later.
        let first_end = left().map(|(_, one)| one.ended).min().unwrap_or(0);
        for (index, one) in left().filter(|(_, one)| one.began < first_end) {
            open.extend(step(state, one.call).map(|next| (done | 1 << index, next)));
        }
    }
    false
}

#[test]
fn the_search_tells_good_histories_from_bad() {
    let at = |call, began, ended| Recorded { call, began, ended };
    let (set, stale, fresh) = (Call::Set { number: 1 }, Call::Get { saw: 0 }, Call::Get { saw: 1 });
    let swap = |number, done| Call::Swap { expected: 0, number, done };
    for (history, last, good) in [
        (vec![at(set, 1, 4), at(stale, 2, 3)], 1, true),
        (vec![at(set, 1, 4), at(fresh, 2, 3)], 1, true),
        // A read after an answered write that does not see it.
        (vec![at(set, 1, 2), at(stale, 3, 4)], 1, false),
        // A write that is seen, then not.
        (vec![at(set, 1, 6), at(fresh, 2, 3), at(stale, 4, 5)], 1, false),
        // Two that both swapped.
        (vec![at(swap(1, true), 1, 3), at(swap(2, true), 2, 4)], 2, false),
        (vec![at(swap(1, true), 1, 3), at(swap(2, false), 2, 4)], 1, true),
        (vec![at(set, 1, 2)], 0, false),
        (vec![at(set, 1, 2), at(Call::Delete, 2, 3)], 0, true),
    ] {
        assert_eq!(is_linearizable(&history, 0, last), good, "{history:?}");
    }
}

/// Small numbers that look random; xorshift (Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The number under the key, and its version.
fn look(kv: &Kv, store: &StoreId) -> (Number, Option<u64>) {
    match kv.get(store, "key").unwrap() {
        Some(entry) => (std::str::from_utf8(&entry.value).unwrap().parse().unwrap(), Some(entry.version)),
        None => (0, None),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn concurrent_calls_on_one_key_are_linearizable() {
    let seed = getrandom::u64().unwrap() | 1;
    let (kv, _clock, _temp) = embedded_kv();
    let store = id("shop", "sessions");
    let (ticks, numbers, begin) = (AtomicU64::new(0), AtomicU32::new(0), Barrier::new(THREADS));
    let tick = || ticks.fetch_add(1, Ordering::SeqCst);
    let mut versions = HashMap::new();
    let mut swapped = [0; 2];
    for round in 0..ROUNDS {
        let (first, _) = look(&kv, &store);
        let act = |thread: usize| {
            let mut random = Random(seed ^ ((round * THREADS + thread) as u64) << 32 | 1);
            let (mut known, mut calls, mut seen) = ((0, None), Vec::new(), Vec::new());
            begin.wait();
            for _ in 0..CALLS {
                let number = numbers.fetch_add(1, Ordering::SeqCst) + 1;
                let (chosen, text) = (random.below(10), number.to_string());
                let began = tick();
                let call = match chosen {
                    0..4 => {
                        known = look(&kv, &store);
                        seen.push(known);
                        Call::Get { saw: known.0 }
                    }
                    4..6 => {
                        block_on(kv.write(&store, vec![set("key", &text)])).unwrap();
                        Call::Set { number }
                    }
                    6 => {
                        block_on(kv.write(&store, vec![delete("key")])).unwrap();
                        Call::Delete
                    }
                    _ => {
                        let done = block_on(kv.compare_and_swap(&store, known.1, set("key", &text))).unwrap();
                        Call::Swap { expected: known.0, number, done }
                    }
                };
                calls.push(Recorded { call, began, ended: tick() });
            }
            (calls, seen)
        };
        let ended: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || act(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (last, version) = look(&kv, &store);
        let (calls, seen): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
        let history = calls.concat();
        assert!(is_linearizable(&history, first, last), "seed {seed}, from {first} to {last}: {history:#?}");
        for (number, version) in seen.concat().into_iter().chain([(last, version)]).filter(|(number, _)| *number != 0) {
            assert_eq!(
                *versions.entry(number).or_insert(version),
                version,
                "seed {seed}: {number} changed its version"
            );
        }
        for one in history {
            if let Call::Swap { done, .. } = one.call {
                swapped[usize::from(done)] += 1;
            }
        }
    }
    let distinct: HashSet<_> = versions.values().collect();
    assert_eq!(distinct.len(), versions.len(), "seed {seed}: two values had one version");
    assert!(swapped.iter().all(|count| *count > 10), "seed {seed}: {swapped:?}");
}

#[test]
fn no_increment_is_lost() {
    let (kv, _clock, _temp) = embedded_kv();
    let store = id("shop", "sessions");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..100 {
                    block_on(kv.increment(&store, "n", 1)).unwrap();
                }
            });
        }
    });
    assert_eq!(value(&kv, &store, "n").as_deref(), Some("200"));
}

#[test]
fn no_compare_and_swap_is_lost() {
    let (kv, _clock, _temp) = embedded_kv();
    let store = id("shop", "sessions");
    let count = || {
        let mut swapped = 0;
        while swapped < 100 {
            let (number, version) = look(&kv, &store);
            let next = set("key", &(number + 1).to_string());
            swapped += usize::from(block_on(kv.compare_and_swap(&store, version, next)).unwrap());
        }
    };
    thread::scope(|scope| {
        scope.spawn(count);
        scope.spawn(count);
    });
    assert_eq!(look(&kv, &store).0, 200);
}
