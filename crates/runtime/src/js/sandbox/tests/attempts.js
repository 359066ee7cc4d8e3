// Tries to get out, with all of Deno's permissions: what stops it is the system. One JSON record a line: name, and "ok"
// or the error. The argument after the folder is a JSON object of system call numbers.
import * as fs from "node:fs";
import * as os from "node:os";

const run = Deno.args[0];
const calls = JSON.parse(Deno.args[1]);
const say = (name, result) => console.log(JSON.stringify({ name, result: String(result) }));
const attempt = async (name, action) => {
  try {
    const result = await action();
    say(name, result === undefined ? "ok" : result);
  } catch (error) {
    say(name, `refused: ${error.code ?? error.name}`);
  }
};

// What there is.
await attempt("see files", () => Array.from(Deno.readDirSync("/"), (entry) => entry.name).sort().join(" "));
await attempt("see environment", () => Object.keys(Deno.env.toObject()).sort().join(" "));
await attempt("see host name", () => os.hostname());
await attempt("see own number", () => Deno.pid);
await attempt("see user", () => Deno.uid());
await attempt("see interfaces", () => Deno.networkInterfaces().length);

// Files.
for (const path of ["/etc/passwd", "/proc/self/environ", "/proc/1/mem", "/proc/self/root/etc/passwd", "/sys/kernel/notes", "/dev/mem", "/root"]) {
  await attempt(`read ${path}`, () => Deno.readTextFileSync(path).length);
}
for (const path of ["/x", "/tmp/x", "/boot.js", "/bin/deno", "/run/x", "/dev/x", "/dev/null", "/proc/self/exe"]) {
  await attempt(`write ${path}`, () => Deno.writeTextFileSync(path, "x"));
}
await attempt("make a folder", () => Deno.mkdirSync("/run/folder"));
await attempt("make a link", () => Deno.symlinkSync("/etc/passwd", "/run/link"));
await attempt("make a hard link", () => Deno.linkSync("/boot.js", "/run/link"));
await attempt("rename", () => Deno.renameSync("/boot.js", "/run/boot.js"));
await attempt("remove the program", () => Deno.removeSync("/bin/deno"));
await attempt("change a mode", () => fs.chmodSync("/boot.js", 0o777));
await attempt("take a socket's place", () => Deno.removeSync(`${run}/egress`));

// Programs.
await attempt("run the shell", () => new Deno.Command("/bin/sh", { args: ["-c", "true"] }).outputSync().code);
await attempt("run Deno again", () => new Deno.Command("/bin/deno", { args: ["--version"] }).outputSync().code);

// The network.
await attempt("connect to loopback", () => Deno.connect({ hostname: "127.0.0.1", port: 22 }));
await attempt("connect to a metadata address", () => Deno.connect({ hostname: "169.254.169.254", port: 80 }));
await attempt("look up a name", () => Deno.resolveDns("example.com", "A", { nameServer: { ipAddr: "8.8.8.8" } }));
await attempt("listen", () => Deno.listen({ port: 0 }));
await attempt("send a datagram", () => Deno.listenDatagram({ port: 0, transport: "udp" }));

// System calls, straight.
const libc = Deno.dlopen("libc.so.6", {
  syscall: { parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i64" },
  __errno_location: { parameters: [], result: "pointer" },
});
const call = (name, ...args) => {
  const all = [...args, 0, 0, 0, 0, 0, 0].slice(0, 6).map(BigInt);
  const result = libc.symbols.syscall(BigInt(calls[name]), ...all);
  // Between the call and this, JavaScript may make system calls of its own that change errno: only look at once.
  const errno = new Deno.UnsafePointerView(libc.symbols.__errno_location()).getInt32();
  return result === -1n ? `refused: ${errno}` : "ok";
};
const [MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_GROWSDOWN] = [1, 2, 0x20, 0x100];
const direct = {
  getpid: [],
  "mmap private": [0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0],
  "mmap shared": [0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0],
  "mmap shared for reading": [0, 4096, 1, MAP_SHARED | MAP_ANONYMOUS, -1, 0],
  "mmap downwards": [0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0],
  "socket inet": [2, 1, 0],
  "socket inet6": [10, 1, 0],
  "socket netlink": [16, 3, 0],
  "socket packet": [17, 3, 0],
  "socket vsock": [40, 1, 0],
  "socket unix datagram": [1, 2, 0],
  "clone process": [17, 0, 0, 0, 0],
  "clone namespace": [0x10000000 | 17, 0, 0, 0, 0],
  clone3: [0, 88],
  "prlimit64 raise": [0, 7, 1],
  "prctl dumpable": [4, 0],
  "prctl deathsig": [1, 0],
  "ioctl tiocsti": [0, 0x5412, 0],
  "kill everybody": [-1, 9],
  "tgkill another": [2, 2, 9],
  unshare: [0x10000000],
  setns: [0, 0],
  mount: [0, 0, 0, 0, 0],
  umount2: [0, 0],
  pivot_root: [0, 0],
  chroot: [0],
  open_tree: [0, 0, 0],
  fsopen: [0, 0],
  ptrace: [16, 1, 0, 0],
  process_vm_readv: [1, 0, 0, 0, 0, 0],
  process_vm_writev: [1, 0, 0, 0, 0, 0],
  pidfd_open: [1, 0],
  pidfd_getfd: [0, 0, 0],
  bpf: [0, 0, 0],
  perf_event_open: [0, 0, 0, 0, 0],
  io_uring_setup: [1, 0],
  userfaultfd: [0],
  memfd_create: [0, 0],
  keyctl: [0, 0, 0],
  add_key: [0, 0, 0, 0, 0],
  request_key: [0, 0, 0, 0],
  kexec_load: [0, 0, 0, 0],
  init_module: [0, 0, 0],
  reboot: [0, 0, 0],
  swapon: [0, 0],
  setuid: [0],
  setgid: [0],
  capset: [0, 0],
  personality: [0x0400000],
  seccomp: [0, 0, 0],
  open_by_handle_at: [0, 0, 0],
  name_to_handle_at: [0, 0, 0, 0, 0],
  mknodat: [0, 0, 0, 0],
  inotify_init1: [0],
  fanotify_init: [0, 0],
  msgget: [0, 0o1666],
  semget: [0, 1, 0o1666],
  shmget: [0, 4096, 0o1666],
  mq_open: [0, 0, 0, 0],
  sethostname: [0, 0],
  settimeofday: [0, 0],
  clock_settime: [0, 0],
  syslog: [3, 0, 0],
  quotactl: [0, 0, 0, 0],
  acct: [0],
  setpriority: [0, 0, -20],
  sched_setaffinity: [0, 0, 0],
  sched_setscheduler: [0, 0, 0],
  mlock: [0, 4096],
  setsid: [],
  timer_create: [0, 0, 0],
  landlock_create_ruleset: [0, 0, 0],
};
call("getpid");
for (const [name, args] of Object.entries(direct)) {
  if (calls[name.split(" ")[0]] !== undefined) await attempt(`call ${name}`, () => call(name.split(" ")[0], ...args));
}
console.log(JSON.stringify({ name: "end", result: "ok" }));
Deno.exit(0);
