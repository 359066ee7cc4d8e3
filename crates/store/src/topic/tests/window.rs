//! The window alone: what goes out, and whether what it has written is enough to go on from after a crash at any moment.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::window::{Begun, Changes, Moment, Offered, Stored, Window},
    *,
};

/// What `apply` of a backend makes of changes.
fn write(stored: &mut Stored, keys: &BTreeMap<u64, Option<u64>>, changes: &Changes) {
    if changes.generation != stored.generation {
        return;
    }
    stored.upto = changes.upto.unwrap_or(stored.upto);
    let mut holes: BTreeMap<_, _> = stored.holes.iter().map(|(hole, key)| (hole.position, (*hole, *key))).collect();
    holes.extend(changes.holes.iter().map(|hole| (hole.position, (*hole, keys[&hole.position]))));
    for position in &changes.filled {
        assert!(holes.remove(position).is_some(), "{position} has no row");
    }
    stored.holes = holes.into_values().collect();
    assert!(stored.holes.iter().all(|(hole, _)| hole.position <= stored.upto), "a hole is beyond {}", stored.upto);
}

/// A small generator of numbers, so that a failure can be had again by its seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Whether the filters leave a message out.
fn is_left_out(position: u64) -> bool {
    position.is_multiple_of(13)
}

/// A consumer, its disk, and what is true.
struct Trial {
    draw: Draw,
    now: Moment,
    keys: BTreeMap<u64, Option<u64>>,
    window: Window,
    stored: Stored,
    /// Changes that are on their way to the disk.
    on_the_way: Vec<Changes>,
    /// Batches in flight.
    flying: Vec<Vec<u64>>,
    /// Done, as the window was told; and as the disk has it.
    done: BTreeSet<u64>,
    /// Were in a batch that was too large.
    alone: BTreeSet<u64>,
    kept: BTreeSet<u64>,
    on_the_way_done: Vec<BTreeSet<u64>>,
}

impl Trial {
    fn new(seed: u64, messages: u64) -> Self {
        let mut draw = Draw(seed);
        let keys = (1..=messages).map(|position| (position, (draw.below(4) > 0).then(|| draw.below(6)))).collect();
        let now = Moment { wall_ms: 1_000_000, running_ms: 0 };
        let window = Window::new(Stored::default(), now);
        let (stored, done, kept) = (Stored::default(), BTreeSet::new(), BTreeSet::new());
        let alone = BTreeSet::new();
        let (on_the_way, flying, on_the_way_done) = (Vec::new(), Vec::new(), Vec::new());
        Self { draw, now, keys, window, stored, on_the_way, flying, done, alone, kept, on_the_way_done }
    }

    fn messages(&self) -> u64 {
        self.keys.len() as u64
    }

    /// Puts together what goes out, and checks that it may.
    fn deliver(&mut self, most: usize) -> bool {
        let mut batch = Vec::new();
        match self.window.begin(self.now) {
            Begun::Alone(At::Log(position)) => {
                let flight = self.window.fly(At::Log(position), None, self.now).unwrap();
                assert!(flight.tries > 0 || self.alone.contains(&position));
                batch.push(position);
            }
            Begun::Alone(At::Dead(_)) => panic!("there are no dead letters"),
            Begun::Batch(number) => {
                while batch.len() < most
                    && let Some(position) = self.window.ready()
                {
                    assert_eq!(self.window.fly(At::Log(position), Some(number), self.now).unwrap().tries, 0);
                    batch.push(position);
                }
                while batch.len() < most && self.window.read() < self.messages() {
                    let position = self.window.read() + 1;
                    // Some are left out by filters.
                    if is_left_out(position) {
                        self.window.skip(position);
                    } else if self.window.offer(position, self.keys[&position], number, self.now) == Offered::Goes {
                        batch.push(position);
                    }
                }
                self.window.end();
            }
        }
        assert!(batch.is_sorted(), "{batch:?}");
        for position in &batch {
            assert!(!self.flying.iter().flatten().any(|other| other == position), "{position} is delivered twice");
            assert!(!self.done.contains(position), "{position} was done");
            let Some(key) = self.keys[position] else { continue };
            for before in 1..*position {
                let blocks = self.keys[&before] == Some(key) && !is_left_out(before) && !self.done.contains(&before);
                assert!(!blocks || batch.contains(&before), "{position} overtakes {before}");
            }
        }
        let is_empty = batch.is_empty();
        self.flying.extend((!is_empty).then_some(batch));
        !is_empty
    }

    /// Settles one of the batches, or a part of it.
    fn settle(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let index = self.draw.below(self.flying.len() as u64) as usize;
        let batch = self.flying.swap_remove(index);
        let mut results = Vec::new();
        let mut held_back = BTreeSet::new();
        for position in &batch {
            let settled = match self.draw.below(8) {
                0 => Settled::Retry { after: Duration::from_millis(self.draw.below(50)), counted: true },
                1 => Settled::Retry { after: Duration::from_millis(self.draw.below(50)), counted: false },
                2 if self.draw.below(3) == 0 => Settled::ReleaseAlone,
                2 => Settled::Release,
                _ => Settled::Done,
            };
            let key = self.keys[position];
            let is_held_back = key.is_some_and(|key| held_back.contains(&key));
            if matches!(settled, Settled::Done) && !is_held_back {
                self.done.insert(*position);
            } else {
                held_back.extend(key);
            }
            if settled == Settled::ReleaseAlone {
                self.alone.insert(*position);
            }
            results.push((At::Log(*position), self.stored.generation, settled));
        }
        // In any order.
        results.reverse();
        self.window.settle(results, self.now);
    }

    fn write_changes(&mut self) {
        if let Some(changes) = self.window.changes() {
            self.on_the_way.push(changes);
            self.on_the_way_done.push(self.done.clone());
        }
        assert!(!self.window.is_changed(), "something was left");
    }

    fn commit(&mut self) {
        for changes in self.on_the_way.drain(..) {
            write(&mut self.stored, &self.keys, &changes);
        }
        self.kept.extend(self.on_the_way_done.drain(..).flatten());
        for position in 1..=self.stored.upto {
            let is_hole = self.stored.holes.iter().any(|(hole, _)| hole.position == position);
            let is_done = self.kept.contains(&position) || is_left_out(position);
            assert_eq!(is_hole, !is_done, "{position}: hole {is_hole}, done {is_done}");
        }
    }

    /// What was not on the disk is forgotten.
    fn crash(&mut self) {
        self.on_the_way.clear();
        self.on_the_way_done.clear();
        self.flying.clear();
        self.done = self.kept.clone();
        self.window = Window::new(self.stored.clone(), self.now);
    }
}

#[test]
fn nothing_is_lost_overtaken_or_delivered_twice_whatever_happens() {
    for seed in 0..300 {
        let mut trial = Trial::new(seed, 60);
        println!("seed {seed}");
        for _ in 0..400 {
            match trial.draw.below(20) {
                0 => trial.crash(),
                1..=3 => trial.write_changes(),
                4..=5 => trial.commit(),
                6..=7 => {
                    let ms = trial.draw.below(30);
                    trial.now = Moment { wall_ms: trial.now.wall_ms + ms, running_ms: trial.now.running_ms + ms };
                }
                8..=13 => trial.settle(),
                _ => {
                    let most = 1 + trial.draw.below(7) as usize;
                    trial.deliver(most);
                }
            }
        }
        // In the end everything is done, and nothing is left on the disk but how far it came.
        for _ in 0..100_000 {
            if trial.window.outstanding() == 0 && trial.window.read() == trial.messages() {
                break;
            }
            trial.now = Moment { wall_ms: trial.now.wall_ms + 50, running_ms: trial.now.running_ms + 50 };
            while trial.deliver(5) {}
            while !trial.flying.is_empty() {
                trial.settle();
            }
        }
        trial.write_changes();
        trial.commit();
        assert_eq!((trial.stored.upto, trial.stored.holes.len()), (60, 0));
        assert_eq!(trial.done.len(), (1..=60).filter(|position| !is_left_out(*position)).count());
    }
}

#[test]
fn a_batch_that_ends_in_order_writes_one_number() {
    let now = Moment { wall_ms: 1, running_ms: 0 };
    let mut window = Window::new(Stored::default(), now);
    let mut batches = Vec::new();
    for batch in 0..3 {
        let Begun::Batch(number) = window.begin(now) else { panic!("nothing failed") };
        for position in batch * 10 + 1..=batch * 10 + 10 {
            assert_eq!(window.offer(position, None, number, now), Offered::Goes);
        }
        window.end();
        batches.push((batch * 10 + 1..=batch * 10 + 10).collect::<Vec<_>>());
    }
    let mut settle = |batch: &[u64]| {
        window.settle(batch.iter().map(|position| (At::Log(*position), 0, Settled::Done)).collect(), now);
        window.changes().unwrap()
    };
    let changes = settle(&batches[0]);
    assert_eq!((changes.upto, changes.holes.len(), changes.filled.len()), (Some(10), 0, 0));
    // A later batch has passed this one.
    let changes = settle(&batches[2]);
    assert_eq!((changes.upto, changes.holes.len(), changes.filled.len()), (Some(30), 10, 0));
    let changes = settle(&batches[1]);
    assert_eq!((changes.upto, changes.holes.len(), changes.filled.len()), (None, 0, 10));
}

#[test]
fn those_that_failed_and_those_that_are_new_take_turns() {
    let mut now = Moment { wall_ms: 1, running_ms: 0 };
    let mut window = Window::new(Stored::default(), now);
    let Begun::Batch(number) = window.begin(now) else { panic!("nothing failed") };
    for position in 1..=3 {
        window.offer(position, None, number, now);
    }
    window.end();
    let failed = Settled::Retry { after: Duration::ZERO, counted: true };
    window.settle((1..=3).map(|position| (At::Log(position), 0, failed.clone())).collect(), now);
    now.running_ms += 1;
    let mut order = Vec::new();
    for _ in 0..6 {
        match window.begin(now) {
            Begun::Alone(at) => {
                window.fly(at, None, now).unwrap();
                order.push("alone");
            }
            Begun::Batch(_) => {
                window.end();
                order.push("batch");
            }
        }
    }
    assert_eq!(order, ["alone", "batch", "alone", "batch", "alone", "batch"]);
}
