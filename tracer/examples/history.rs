//! Writes a history of made-up connections, and tells what that cost as a JSON object.
//!
//! `cargo run --release --example history -- DIRECTORY [SECONDS [ROWS_A_SECOND [ROLL_SECONDS [HOST]]]]`
//!
//! The directory can be read while it is written: that is what the queries of deploy/queries are
//! checked with.

use std::error::Error;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tracer::attribution::Names;
use tracer::clock;
use tracer::history::{History, Row, Settings};
use tracer::record::{
    Close, CloseCause, CloseKind, EntryPrecision, Evidence, FinWait2, FinWait2Exit, IncompleteSet,
    Initiator, Process, Record, Role, Source, StateVisit, States, TimeWait, TimeWaitExit, Traffic,
};
use tracer::stream::Name;
use tracer::time::Timestamp;
use tracer_common::tcp::{Endpoint, Flow, TcpState};

const MILLISECOND: u64 = 1_000_000;
/// How often rows are offered.
const ROUND: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let mut number = |default| match arguments.next() {
        Some(argument) => argument.parse::<u64>(),
        None => Ok(default),
    };
    let (seconds, rate, roll) = (number(10)?, number(20_000)?, number(300)?);
    let host = arguments.next().unwrap_or_else(|| "web-1".to_owned());
    let names = names();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let resident_before = status("VmRSS:")?;
    let mut history = History::start(Settings {
        roll_after: Duration::from_secs(roll),
        ..Settings::new(directory, &host, boot_id.trim_end())
    })?;

    let began = clock::monotonic();
    let wall = clock::wall_offset();
    let (mut offered, mut spent) = (0, Duration::ZERO);
    let mut ticked = began;
    let mut random = fastrand::Rng::with_seed(began.0);
    while offered < seconds * rate {
        let now = clock::monotonic();
        let due = (now.since(began).saturating_mul(rate) / 1_000_000_000).min(seconds * rate);
        let records: Vec<_> = (offered..due)
            .map(|cookie| connection(cookie + 1, now, &mut random))
            .collect();
        let before = clock::thread_cpu();
        for record in &records {
            history.offer(Row::of(record, wall, &names));
        }
        if now.since(ticked) > 1_000_000_000 {
            history.tick();
            ticked = now;
        }
        spent += clock::thread_cpu() - before;
        offered = due;
        thread::sleep(ROUND);
    }
    let processor = thread_processor_time("history")?;
    let handled = offered - history.stats().rows_dropped;
    let stats = history.close();
    let figures = serde_json::json!({
        "rows_offered": offered,
        "rows_written": stats.rows_written,
        "rows_dropped": stats.rows_dropped,
        "offer_ns_a_row": spent.as_nanos() as u64 / offered.max(1),
        "thread_processor_ns_a_row": processor / handled.max(1),
        "bytes_a_row": stats.bytes as f64 / stats.rows_written.max(1) as f64,
        "row_bytes_in_memory": size_of::<Row>(),
        "files": stats.files,
        "peak_memory_kib_above_start": status("VmHWM:")?.saturating_sub(resident_before),
        "errors": stats.errors,
        "last_error": stats.last_error,
    });
    println!("{figures}");
    Ok(())
}

/// A figure of /proc/self/status, in KiB.
fn status(key: &str) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.ok_or("no such figure")?.parse()?)
}

/// The processor time of our thread of that name, in nanoseconds.
fn thread_processor_time(name: &str) -> Result<u64, Box<dyn Error>> {
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim_end() == name {
            let times = fs::read_to_string(task.join("schedstat"))?;
            let on_processor = times.split(' ').next().unwrap_or_default();
            return Ok(on_processor.parse()?);
        }
    }
    Err("no such thread".into())
}

const PROGRAMS: [(&str, &str); 4] = [
    ("php-fpm", "/system.slice/php-fpm.service"),
    ("nginx", "/system.slice/nginx.service"),
    (
        "java",
        "/system.slice/docker-0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a.scope",
    ),
    ("curl", "/user.slice/user-1000.slice/session-2.scope"),
];

fn names() -> Names {
    let mut names = Names::default();
    for (id, (_, path)) in (1..).zip(PROGRAMS) {
        names.learn(&Name::Cgroup {
            id,
            path: Some(path.to_owned()),
        });
    }
    names
}

fn program(index: usize, pid: u32) -> Process {
    let name = PROGRAMS[index].0.as_bytes();
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name);
    Process {
        pid: Some(pid),
        tid: Some(pid),
        comm: Some(padded),
        name: Some(padded),
        source: Source::Exact,
    }
}

/// What a web server's host sees: clients come, and it asks databases and the like itself.
fn connection(cookie: u64, ended_at: Timestamp, random: &mut fastrand::Rng) -> Record {
    let ago = |milliseconds: u64, random: &mut fastrand::Rng| {
        Timestamp(ended_at.0 - milliseconds * MILLISECOND - random.u64(..MILLISECOND))
    };
    let is_client = random.u8(..10) < 6;
    let program_index = match is_client {
        true => [0, 0, 0, 2, 2, 3][random.usize(..6)],
        false => 1,
    };
    let (kind, initiator, cause) = match random.u8(..100) {
        0..60 => (CloseKind::Active, Initiator::Local, CloseCause::Fin),
        60..90 => (CloseKind::Passive, Initiator::Peer, CloseCause::Fin),
        90..93 => (
            CloseKind::ResetSent,
            Initiator::Local,
            CloseCause::UnreadData,
        ),
        93..95 => (
            CloseKind::ResetSent,
            Initiator::Local,
            CloseCause::LingerZero,
        ),
        _ => (
            CloseKind::ResetReceived,
            Initiator::Peer,
            CloseCause::PeerReset,
        ),
    };
    let is_active = kind == CloseKind::Active;
    let lasted = random.u64(1..2_000);
    let waited = if is_active {
        60_000 + random.u64(..1_000)
    } else {
        0
    };
    let closed_at = ago(waited, random);
    let opened_at = ago(waited + lasted + 1, random);
    let handshake = random.u64(100_000..1_000_000);
    let established_at = Timestamp(opened_at.0 + handshake);
    let ephemeral = random.u16(32_768..61_000);
    let here = IpAddr::from([10, 0, 0, 5]);
    let (local, peer) = match is_client {
        true => {
            let (host, port) = [(9, 3306), (10, 6379), (11, 443), (12, 8080)][random.usize(..4)];
            let peer = IpAddr::from([10, 0, 0, host]);
            ((here, ephemeral), (peer, port))
        }
        false => {
            let peer = IpAddr::from([203, 0, random.u8(112..114), random.u8(1..)]);
            ((here, 443), (peer, ephemeral))
        }
    };
    let end = |(address, port)| Endpoint { address, port };
    let process = program(program_index, 800 + random.u32(..40));
    let visit = |state, at, for_ns| StateVisit {
        state,
        at,
        for_ns: Some(for_ns),
    };
    let fin_wait2 = random.u64(10_000..50_000_000);
    Record {
        cookie,
        generation: 0,
        netns: 4_026_531_840,
        netns_cookie: 1,
        flow: Flow {
            local: end(local),
            peer: end(peer),
        },
        socket_is_v6: !is_client,
        role: if is_client {
            Role::Client
        } else {
            Role::Server
        },
        source_port_bound: is_client.then_some(false),
        opened_at: Some(opened_at),
        established_at: Some(established_at),
        close_began_at: Some(Timestamp(closed_at.0 - fin_wait2.min(lasted * MILLISECOND))),
        closed_at: Some(closed_at),
        ended_at: Some(ended_at),
        handshake_ns: is_client.then_some(handshake),
        syn_retransmits: is_client.then_some(0),
        states: States::from_iter([
            visit(TcpState::SynSent, opened_at, handshake),
            visit(TcpState::Established, established_at, lasted * MILLISECOND),
        ]),
        close: Close {
            kind,
            initiator,
            cause: Some(cause),
            errno: (kind == CloseKind::ResetReceived).then_some(104),
            evidence: Evidence {
                words: &["a minisocket was made for the same socket just before"],
                half_close: false,
            },
        },
        fin_wait2: is_active.then_some(FinWait2 {
            began_at: Some(closed_at),
            dwell_ns: Some(fin_wait2),
            in_minisocket: true,
            exit: Some(FinWait2Exit::PeerFin),
        }),
        time_wait: is_active.then_some(TimeWait {
            entered_at: Some(closed_at),
            entered_from: Some(TcpState::FinWait2),
            entry_precision: EntryPrecision::Exact,
            dwell_ns: Some(ended_at.since(closed_at)),
            nominal_ns: 60_000 * MILLISECOND,
            refreshes: 0,
            fin_retransmits: Some(0),
            old_duplicates: Some(0),
            exit: Some(TimeWaitExit::Expired),
            late: false,
        }),
        time_wait_skipped: None,
        previous: None,
        opener: process,
        closer: process,
        uid: Some(33),
        cgroup_id: Some(program_index as u64 + 1),
        timestamps: Some(true),
        traffic: Some(Traffic {
            bytes_sent: random.u64(200..3_000),
            bytes_received: random.u64(200..100_000),
            segments_sent: random.u32(4..40),
            segments_received: random.u32(4..80),
            retransmits: u32::from(random.u8(..20) == 0),
            srtt_us: Some(random.u32(100..2_000)),
            min_rtt_us: Some(random.u32(80..150)),
        }),
        incomplete: IncompleteSet::new(),
    }
}
