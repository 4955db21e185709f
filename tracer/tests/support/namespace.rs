//! Network namespaces of a test's own, gone when the last handle and socket are.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::kernel::Counters;

/// A network namespace with its loopback up.
pub struct Namespace {
    file: File,
    /// What `--netns` and the records call it.
    pub inode: u32,
}

impl Namespace {
    /// Makes one. Needs CAP_SYS_ADMIN.
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(UnshareFlags::NEWNET);
            File::open("/proc/thread-self/ns/net").expect("open the new network namespace")
        })
        .join()
        .expect("make a network namespace");
        let inode = file.metadata().expect("stat the network namespace").ino();
        let namespace = Self {
            file,
            inode: u32::try_from(inode).expect("inodes of namespaces have 32 bits"),
        };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` inside and returns what it returns. Sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                work()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread inside, for the rest of its life.
    pub fn enter(&self) {
        rustix::thread::move_into_link_name_space(
            self.file.as_fd(),
            Some(LinkNameSpaceType::Network),
        )
        .expect("enter the network namespace");
    }

    /// Mounts it on a file of its own, where everybody finds it, as `ip netns` does.
    pub fn mount(&self) -> Mounted {
        let file = tempfile::NamedTempFile::new().expect("make a file to mount on");
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::mount::mount_bind(&from, file.path()).expect("mount the network namespace");
        Mounted(file)
    }

    /// Runs `ip` with these words inside.
    pub fn ip(&self, words: &str) {
        self.command("ip", words);
    }

    /// Whether `program` with these words succeeds inside.
    pub fn try_command(&self, program: &str, words: &str) -> Result<(), String> {
        let output = self
            .run(|| {
                Command::new(program)
                    .args(words.split_whitespace())
                    .output()
            })
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "{program} {words}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }

    fn command(&self, program: &str, words: &str) {
        self.try_command(program, words)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Sets a sysctl of this namespace: `net.ipv4.tcp_tw_reuse`.
    pub fn sysctl(&self, name: &str, value: &str) {
        assert!(self.try_sysctl(name, value), "{name} = {value} was refused");
    }

    /// The same for one that not every kernel has; false where it has not.
    pub fn try_sysctl(&self, name: &str, value: &str) -> bool {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        // The files under /proc/sys/net show the namespace of the thread that opens them.
        self.run(|| std::fs::write(path, value).is_ok())
    }

    /// The kernel's counters of this namespace, now.
    pub fn counters(&self) -> Counters {
        self.run(Counters::read)
    }

    /// Spreads what the interface receives over all processors (RPS), so that a softirq can
    /// interrupt a program of the tracer on its own processor.
    pub fn spread_receive(&self, interface: &str) {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let mask = format!("{:x}", (1_u64 << cpus.min(32)) - 1);
        let path = format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus");
        self.run(|| {
            // sysfs shows the devices of the namespace that it was mounted in.
            private_mounts();
            rustix::mount::mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)
                .expect("mount this namespace's sysfs");
            std::fs::write(&path, &mask).expect("set rps_cpus");
            let read = std::fs::read_to_string(&path).expect("read rps_cpus");
            let read = u64::from_str_radix(&read.trim().replace(',', ""), 16);
            assert_eq!(read, u64::from_str_radix(&mask, 16), "rps_cpus holds");
        });
    }
}

/// A network namespace's mount, gone when dropped.
pub struct Mounted(tempfile::NamedTempFile);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH) {
            eprintln!("could not unmount {}: {error}", self.0.path().display());
        }
    }
}

/// Two namespaces joined by a pair of veth devices: `veth0` in the first, `veth1` in the second.
pub struct VethPair {
    /// Holds 10.77.0.1 and fd77::1.
    pub first: Namespace,
    /// Holds 10.77.0.2 and fd77::2.
    pub second: Namespace,
}

impl VethPair {
    /// Addresses of the first end.
    pub const FIRST: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
    ];
    /// Addresses of the second end.
    pub const SECOND: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
    ];

    /// Makes both namespaces and joins them.
    pub fn new() -> Self {
        let pair = Self {
            first: Namespace::new(),
            second: Namespace::new(),
        };
        // `ip` takes a path for the other end's namespace; ours lives in a descriptor.
        let other = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            pair.second.file.as_raw_fd()
        );
        pair.first.ip(&format!(
            "link add veth0 type veth peer name veth1 netns {other}"
        ));
        for (namespace, interface, host) in [(&pair.first, "veth0", 1), (&pair.second, "veth1", 2)]
        {
            namespace.ip(&format!("address add 10.77.0.{host}/24 dev {interface}"));
            namespace.ip(&format!(
                "address add fd77::{host}/64 dev {interface} nodad"
            ));
            namespace.ip(&format!("link set {interface} up"));
        }
        for (first, second) in Self::FIRST.into_iter().zip(Self::SECOND) {
            pair.wait_until_joined(first, second);
        }
        pair
    }

    /// Returns once a datagram has come across and back. A device that is up sends nothing until
    /// the kernel has noticed its carrier, and neighbours are asked for first: a SYN that came too
    /// early would be sent again a second later.
    fn wait_until_joined(&self, first: IpAddr, second: IpAddr) {
        let bound = |namespace: &Namespace, address| {
            let socket = namespace.run(|| UdpSocket::bind(SocketAddr::new(address, 0)));
            let socket = socket.expect("bind a datagram socket");
            socket
                .set_read_timeout(Some(Duration::from_millis(10)))
                .expect("bound the reads");
            socket
        };
        let (here, there) = (bound(&self.first, first), bound(&self.second, second));
        let addresses = (here.local_addr(), there.local_addr());
        let (Ok(here_at), Ok(there_at)) = addresses else {
            panic!("bound sockets have addresses: {addresses:?}");
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let crosses = |from: &UdpSocket, to: &UdpSocket, at: SocketAddr| {
            from.send_to(b"?", at).is_ok() && to.recv(&mut [0]).is_ok()
        };
        while !(crosses(&here, &there, there_at) && crosses(&there, &here, here_at)) {
            assert!(
                Instant::now() < deadline,
                "{first} and {second} do not reach each other"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Gives the calling thread a mount namespace of its own, whose mounts nobody else sees.
pub fn private_mounts() {
    unshare(UnshareFlags::NEWNS);
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .expect("make the mounts private");
}

/// Hides a directory behind an empty one, in the calling thread's own mount namespace only.
pub fn hide(directory: &Path) {
    let _ = rustix::mount::unmount(directory, UnmountFlags::DETACH);
    if directory.exists() {
        rustix::mount::mount("none", directory, "tmpfs", MountFlags::RDONLY, None)
            .unwrap_or_else(|error| panic!("hide {}: {error}", directory.display()));
    }
}

fn unshare(flags: UnshareFlags) {
    // SAFETY: only network and mount namespaces are unshared here, never the table of file
    // descriptors, so no owned descriptor changes its meaning in this thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .expect("unshare a namespace: root may, so this host or container forbids it");
}
