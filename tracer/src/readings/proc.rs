//! The files of one namespace's sysctls and counters.
//!
//! procfs (the crate) reads neither netstat nor the files of another thread; these are lines of names
//! above lines of numbers.

use std::fs;
use std::str::FromStr;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::clock;
use crate::inventory::netns_cookie;
use crate::stream::{Counters, NamespaceReading, Settings};

/// Reads the namespace that the calling thread is in, whose inode this is.
pub(super) fn read(netns: u32) -> NamespaceReading {
    let cookie = Socket::new(NETLINK_SOCK_DIAG).and_then(|socket| netns_cookie(&socket));
    let mut reading = NamespaceReading {
        netns,
        netns_cookie: cookie.unwrap_or(0),
        settings: settings(),
        counters: counters(),
        ..NamespaceReading::default()
    };
    reading.at = clock::monotonic();
    reading
}

fn settings() -> Settings {
    Settings {
        port_range: text("ipv4/ip_local_port_range").and_then(|text| range(&text)),
        reserved_ports: text("ipv4/ip_local_reserved_ports")
            .map(|text| spans(&text))
            .unwrap_or_default(),
        tw_reuse: number("ipv4/tcp_tw_reuse"),
        tw_reuse_delay_ms: number("ipv4/tcp_tw_reuse_delay"),
        timestamps: number("ipv4/tcp_timestamps"),
        max_tw_buckets: number("ipv4/tcp_max_tw_buckets"),
        fin_timeout_s: number("ipv4/tcp_fin_timeout"),
        rfc1337: number("ipv4/tcp_rfc1337"),
        max_orphans: number("ipv4/tcp_max_orphans"),
        somaxconn: number("core/somaxconn"),
        syn_retries: number("ipv4/tcp_syn_retries"),
        conntrack_max: number("netfilter/nf_conntrack_max"),
    }
}

fn counters() -> Counters {
    let net = |file: &str| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        text.unwrap_or_default()
    };
    let (netstat, snmp, sockstat) = (net("netstat"), net("snmp"), net("sockstat"));
    let extended = |name| named(&netstat, "TcpExt:", name);
    let tcp = |name| named(&snmp, "Tcp:", name);
    Counters {
        time_wait_overflows: extended("TCPTimeWaitOverflow"),
        time_waits_reused: extended("TWRecycled"),
        listen_overflows: extended("ListenOverflows"),
        listen_drops: extended("ListenDrops"),
        aborts_on_memory: extended("TCPAbortOnMemory"),
        active_opens: tcp("ActiveOpens"),
        passive_opens: tcp("PassiveOpens"),
        retransmitted: tcp("RetransSegs"),
        time_waits: worded(&sockstat, "TCP:", "tw"),
        orphans: worded(&sockstat, "TCP:", "orphan"),
        conntrack_entries: number("netfilter/nf_conntrack_count"),
        conntrack_drops: conntrack_drops(&net("stat/nf_conntrack")),
    }
}

fn text(sysctl: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/{sysctl}")).ok()
}

fn number<T: FromStr>(sysctl: &str) -> Option<T> {
    text(sysctl)?.trim().parse().ok()
}

/// Both ends, a tab between them.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut ends = text.split_whitespace().map(str::parse);
    Some((ends.next()?.ok()?, ends.next()?.ok()?))
}

/// `8080,9148,10000-10100`.
fn spans(text: &str) -> Vec<(u16, u16)> {
    let span = |span: &str| {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.trim().split(',').filter_map(span).collect()
}

/// The number below `name`, of two lines that begin with `prefix`. The kernel prints some counters
/// with a sign.
fn named(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|found| found == name)?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

/// The number after `word` in the line that begins with `prefix`.
fn worded(text: &str, prefix: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
    let mut words = line.split_whitespace();
    words.find(|found| *found == word)?;
    words.next()?.parse().ok()
}

/// Hexadecimal numbers below their names, a line for each processor.
fn conntrack_drops(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let place = |name| names.iter().position(|found| *found == name);
    let places = [place("drop")?, place("early_drop")?];
    let mut drops = 0;
    for line in lines {
        let numbers: Vec<&str> = line.split_whitespace().collect();
        for place in places {
            drops += u64::from_str_radix(numbers.get(place)?, 16).ok()?;
        }
    }
    Some(drops)
}

/// The namespace of the calling thread.
#[cfg(test)]
pub(super) fn own_inode() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    u32::try_from(fs::metadata("/proc/thread-self/ns/net").ok()?.ino()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETSTAT: &str = "\
TcpExt: SyncookiesSent TW TWRecycled ListenOverflows
TcpExt: 1 2 3 4
IpExt: InNoRoutes TWRecycled
IpExt: 8 9
";

    #[test]
    fn a_counter_is_found_by_its_name() {
        assert_eq!(named(NETSTAT, "TcpExt:", "TWRecycled"), Some(3));
        assert_eq!(named(NETSTAT, "TcpExt:", "ListenOverflows"), Some(4));
        assert_eq!(named(NETSTAT, "TcpExt:", "TWR"), None);
        assert_eq!(named(NETSTAT, "IpExt:", "TWRecycled"), Some(9));
        assert_eq!(named("TcpExt: A B\nTcpExt: 1\n", "TcpExt:", "B"), None);
        assert_eq!(named("", "Tcp:", "ActiveOpens"), None);
        let snmp = "Tcp: MaxConn ActiveOpens\nTcp: -1 7\n";
        assert_eq!(named(snmp, "Tcp:", "MaxConn"), None);
        assert_eq!(named(snmp, "Tcp:", "ActiveOpens"), Some(7));
    }

    #[test]
    fn sockstat_counts_by_words() {
        let sockstat =
            "sockets: used 29\nTCP: inuse 1 orphan 5 tw 12 alloc 1 mem 0\nUDP: inuse 3\n";
        assert_eq!(worded(sockstat, "TCP:", "orphan"), Some(5));
        assert_eq!(worded(sockstat, "TCP:", "tw"), Some(12));
        assert_eq!(worded(sockstat, "UDP:", "tw"), None);
    }

    #[test]
    fn conntrack_counts_in_hexadecimal_by_processor() {
        let drops = "entries  found drop early_drop\n00000010 00000000 0000000a 00000001\n00000010 00000000 00000010 00000000\n";
        assert_eq!(conntrack_drops(drops), Some(10 + 1 + 16));
        assert_eq!(conntrack_drops("entries found\n00000001 00000002\n"), None);
        assert_eq!(conntrack_drops(""), None);
    }

    #[test]
    fn reserved_ports_are_spans() {
        assert_eq!(
            spans("8080,9148,10000-10100\n"),
            [(8080, 8080), (9148, 9148), (10_000, 10_100)]
        );
        assert_eq!(spans("\n"), []);
        assert_eq!(range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(range("\n"), None);
    }
}
