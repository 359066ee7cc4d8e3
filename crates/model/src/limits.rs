//! What one invocation may use. Each default says why it is what it is.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// The limits of one function. In JSON times are milliseconds (`cpu_ms`). The manifest's reference gives the reasons for the
/// defaults in the same words as the comments here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// All linear memories and tables of one sandbox together, in bytes. Default 128 MiB: what Lambda and Workers start
    /// with; the node can hold hundreds of such sandboxes.
    pub memory_bytes: u64,
    /// CPU time of one invocation. Default 1 s: a web request needs milliseconds, so this only stops runaway code.
    #[serde(rename = "cpu_ms", with = "crate::duration::millis")]
    #[schema(value_type = u64)]
    pub cpu: Duration,
    /// Wall time of one invocation, waiting and streaming included. Default 30 s: the idle limit that browsers and load
    /// balancers use.
    #[serde(rename = "timeout_ms", with = "crate::duration::millis")]
    #[schema(value_type = u64)]
    pub timeout: Duration,
    /// Invocations of this function that run at once on one node. Default 64: enough for I/O-bound work on a few cores,
    /// too few for one function to fill the sandbox pool.
    pub concurrency: u32,
    /// Requests that wait for a free place when `concurrency` is reached. Default 256: four rounds of the default
    /// concurrency; a longer queue only adds latency. Beyond it a request gets 503 with Retry-After.
    pub queue: u32,
    /// The longest request body, in bytes. Default 32 MiB: larger than forms and JSON, smaller than what needs a blob.
    pub request_body_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: ByteSize::mib(128).as_u64(),
            cpu: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            concurrency: 64,
            queue: 256,
            request_body_bytes: ByteSize::mib(32).as_u64(),
        }
    }
}

impl Limits {
    /// The least that makes sense of each limit: 1 MiB of memory, since compilers give a program's stack alone that much and
    /// with less every request would fail, one tick of the CPU meter (1 ms), one invocation at a time. A queue and a request
    /// body may be refused altogether.
    pub const LEAST: Self = Self {
        memory_bytes: 1 << 20,
        cpu: Duration::from_millis(1),
        timeout: Duration::from_millis(1),
        concurrency: 1,
        queue: 0,
        request_body_bytes: 0,
    };

    /// The same for a function in JavaScript: an idle process of Deno holds 12 MiB, and V8 needs room for garbage. Measured: in
    /// 64 MiB small functions run, and not all that Deno can do.
    pub const LEAST_JS: Self = Self { memory_bytes: 64 << 20, ..Self::LEAST };

    /// The most that a manifest can ask for, whatever the node's caps are: the address space of wasm32 (4 GiB), times and
    /// counts beyond what one node can hold.
    pub const MOST: Self = Self {
        memory_bytes: 4 << 30,
        cpu: Duration::from_secs(3600),
        timeout: Duration::from_secs(24 * 3600),
        concurrency: 10_000,
        queue: 100_000,
        request_body_bytes: 1 << 40,
    };

    /// The same for a function in JavaScript: an invocation has a descriptor in its process, of which that has 1,024.
    pub const MOST_JS: Self = Self { concurrency: 512, ..Self::MOST };
}

/// The most that a node lets any function have. A publish that asks for more is refused; a default that is more is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitCaps(pub Limits);

impl Default for LimitCaps {
    fn default() -> Self {
        Self(Limits {
            memory_bytes: ByteSize::gib(1).as_u64(),
            cpu: Duration::from_secs(60),
            timeout: Duration::from_secs(15 * 60),
            concurrency: 512,
            queue: 4096,
            request_body_bytes: ByteSize::gib(5).as_u64(),
        })
    }
}

impl LimitCaps {
    /// The limits in `asked` that exceed the caps, each as `(key, asked, cap)` ready to print; empty when all fit. A
    /// default fits always: see [`applied_to`](Self::applied_to).
    pub fn exceeded_by(&self, asked: &Limits) -> Vec<(&'static str, String, String)> {
        self.applied_to(asked).beyond(&self.0)
    }

    /// What a function gets that asks for `asked`: the defaults among them, lowered to the caps. A bundle does not say which
    /// limits its manifest sets, and most set none: a node with low caps must not refuse them all.
    pub fn applied_to(&self, asked: &Limits) -> Limits {
        fn lowered<T: Ord>(asked: T, default: T, cap: T) -> T {
            if asked == default { asked.min(cap) } else { asked }
        }
        let (default, caps) = (Limits::default(), &self.0);
        Limits {
            memory_bytes: lowered(asked.memory_bytes, default.memory_bytes, caps.memory_bytes),
            cpu: lowered(asked.cpu, default.cpu, caps.cpu),
            timeout: lowered(asked.timeout, default.timeout, caps.timeout),
            concurrency: lowered(asked.concurrency, default.concurrency, caps.concurrency),
            queue: lowered(asked.queue, default.queue, caps.queue),
            request_body_bytes: lowered(asked.request_body_bytes, default.request_body_bytes, caps.request_body_bytes),
        }
    }
}

impl Limits {
    /// The limits that are smaller than `least`, each as `(key, asked, least)` ready to print.
    pub fn below(&self, least: &Self) -> Vec<(&'static str, String, String)> {
        outside(self, least, |asked, least| asked < least)
    }

    /// The limits that are larger than `most`, each as `(key, asked, most)` ready to print.
    pub fn beyond(&self, most: &Self) -> Vec<(&'static str, String, String)> {
        outside(self, most, |asked, most| asked > most)
    }
}

/// The limits of `asked` for which `refuse` says so beside `bound`. Compared are bytes, microseconds and counts.
fn outside(asked: &Limits, bound: &Limits, refuse: impl Fn(u128, u128) -> bool) -> Vec<(&'static str, String, String)> {
    let size = |bytes: u64| (u128::from(bytes), ByteSize::b(bytes).display().iec().to_string());
    let time = |time: Duration| (time.as_micros(), humantime::format_duration(time).to_string());
    let count = |count: u32| (u128::from(count), count.to_string());
    let all = |limits: &Limits| {
        [
            ("memory", size(limits.memory_bytes)),
            ("cpu", time(limits.cpu)),
            ("timeout", time(limits.timeout)),
            ("concurrency", count(limits.concurrency)),
            ("queue", count(limits.queue)),
            ("request_body", size(limits.request_body_bytes)),
        ]
    };
    let pairs = all(asked).into_iter().zip(all(bound));
    pairs
        .filter(|((_, (asked, _)), (_, (bound, _)))| refuse(*asked, *bound))
        .map(|((key, (_, asked)), (_, (_, bound)))| (key, asked, bound))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_beyond_the_cap_is_named_with_both_values() {
        let caps = LimitCaps::default();
        assert_eq!(caps.exceeded_by(&Limits::default()), []);
        assert_eq!(caps.exceeded_by(&caps.0), []);
        let asked = Limits { memory_bytes: 2 << 30, timeout: Duration::from_secs(3600), queue: 5000, ..caps.0 };
        let expected = [("memory", "2.0 GiB", "1.0 GiB"), ("timeout", "1h", "15m"), ("queue", "5000", "4096")];
        assert_eq!(caps.exceeded_by(&asked), expected.map(|(key, asked, cap)| (key, asked.to_owned(), cap.to_owned())));
    }

    #[test]
    fn a_default_beyond_the_cap_is_lowered_and_what_is_asked_for_is_refused() {
        let caps =
            LimitCaps(Limits { memory_bytes: 64 << 20, timeout: Duration::from_secs(10), queue: 0, ..Limits::MOST });
        assert_eq!(caps.exceeded_by(&Limits::default()), []);
        let Limits { memory_bytes, timeout, queue, .. } = caps.0;
        assert_eq!(caps.applied_to(&Limits::default()), Limits { memory_bytes, timeout, queue, ..Limits::default() });

        let asked = Limits { timeout: Duration::from_secs(11), queue: 1, ..Limits::default() };
        let expected = [("timeout", "11s", "10s"), ("queue", "1", "0")];
        assert_eq!(caps.exceeded_by(&asked), expected.map(|(key, asked, cap)| (key, asked.to_owned(), cap.to_owned())));
        let less = Limits { memory_bytes: 1 << 20, cpu: Duration::from_secs(2), concurrency: 1, ..Limits::default() };
        assert_eq!(caps.applied_to(&less), Limits { timeout, queue, ..less });
        assert_eq!(LimitCaps::default().applied_to(&Limits::default()), Limits::default());
    }

    #[test]
    fn a_limit_below_the_least_is_named_with_both_values() {
        assert_eq!(Limits::LEAST.below(&Limits::LEAST), []);
        let asked = Limits { memory_bytes: 64 << 10, cpu: Duration::ZERO, concurrency: 0, ..Limits::LEAST };
        let expected = [("memory", "64.0 KiB", "1.0 MiB"), ("cpu", "0s", "1ms"), ("concurrency", "0", "1")];
        assert_eq!(
            asked.below(&Limits::LEAST),
            expected.map(|(key, asked, least)| (key, asked.to_owned(), least.to_owned()))
        );
    }

    #[test]
    fn limits_in_json_have_their_units_in_the_names() {
        let json = serde_json::to_value(Limits::default()).unwrap();
        let expected = serde_json::json!({
            "memory_bytes": 134_217_728, "cpu_ms": 1000, "timeout_ms": 30_000, "concurrency": 64, "queue": 256,
            "request_body_bytes": 33_554_432,
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Limits>(json).unwrap(), Limits::default());
    }
}
