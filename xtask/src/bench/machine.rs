//! The machine: what it is, for the record, and which of its cores the server and the load get.

use std::{fs, process::Command, time::SystemTime};

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The core that servers run on, and the core that the load comes from.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// Picks two cores that this process may use: the last one for servers, since interrupts tend to go to the first
    /// one, and for the load one that is not a hyperthread of the same core, where there is one.
    pub(crate) fn detect() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot read which cores this process may use")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let server = *cores.last().context("this process may use no core at all")?;
        let siblings = siblings_of(server);
        let others = || cores.iter().copied().filter(|core| *core != server);
        let load = others().find(|core| !siblings.contains(core)).or_else(|| others().next()).unwrap_or(server);
        Ok(Self { server, load })
    }

    /// One line for the record.
    fn describe(&self) -> String {
        let Self { server, load } = self;
        match (server == load, siblings_of(*server).contains(load)) {
            (true, _) => format!("server and load share CPU {server}, so every figure is too low"),
            (_, true) => format!("server on CPU {server}, load on CPU {load} (hyperthreads of one core)"),
            _ => format!("server on CPU {server}, load on CPU {load}"),
        }
    }
}

/// Runs `work` with the current thread on this core only. Threads and processes that it starts stay on that core.
pub(crate) fn on_core<T>(core: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).with_context(|| format!("cannot move to CPU {core}"))?;
    let result = work();
    sched_setaffinity(None, &before)?;
    result
}

/// The hardware threads of this one's core, itself among them. Empty where the kernel does not say.
fn siblings_of(core: usize) -> Vec<usize> {
    let list = fs::read_to_string(format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"));
    parse_cpu_list(list.unwrap_or_default().trim())
}

/// Reads the kernel's list format: `0-3,8`.
fn parse_cpu_list(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// CPU model, cores, memory, kernel, and how busy the machine is already: two lines.
pub(crate) fn describe(cores: &Cores) -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let mut models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.next().map_or("unknown CPU", |(_, model)| model);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo")?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let gib = total.and_then(|total| total.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0 / 1024.0;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{model}, {count} CPUs, {gib:.0} GiB, Linux {}, {}\n{}; load average {} at the start",
        kernel.trim(),
        std::env::consts::ARCH,
        cores.describe(),
        load_average()?,
    ))
}

/// How many threads ran or wanted to run in the last minute, on average.
pub(crate) fn load_average() -> Result<f64> {
    let averages = fs::read_to_string("/proc/loadavg")?;
    averages.split(' ').next().unwrap_or_default().parse().context("unreadable /proc/loadavg")
}

/// The commit that is measured, with `-dirty` where the tree differs from it (by more than the results themselves).
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(crate::root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "uncommitted".into();
    };
    let changed = git(&["status", "--porcelain", "--", ":!bench/RESULTS.md"]).unwrap_or_default();
    if changed.is_empty() { commit } else { format!("{commit}-dirty") }
}

/// The date and time, RFC 3339, UTC.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The first line that a program prints about its version, up to what it adds in parentheses or brackets.
pub(crate) fn version_of(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot start `{program}`"))?;
    // wrk prints its version, then its usage, and exits with 1.
    let text =
        String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).into_owned();
    let line = text.lines().next().unwrap_or_default().split(['(', '[']).next().unwrap_or_default().trim();
    ensure!(!line.is_empty(), "`{program} {}` printed nothing", arguments.join(" "));
    Ok(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_read_as_the_kernel_writes_them() {
        for (list, expected) in [("", vec![]), ("3", vec![3]), ("0-2", vec![0, 1, 2]), ("0,4-5", vec![0, 4, 5])] {
            assert_eq!(parse_cpu_list(list), expected, "{list}");
        }
    }

    #[test]
    fn the_core_is_given_back() {
        let before = sched_getaffinity(None).unwrap();
        let cores = Cores::detect().unwrap();
        on_core(cores.server, || {
            assert_eq!(sched_getaffinity(None)?.count(), 1);
            Ok(())
        })
        .unwrap();
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
