//! What the kernel itself counted: the truth that the records are held against.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::ClockId;
use tracer::btf::{KernelBtf, VMLINUX};

/// Wall-clock nanoseconds, as the records' time stamps are.
pub type Wall = i64;

/// The wall's clock, now.
pub fn wall() -> Wall {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    i64::try_from(now.as_nanos()).expect("the clock is before 2262")
}

/// Milliseconds as nanoseconds.
pub const fn ms(milliseconds: i64) -> i64 {
    milliseconds * 1_000_000
}

/// The TCP counters of a network namespace at one time.
#[derive(Clone, Debug)]
pub struct Counters(HashMap<String, i64>);

impl Counters {
    /// Those of the calling thread's namespace.
    pub fn read() -> Self {
        let mut values = HashMap::new();
        for file in ["snmp", "netstat"] {
            let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"))
                .expect("read the counters");
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks_exact(2) {
                let names = pair[0].split_whitespace().skip(1);
                let counts = pair[1].split_whitespace().skip(1);
                if pair[0].starts_with("Tcp") {
                    values.extend(
                        names
                            .map(str::to_owned)
                            .zip(counts.map(|count| count.parse().unwrap_or(0))),
                    );
                }
            }
        }
        let sockstat = fs::read_to_string("/proc/thread-self/net/sockstat").expect("read sockstat");
        for name in ["inuse", "tw"] {
            let tcp = sockstat.lines().find(|line| line.starts_with("TCP:"));
            let mut words = tcp.into_iter().flat_map(str::split_whitespace);
            let count = words.by_ref().skip_while(|word| *word != name).nth(1);
            let count = count.and_then(|count| count.parse().ok());
            values.insert(name.to_owned(), count.expect("sockstat has it"));
        }
        Self(values)
    }

    /// The counter `name` of /proc/net/snmp's or netstat's Tcp lines; `tw`: minisockets alive,
    /// `inuse`: full sockets of IPv4. A kernel that never counted it has 0.
    pub fn of(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How much `name` grew since `before`.
    pub fn since(&self, before: &Self, name: &str) -> i64 {
        self.of(name) - before.of(name)
    }
}

/// Whether the kernel shows the RSTs that answer for minisockets. Before Linux 6.10 tcp_send_reset,
/// then of two arguments, is silent about them.
pub fn shows_resets_of_minisockets() -> bool {
    let kernel = KernelBtf::from_file(Path::new(VMLINUX)).expect("the kernel's BTF");
    kernel.tracepoint_arguments("tcp_send_reset") == Some(3)
}

/// The length of a jiffy (1 / CONFIG_HZ).
pub fn jiffy() -> Duration {
    let resolution = rustix::time::clock_getres(ClockId::MonotonicCoarse);
    Duration::new(
        u64::try_from(resolution.tv_sec).expect("a resolution is positive"),
        u32::try_from(resolution.tv_nsec).expect("a resolution is below a second"),
    )
}

/// The latest that the timer wheel lets a timer expire that was set for `nominal`: a bucket of
/// level L is 8^L jiffies, and L is the smallest with a delta below 63 * 8^L.
pub fn latest_expiry(nominal: Duration) -> Duration {
    let jiffy = jiffy();
    let delta = nominal.as_nanos() / jiffy.as_nanos();
    let mut granule: u32 = 1;
    while delta >= 63 * u128::from(granule) {
        granule *= 8;
    }
    nominal + jiffy * granule
}

/// The processor time that a process of ours used so far, in clock ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a child's stat");
    let after_name = stat.rsplit_once(')').expect("stat has a name").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // utime and stime are fields 14 and 15; the name was field 2.
    [11, 12]
        .map(|field| fields[field].parse::<u64>().expect("ticks are a number"))
        .iter()
        .sum()
}

/// A setting under /proc/sys of the whole host, put back when dropped.
pub struct HostSetting {
    path: String,
    before: String,
}

impl HostSetting {
    /// Sets it, and remembers what it was.
    pub fn set(name: &str, value: &str) -> Self {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let before = fs::read_to_string(&path).expect("read the setting");
        fs::write(&path, value).expect("change the setting");
        Self { path, before }
    }

    /// What it is now.
    pub fn current(name: &str) -> String {
        fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")))
            .expect("read the setting")
            .trim()
            .to_owned()
    }
}

impl Drop for HostSetting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.trim()) {
            eprintln!("could not put {} back: {error}", self.path);
        }
    }
}

#[test]
fn the_wheel_is_at_most_a_granule_late() {
    let nominal = Duration::from_secs(60);
    let slack = latest_expiry(nominal) - nominal;
    let per_second = 1_000_000_000 / jiffy().as_nanos();
    let expected = match per_second {
        100 => 5_120,
        250 => 2_048,
        300 => 1_706,
        1000 => 4_096,
        other => return println!("no figure at hand for HZ={other}: slack {slack:?}"),
    };
    assert_eq!(slack.as_millis(), expected);
}
