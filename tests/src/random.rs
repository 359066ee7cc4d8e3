//! Random choices that can be made again.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// Random numbers from a seed (SplitMix64). The seed is printed, and `MINNOW_TEST_SEED` sets it.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A new one for the test `name`; prints its seed.
    pub fn new(name: &str) -> Self {
        let given = env::var("MINNOW_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = given.unwrap_or(now.as_nanos() as u64);
        println!("{name}: MINNOW_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Bytes that do not compress and are in no other file.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
