//! Events that the machine hides from every BPF program, counted by ftrace.
//!
//! Some machines do not run tracing programs of BPF while the current task is a thread of PID 1: a
//! softirq that lands on top of one is then invisible to the tracer as to any other. Nothing
//! counts it, neither a lost record nor `recursion_misses`. ftrace is not so restricted. It says
//! which events of a test landed there, and so what the tracer alone may lack: everything else it
//! is held to exactly, and where none landed there, to everything.
//!
//! Most machines hide nothing. There the tracer has seen these few events too, and a test is only
//! less strict by so many.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::ndjson::Endpoint;

/// How instances of these tests are called in tracefs: this, the process, and a number.
const NAME: &str = "tracer-test-";

/// Room for what lands on PID 1, for each processor: some ten thousand events.
const BUFFER_KIB: &str = "2048";

/// What landed on PID 1, where this machine may have hidden it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// State changes of TCP sockets.
    pub transitions: u64,
    /// Starts and expiries of minisockets' timers; of any socket on the host.
    pub timers: u64,
    /// Local and peer port of the sockets whose state changes they were.
    pub sockets: BTreeSet<(u16, u16)>,
    /// RSTs that may have ended a TIME_WAIT, on a kernel that does not show the segments which
    /// minisockets handle (before Linux 6.11): such an end is unknown.
    pub resets: u64,
}

impl Hidden {
    /// The same, and so many RSTs.
    pub fn and_resets(&self, resets: i64) -> Self {
        Self {
            resets: u64::try_from(resets).unwrap_or(0),
            ..self.clone()
        }
    }

    /// All of them: no more records than this may be incomplete.
    pub fn events(&self) -> u64 {
        self.transitions + self.timers
    }

    /// Whether a state change of a socket between these was among them.
    pub fn is_about(&self, local: Endpoint, peer: Endpoint) -> bool {
        let ports = local.port.zip(peer.port);
        ports.is_some_and(|ports| self.sockets.contains(&ports))
    }
}

/// Holds a count of the tracer's to the true one: not above it, and short of it by no more than
/// was hidden.
#[track_caller]
pub fn assert_lacks_at_most(what: &str, ours: i64, truth: i64, hidden: u64) {
    let least = truth.saturating_sub_unsigned(hidden);
    assert!(
        (least..=truth).contains(&ours),
        "{what}: ours {ours}, in truth {truth}, and {hidden} events were hidden"
    );
}

/// The same for a count that a missing event can make too great.
#[track_caller]
pub fn assert_differs_at_most(what: &str, ours: i64, truth: i64, hidden: u64) {
    assert!(
        truth.abs_diff(ours) <= hidden,
        "{what}: ours {ours}, in truth {truth}, and {hidden} events were hidden"
    );
}

/// ftrace, listening since it was called.
pub struct Witness {
    /// None: this machine has no tracefs, and hidden events are the tracer's to explain.
    instance: Option<Instance>,
    heard: OnceCell<Hidden>,
}

impl Witness {
    /// Calls it. It heeds every connection; call it before the tracer.
    pub fn of_all_ports() -> Self {
        Self::of_ports(&[])
    }

    /// The same for connections from or to these ports; any where there are none.
    pub fn of_ports(ports: &[u16]) -> Self {
        let instance = Instance::listening(ports)
            .inspect_err(|error| println!("no witness, so nothing is excused: {error}"))
            .ok();
        Self {
            instance,
            heard: OnceCell::new(),
        }
    }

    /// What it has heard, when first asked; one line says so if there is any.
    pub fn hidden(&self) -> &Hidden {
        self.heard.get_or_init(|| {
            let heard = self.instance.as_ref().map(Instance::heard);
            let hidden = heard.unwrap_or_default();
            if hidden != Hidden::default() {
                println!(
                    "this machine hid {} events from every BPF program (on top of PID 1): \
                     {} transitions, {} timers",
                    hidden.events(),
                    hidden.transitions,
                    hidden.timers
                );
            }
            hidden
        })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // A test that does not ask is not excused either, but its failure may be explained.
        if thread::panicking() && self.instance.is_some() {
            let _ = self.hidden();
        }
    }
}

/// A directory of our own under tracefs' `instances`: buffers and filters that nobody shares.
struct Instance {
    /// tracefs, mounted for this descriptor and nowhere else.
    _tracefs: OwnedFd,
    path: PathBuf,
    /// The threads of PID 1 when it began.
    threads: BTreeSet<u32>,
}

impl Instance {
    fn listening(ports: &[u16]) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let tracefs = mount_tracefs()?;
        let instances = PathBuf::from(format!("/proc/self/fd/{}/instances", tracefs.as_raw_fd()));
        remove_those_of_the_dead(&instances);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = instances.join(format!("{NAME}{}-{number}", process::id()));
        fs::create_dir(&path)?;
        let instance = Self {
            _tracefs: tracefs,
            path,
            threads: threads_of_pid_1(),
        };
        instance.set("trace_clock", "mono")?;
        instance.set("buffer_size_kb", BUFFER_KIB)?;
        // The first are kept: a full buffer is then seen by its dropped events.
        instance.set("options/overwrite", "0")?;

        // Of other tasks' events nothing is made, so that the witness hardly adds to a load.
        let threads: Vec<String> = instance.threads.iter().map(u32::to_string).collect();
        instance.set("set_event_pid", &threads.join(" "))?;
        let of_ports: Vec<String> = ports
            .iter()
            .map(|port| format!("sport=={port}||dport=={port}"))
            .collect();
        let filter = if ports.is_empty() {
            // The kernel's word for none.
            "0".to_owned()
        } else {
            of_ports.join("||")
        };
        instance.enable("sock/inet_sock_set_state", &filter)?;
        if let Some(handler) = minisocket_timer() {
            // Not timer_cancel, which does not say whose timer it is: what cancels in a softirq
            // is followed by a start, an expiry or a transition.
            for event in ["timer/timer_start", "timer/timer_expire_entry"] {
                instance.enable(event, &format!("function=={handler:#x}"))?;
            }
        }
        Ok(instance)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.path.join(file), value)
            .map_err(|error| io::Error::other(format!("set {file} to {value}: {error}")))
    }

    fn enable(&self, event: &str, filter: &str) -> io::Result<()> {
        self.set(&format!("events/{event}/filter"), filter)?;
        self.set(&format!("events/{event}/enable"), "1")
    }

    fn heard(&self) -> Hidden {
        let trace = fs::read_to_string(self.path.join("trace")).expect("read the trace");
        for cpu in fs::read_dir(self.path.join("per_cpu")).expect("list the processors") {
            let stats = cpu.expect("list the processors").path().join("stats");
            let stats = fs::read_to_string(stats).expect("read the buffer's statistics");
            for lost in ["overrun: ", "dropped events: "] {
                let lost = stats.lines().find_map(|line| line.strip_prefix(lost));
                assert_eq!(lost, Some("0"), "the witness heard all: {stats}");
            }
        }
        if !threads_of_pid_1().is_subset(&self.threads) {
            println!("PID 1 has new threads, which the witness does not know");
        }
        understand(&trace)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Its events end with it.
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Reads ftrace's lines.
fn understand(trace: &str) -> Hidden {
    let mut hidden = Hidden::default();
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        if line.contains(": inet_sock_set_state: ") {
            let port = |name: &str| -> Option<u16> {
                let mut words = line.split_whitespace();
                words.find_map(|word| word.strip_prefix(name))?.parse().ok()
            };
            let ports = port("sport=").zip(port("dport="));
            let ports = ports.unwrap_or_else(|| panic!("a transition has ports: {line}"));
            hidden.transitions += 1;
            hidden.sockets.insert(ports);
        } else if line.contains(": timer_start: ") || line.contains(": timer_expire_entry: ") {
            hidden.timers += 1;
        } else if !line.trim().is_empty() {
            panic!("not a line that the witness knows: {line}");
        }
    }
    hidden
}

/// tracefs without a place in any directory, gone when this is closed.
fn mount_tracefs() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mount = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    Ok(mount)
}

/// A test that was killed leaves its instance, which costs every event a little.
fn remove_those_of_the_dead(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME)?.split_once('-'));
        if let Some((pid, _)) = process
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The threads that ftrace knows by these numbers too, unless this is a container.
fn threads_of_pid_1() -> BTreeSet<u32> {
    let tasks = fs::read_dir("/proc/1/task").expect("list the threads of PID 1");
    tasks
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Where kallsyms has the function of minisockets' timers, if it says.
fn minisocket_timer() -> Option<u64> {
    let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
    let line = symbols.lines().find(|line| {
        let name = line.split_whitespace().nth(2).unwrap_or_default();
        name == "tw_timer_handler" || name.starts_with("tw_timer_handler.llvm.")
    })?;
    let address = u64::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
    (address != 0).then_some(address)
}

#[test]
fn the_lines_of_ftrace_are_understood() {
    let trace = "# tracer: nop
 tokio-rt-worker-63      [001] ..s1.  5668.864847: inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=26001 dport=40112 saddr=10.77.0.2 daddr=10.77.0.1 saddrv6=::ffff:10.77.0.2 daddrv6=::ffff:10.77.0.1 oldstate=TCP_SYN_RECV newstate=TCP_ESTABLISHED
          systemd-1       [000] ..s1.  5668.864900: timer_start: timer=00000000c0ffee00 function=tw_timer_handler expires=4296333812 [timeout=15000] bucket_expiry=4296333824 cpu=0 idx=0 flags=P
";
    let hidden = understand(trace);
    assert_eq!((hidden.transitions, hidden.timers), (1, 1));
    assert_eq!(hidden.sockets, BTreeSet::from([(26_001, 40_112)]));
}
