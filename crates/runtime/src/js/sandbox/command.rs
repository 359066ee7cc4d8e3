//! How Deno is called: its permissions, and V8 within its memory.

/// In an argument, these are the bootstrap script and the folder of the sockets, wherever they are.
pub(super) const BOOT: &str = "{boot}";
pub(super) const RUN: &str = "{run}";

pub(super) fn with_paths(arg: &str, boot: &str, run: &str) -> String {
    arg.replace(BOOT, boot).replace(RUN, run)
}

/// What Deno itself and what is not heap take of the memory limit: 12 MiB idle, the rest for what comes with work.
const NOT_HEAP_MIB: u64 = 16;

/// Deno's arguments for a process that serves a function.
///
/// These permissions are the inner wall, as small as the bootstrap can do with; it gives up the rest before the
/// function's code comes in. Whatever they are, the outer wall stands.
pub(super) fn args(memory_bytes: u64) -> Vec<String> {
    let sockets = format!("{RUN}/http,{RUN}/egress,{RUN}/data");
    let fixed = ["run", "--no-prompt", "--no-remote", "--no-npm", "--cached-only", "--no-config", "--no-lock"];
    // There is nowhere to keep a cache, and a request's signal is aborted only when the client has gone.
    let fixed = fixed.into_iter().chain(["--no-code-cache", "--unstable-no-legacy-abort"]);
    let mut args: Vec<String> = fixed.map(str::to_owned).collect();
    args.push(v8_flags(memory_bytes));
    args.push(format!("--allow-read={sockets}"));
    args.push(format!("--allow-write={sockets}"));
    args.push("--deny-import".into());
    args.push("--allow-net".into());
    args.push("--allow-env".into());
    // What packages for logs and metrics ask for when they are loaded; the sandbox has a name of its own for its host.
    args.push("--allow-sys=hostname,osRelease,cpus,homedir,uid,gid".into());
    args.push(BOOT.into());
    args.push(format!("{RUN}/http"));
    args.push(format!("{RUN}/egress"));
    args.push(format!("{RUN}/data"));
    args
}

/// Deno's environment; what the loader needs is added.
pub(super) fn env() -> Vec<(String, String)> {
    // Without a home Deno looks for one in a file that is not there, and gives up.
    [("HOME", "/"), ("NO_COLOR", "1"), ("DENO_NO_UPDATE_CHECK", "1")]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
}

/// A heap that ends within the limit, so that V8 collects garbage in time: left alone, it sees the machine's memory and
/// lets the heap grow to several times of what is alive.
///
/// Measured with 64 MiB alive among much garbage: with these flags it runs in 96 and in 128 MiB, with twice the young
/// generation or without the limit on the old one it dies in both. The young generation has three semi-spaces.
pub(super) fn v8_flags(memory_bytes: u64) -> String {
    let memory_mib = memory_bytes >> 20;
    let semi_space_mib = (memory_mib / 32).clamp(1, 16);
    let old_mib = memory_mib.saturating_sub(NOT_HEAP_MIB + 3 * semi_space_mib).max(memory_mib / 2).max(1);
    format!("--v8-flags=--max-old-space-size={old_mib},--max-semi-space-size={semi_space_mib}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_ends_within_the_limit() {
        for (memory_mib, old, semi_space) in
            [(32, 16, 1), (64, 42, 2), (128, 100, 4), (1024, 960, 16), (4096, 4032, 16)]
        {
            let expected = format!("--v8-flags=--max-old-space-size={old},--max-semi-space-size={semi_space}");
            assert_eq!(v8_flags(memory_mib << 20), expected, "{memory_mib}");
        }
    }
}
