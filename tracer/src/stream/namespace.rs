use crate::time::Timestamp;

/// The settings and counters of one network namespace, read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceReading {
    /// When.
    pub at: Timestamp,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Cookie of the network namespace.
    pub netns_cookie: u64,
    /// Its sysctls.
    pub settings: Settings,
    /// Its counters.
    pub counters: Counters,
}

/// Sysctls below `net.ipv4` that bear on ports and closes. `None`: this kernel has no such, or it
/// could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `ip_local_port_range`, both ends included.
    pub port_range: Option<(u16, u16)>,
    /// `ip_local_reserved_ports`, both ends of each span included, in order.
    pub reserved_ports: Vec<(u16, u16)>,
    /// `tcp_tw_reuse`: 0 off, 1 on, 2 for loopback alone (the default).
    pub tw_reuse: Option<u8>,
    /// `tcp_tw_reuse_delay`, milliseconds (Linux 6.14 and later; 1000 in effect before).
    pub tw_reuse_delay_ms: Option<u32>,
    /// `tcp_timestamps`.
    pub timestamps: Option<u8>,
    /// `tcp_max_tw_buckets`.
    pub max_tw_buckets: Option<u32>,
    /// `tcp_fin_timeout`, seconds: of FIN_WAIT2, not of TIME_WAIT.
    pub fin_timeout_s: Option<u32>,
    /// `tcp_rfc1337`.
    pub rfc1337: Option<u8>,
    /// `tcp_max_orphans`, the same in all namespaces.
    pub max_orphans: Option<u32>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// `tcp_syn_retries`.
    pub syn_retries: Option<u8>,
    /// `net.netfilter.nf_conntrack_max`; `None` also where conntrack is not loaded.
    pub conntrack_max: Option<u64>,
}

/// Counters since the namespace began, and numbers of what is there now. `None`: this kernel does
/// not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// TcpExt TCPTimeWaitOverflow: TIME_WAITs that were not made (bucket limit or memory).
    pub time_wait_overflows: Option<u64>,
    /// TcpExt TWRecycled: TIME_WAITs that connect() has taken over.
    pub time_waits_reused: Option<u64>,
    /// TcpExt ListenOverflows: an accept queue was full.
    pub listen_overflows: Option<u64>,
    /// TcpExt ListenDrops.
    pub listen_drops: Option<u64>,
    /// TcpExt TCPAbortOnMemory: sockets given up for the orphan limit or memory.
    pub aborts_on_memory: Option<u64>,
    /// Tcp ActiveOpens.
    pub active_opens: Option<u64>,
    /// Tcp PassiveOpens.
    pub passive_opens: Option<u64>,
    /// Tcp RetransSegs.
    pub retransmitted: Option<u64>,
    /// TIME_WAIT minisockets now, of either substate (`tw` in sockstat).
    pub time_waits: Option<u64>,
    /// Orphans now (`orphan` in sockstat), of the whole host.
    pub orphans: Option<u64>,
    /// Entries in the connection-tracking table now.
    pub conntrack_entries: Option<u64>,
    /// Packets that connection tracking has dropped, `drop` and `early_drop` of
    /// `/proc/net/stat/nf_conntrack` together, over all processors.
    pub conntrack_drops: Option<u64>,
}
