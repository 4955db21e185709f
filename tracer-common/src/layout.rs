//! Where the running kernel keeps the fields that the BPF programs read.
//!
//! The loader resolves each from the kernel's BTF and writes it into the instructions that stand
//! for it in the object: see [`placeholder`]. Nothing is hard-coded, so one object serves every
//! kernel, and none of them reads its offsets from memory as it runs.

/// An offset that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// What the object's instructions hold where the loader writes what it knows.
///
/// Nothing else in the object has such numbers: offsets of its own records and of its stack are far
/// smaller.
pub mod placeholder {
    /// From here on, a load's offset (16 bits) stands for a field: see [`load`].
    pub const LOAD: i16 = 0x7000;
    /// From here on, what is moved to a register (32 bits) is the field's offset itself.
    pub const OFFSET: i32 = 0x7a11_0000;
    /// What is moved to a register (64 bits): the address of `tw_timer_handler`.
    pub const HANDLER: i64 = 0x7261_6365_725f_7477;
    /// Words that a load may lie behind its field's start.
    pub const WORDS: usize = 8;

    /// The offset of a load, `word` 32-bit words behind the field that lies at `slot` in
    /// [`Offsets`](super::Offsets).
    #[must_use]
    pub const fn load(slot: usize, word: usize) -> i16 {
        assert!(word < WORDS);
        LOAD + (slot / size_of::<u32>() * WORDS + word) as i16
    }

    /// The field's number by which [`OFFSET`] is raised, from its place in
    /// [`Offsets`](super::Offsets).
    #[must_use]
    pub const fn offset(slot: usize) -> i32 {
        OFFSET + (slot / size_of::<u32>()) as i32
    }
}

/// Bytes that the programs copy from the start of a socket whose pointer the verifier does not
/// know. Every field of `sock_common` and `inet_timewait_sock` in [`Offsets`] but the timer itself
/// must lie within.
pub const MINISOCKET_COPY: u32 = 192;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident: $structure:literal . $path:literal $(| $other:literal)*, $size:literal $(, $optional:ident)?;)*) => {
        /// Byte offsets of kernel fields from the start of the structure that the programs hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct Offsets {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Offsets {
            /// No field is known.
            pub const UNKNOWN: Self = Self { $($field: ABSENT,)* };

            /// What the loader resolves: one row a field.
            pub const FIELDS: &'static [Field] = &[
                $(Field {
                    structure: $structure,
                    path: $path,
                    others: &[$($other),*],
                    size: $size,
                    required: offsets!(@required $($optional)?),
                    slot: |offsets| &mut offsets.$field,
                },)*
            ];
        }
    };
    (@required optional) => { false };
    (@required) => { true };
}

/// One row of [`Offsets::FIELDS`].
pub struct Field {
    /// The structure that `path` starts from.
    pub structure: &'static str,
    /// Members to follow, joined by dots; anonymous structures and unions are looked through.
    pub path: &'static str,
    /// What other versions call the same, tried in this order where there is no `path`.
    pub others: &'static [&'static str],
    /// Bytes that the programs load; a kernel whose field differs is refused, not misread.
    pub size: u32,
    /// Whether tracing is impossible without it.
    pub required: bool,
    /// Where the offset goes.
    pub slot: fn(&mut Offsets) -> &mut u32,
}

offsets! {
    /// Address family.
    family: "sock_common"."skc_family", 2;
    /// State.
    state: "sock_common"."skc_state", 1;
    /// Peer address and local address, IPv4, in one word.
    address_pair: "sock_common"."skc_addrpair", 8;
    /// Peer port (network order) and local port (host order), in one word.
    port_pair: "sock_common"."skc_portpair", 4;
    /// Peer address, IPv6.
    v6_peer: "sock_common"."skc_v6_daddr", 16, optional;
    /// Local address, IPv6.
    v6_local: "sock_common"."skc_v6_rcv_saddr", 16, optional;
    /// Network namespace.
    net: "sock_common"."skc_net", 8;
    /// Socket cookie.
    cookie: "sock_common"."skc_cookie", 8;
    /// Cookie of a network namespace.
    net_cookie: "net"."net_cookie", 8;
    /// Inode of a network namespace.
    net_inode: "net"."ns.inum", 4;
    /// Holders of a network namespace; 0: it is being taken down. The second name from 6.19 on.
    net_count: "net"."ns.count" | "ns.__ns_ref", 4, optional;
    /// Protocol.
    protocol: "sock"."sk_protocol", 2;
    /// Whether a process holds the lock.
    lock_owned: "sock"."sk_lock.owned", 4;
    /// Pending error.
    error: "sock"."sk_err", 4;
    /// Soft error.
    soft_error: "sock"."sk_err_soft", 4;
    /// Directions shut down.
    shutdown: "sock"."sk_shutdown", 1;
    /// SOCK_* bits.
    flags: "sock_common"."skc_flags", 8;
    /// Linger time, jiffies.
    linger_time: "sock"."sk_lingertime", 8;
    /// The process's handle.
    socket: "sock"."sk_socket", 8;
    /// Which properties the user has fixed.
    user_locks: "sock"."sk_userlocks", 1;
    /// Owner.
    uid: "sock"."sk_uid", 4;
    /// Control group (v2).
    cgroup: "sock"."sk_cgrp_data.cgroup", 8, optional;
    /// A control group's node.
    cgroup_node: "cgroup"."kn", 8, optional;
    /// A node's id.
    node_id: "kernfs_node"."id", 8, optional;
    /// Local port in network order, which outlives the unbinding at CLOSE.
    source_port: "inet_sock"."inet_sport", 2;
    /// Unanswered retransmissions.
    retransmits: "inet_connection_sock"."icsk_retransmits", 1;
    /// Unanswered probes.
    probes_out: "inet_connection_sock"."icsk_probes_out", 1;
    /// TCP_USER_TIMEOUT.
    user_timeout: "inet_connection_sock"."icsk_user_timeout", 4;
    /// TCP_LINGER2.
    linger2: "tcp_sock"."linger2", 4;
    /// Next sequence number expected.
    rcv_nxt: "tcp_sock"."rcv_nxt", 4;
    /// First sequence number that the application has not read.
    copied_seq: "tcp_sock"."copied_seq", 4;
    /// First sequence number that the peer has not acknowledged.
    snd_una: "tcp_sock"."snd_una", 4;
    /// The sequence number behind all that was written, the FIN included.
    write_seq: "tcp_sock"."write_seq", 4;
    /// Segments sent.
    segs_out: "tcp_sock"."segs_out", 4;
    /// Segments received.
    segs_in: "tcp_sock"."segs_in", 4;
    /// Segments retransmitted.
    total_retrans: "tcp_sock"."total_retrans", 4;
    /// Smoothed round-trip time, in eighths of a microsecond.
    srtt: "tcp_sock"."srtt_us", 4;
    /// Windowed minimum of the round-trip time: three samples of two words.
    rtt_min: "tcp_sock"."rtt_min", 24;
    /// Payload bytes sent.
    bytes_sent: "tcp_sock"."bytes_sent", 8;
    /// Payload bytes received.
    bytes_received: "tcp_sock"."bytes_received", 8;
    /// TCP_REPAIR, a bit of this byte.
    repair: "tcp_sock"."repair", 1;
    /// Whether timestamps were agreed on, a bit of this byte.
    timestamps: "tcp_sock"."rx_opt.tstamp_ok", 1;
    /// The minisocket's timer.
    tw_timer: "inet_timewait_sock"."tw_timer", 0;
    /// FIN_WAIT2 or TIME_WAIT.
    tw_substate: "inet_timewait_sock"."tw_substate", 1;
    /// When TIME_WAIT was entered, monotonic milliseconds (6.14 and later).
    tw_entry_stamp: "inet_timewait_sock"."tw_entry_stamp", 4, optional;
    /// A timer's handler.
    timer_function: "timer_list"."function", 8;
    /// A timer's end, jiffies.
    timer_expires: "timer_list"."expires", 8;
    /// Start of a segment's buffer.
    skb_head: "sk_buff"."head", 8;
    /// Offset of the TCP header from there.
    skb_transport: "sk_buff"."transport_header", 2;
    /// Where the segment's data starts.
    skb_data: "sk_buff"."data", 8;
    /// Bytes of the segment from there.
    skb_len: "sk_buff"."len", 4;
    /// A thread's PF_* bits.
    task_flags: "task_struct"."flags", 4;
    /// The system call that a thread is in: the low word of its number.
    task_call: "pt_regs"."orig_ax" | "syscallno", 0, optional;
    /// A thread's process.
    task_leader: "task_struct"."group_leader", 8;
    /// A thread's name.
    task_comm: "task_struct"."comm", 16;
    /// In which context the processor runs, where a thread keeps that (not on x86). Its low word.
    task_preempt_count: "task_struct"."thread_info.preempt_count", 0, optional;
    /// The queue of a thread's control group on its processor.
    task_cfs_queue: "task_struct"."se.cfs_rq", 8, optional;
    /// The processor's run queue, a static variable of it.
    cfs_queue_run_queue: "cfs_rq"."rq", 8, optional;
    /// First argument of the system call that a thread is in. Known on x86 alone.
    call_first: "pt_regs"."di", 8, optional;
    /// Its second argument.
    call_second: "pt_regs"."si", 8, optional;
    /// A thread's open files.
    task_files: "task_struct"."files", 8, optional;
    /// Their table.
    files_table: "files_struct"."fdt", 8, optional;
    /// The files of such a table, by descriptor.
    table_files: "fdtable"."fd", 8, optional;
    /// How many a table has places for.
    table_size: "fdtable"."max_fds", 4, optional;
    /// What a file is to its owner: a socket's handle.
    file_data: "file"."private_data", 8, optional;
    /// A handle's socket.
    socket_sock: "socket"."sk", 8, optional;
    /// SOCK_STREAM and its like.
    socket_type: "socket"."type", 2, optional;
}

impl Offsets {
    /// Whether the socket behind a system call that failed can be found.
    #[must_use]
    pub fn lead_from_call_to_socket(&self) -> bool {
        [
            self.call_first,
            self.call_second,
            self.task_files,
            self.files_table,
            self.table_files,
            self.table_size,
            self.file_data,
            self.socket_sock,
            self.socket_type,
        ]
        .iter()
        .all(|offset| *offset != ABSENT)
    }
}

// SAFETY: Offsets is repr(C), made of u32 alone, without padding; every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Offsets {}
