//! What loads are made on: two namespaces and nginx. Each round has its own, so that no TIME_WAIT of
//! one round expires in another.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::children;
use crate::clearance;
use crate::namespace::VethPair;

/// nginx's, and nobody else's on this machine: lines are told by it.
pub const PORT: u16 = 28_765;

/// Several, so that a tuple seldom comes again while it is in TIME_WAIT.
const SERVERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 77, 0, 2),
    Ipv4Addr::new(10, 77, 0, 12),
    Ipv4Addr::new(10, 77, 0, 13),
    Ipv4Addr::new(10, 77, 0, 14),
];

/// The client's namespace, and the server's with nginx in it.
pub struct Stage {
    nginx: Option<Nginx>,
    pub pair: VethPair,
}

/// What both namespaces have counted.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// connect() calls that sent a SYN.
    pub active: i64,
    /// Connections that the server's side took on.
    pub passive: i64,
    /// Minisockets there are now.
    pub time_waits: i64,
}

impl Stage {
    /// Makes it and waits until nginx answers.
    pub fn new() -> Result<Self> {
        let mut stage = Self::without_server();
        stage.nginx = Some(Nginx::start(&stage.pair)?);
        Ok(stage)
    }

    /// The namespaces alone.
    pub fn without_server() -> Self {
        let pair = VethPair::new();
        pair.first
            .sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        for namespace in [&pair.first, &pair.second] {
            namespace.sysctl("net.ipv4.tcp_max_tw_buckets", "4000000");
            namespace.sysctl("net.core.somaxconn", "16384");
            namespace.sysctl("net.ipv4.tcp_max_syn_backlog", "16384");
        }
        for server in &SERVERS[1..] {
            pair.second
                .ip(&format!("address add {server}/24 dev veth1"));
        }
        Self { pair, nginx: None }
    }

    /// Where nginx listens.
    pub fn servers() -> impl ExactSizeIterator<Item = SocketAddr> + Clone {
        SERVERS
            .into_iter()
            .map(|server| SocketAddrV4::new(server, PORT).into())
    }

    /// Waits until what a load has begun is closed: nothing but the listener is left, or five
    /// seconds have passed.
    pub fn wait_until_closed(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let namespaces = [&self.pair.first, &self.pair.second];
        let in_use = || {
            namespaces
                .map(|it| it.run(sockets_in_use))
                .iter()
                .sum::<u64>()
        };
        let listeners = u64::from(self.nginx.is_some());
        while in_use() > listeners && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The kernel's counters now.
    pub fn counts(&self) -> Counts {
        let (client, server) = (self.pair.first.counters(), self.pair.second.counters());
        Counts {
            active: client.of("ActiveOpens"),
            passive: server.of("PassiveOpens"),
            time_waits: client.of("tw") + server.of("tw"),
        }
    }
}

impl Stage {
    /// Ends it, and waits until the kernel has cleared it away.
    pub fn strike(mut self) -> Result<()> {
        // Its sockets keep the namespace alive. So do those that it leaves behind: once the other
        // end's namespace is gone, a FIN that was lost is sent for 100 s before it is given up.
        self.nginx.take();
        for namespace in [&self.pair.first, &self.pair.second] {
            namespace.sysctl("net.ipv4.tcp_orphan_retries", "1");
        }
        self.wait_until_closed();
        clearance::clear(self.pair, |pair| [&pair.first, &pair.second])
    }
}

/// TCP sockets of the calling thread's namespace that are not closed, less minisockets.
fn sockets_in_use() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("TCP: inuse "))
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// nginx, answering every request with two bytes.
struct Nginx {
    master: Child,
    _directory: TempDir,
}

impl Nginx {
    fn start(pair: &VethPair) -> Result<Self> {
        let directory = tempfile::tempdir().context("failed to make nginx's directory")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let file = directory.path().join("nginx.conf");
        fs::write(&file, configuration(&directory))?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let master = children::start(&mut command, Some(&pair.second))?;
        let nginx = Self {
            master,
            _directory: directory,
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        for server in Stage::servers() {
            while !pair.first.run(|| answers(server)) {
                if Instant::now() > deadline {
                    let log = nginx._directory.path().join("error.log");
                    bail!("nginx: {}", fs::read_to_string(log).unwrap_or_default());
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers itself, which a kill would not.
        let _ = children::end(&mut self.master, Signal::TERM, Duration::from_secs(5));
    }
}

fn configuration(directory: &TempDir) -> String {
    let at = directory.path().display();
    format!(
        "daemon off; user root; worker_processes 2; worker_rlimit_nofile 16384;
         pid {at}/pid; error_log {at}/error.log crit;
         events {{ worker_connections 8192; }}
         http {{
           access_log off; server_tokens off; default_type text/plain; keepalive_timeout 0;
           client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
           fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
           server {{ listen {PORT} backlog=16384; location / {{ return 200 ok; }} }}
         }}"
    )
}

fn answers(server: SocketAddr) -> bool {
    let mut answer = String::new();
    let mut ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    };
    ask().is_ok_and(|length| length > 0)
}
