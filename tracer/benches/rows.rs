//! What a row costs: nanoseconds for a line of NDJSON, a row of the table, a decoded event.
//!
//! `cargo bench -p tracer --bench rows` prints a JSON object for each figure. Beside each line stands
//! its ratio to copying its bytes and each of them being looked at, which machines share more of than
//! nanoseconds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tracer::consumer::Consumer as _;
use tracer::decode;
use tracer::output::{Format, Terminal, Writer};
use tracer::record::{Process, Record, Role, Source};
use tracer::stream::Name;
use tracer::time::WallOffset;
use tracer_common::event::{self, CloseFacts, Header, Kind, V4, V6};
use tracer_common::tcp::TcpState;

use crate::samples::WALL;

#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "it is part of the tests of the outputs"
)]
#[path = "../tests/outputs/samples.rs"]
mod samples;

/// Lines between two looks at the clock, about as many as one look at the ring brings.
const ROUND: u64 = 500;
/// How long each figure is measured.
const LENGTH: Duration = Duration::from_millis(600);

fn main() {
    // As `cargo test --benches` runs it: that it runs is all that is asked.
    let length = match std::env::args().any(|argument| argument == "--bench") {
        true => LENGTH,
        false => Duration::ZERO,
    };
    let (close, end) = samples::active();
    let (close_v6, end_v6) = over_ipv6((close.clone(), end.clone()));
    for (format, name) in [(Format::Json, "ndjson"), (Format::Table, "table")] {
        line(
            length,
            &format!("{name}/close_ipv4"),
            format,
            |writer, wall, out| {
                writer.close(black_box(&close), wall, out);
            },
        );
        line(
            length,
            &format!("{name}/end_ipv4"),
            format,
            |writer, wall, out| {
                writer.end(black_box(&end), wall, out);
            },
        );
        line(
            length,
            &format!("{name}/close_ipv6"),
            format,
            |writer, wall, out| {
                writer.close(black_box(&close_v6), wall, out);
            },
        );
        line(
            length,
            &format!("{name}/end_ipv6"),
            format,
            |writer, wall, out| {
                writer.end(black_box(&end_v6), wall, out);
            },
        );
    }
    let rows = samples::transitions();
    line(
        length,
        "ndjson/transition",
        Format::Json,
        |writer, wall, out| {
            writer.transition(black_box(&rows[1]), wall, out);
        },
    );
    decoding(length);
}

/// Of a server, with an end whose name the kernel did not tell.
fn over_ipv6((mut close, mut end): (Record, Record)) -> (Record, Record) {
    for record in [&mut close, &mut end] {
        record.flow = samples::flow(
            ("2001:db8:85a3::8a2e:370:7334", 51_234),
            ("2001:db8:85a3:1:2:3:4:5", 443),
        );
        record.socket_is_v6 = true;
        record.role = Role::Server;
        record.closer = Process {
            source: Source::Unknown,
            ..Process::default()
        };
    }
    (close, end)
}

/// Tells what one line costs, and how that compares with copying it.
fn line(
    length: Duration,
    name: &str,
    format: Format,
    mut write: impl FnMut(&mut Writer, WallOffset, &mut BytesMut),
) {
    let mut writer = Writer::new(format, Terminal::none(), true);
    if format == Format::Table {
        writer = Writer::new(format, Terminal::none(), false);
    }
    writer.name(&Name::Cgroup {
        id: 9_007_199_254_740_993,
        path: Some("/system.slice/php-fpm.service".to_owned()),
    });
    let mut out = BytesMut::with_capacity(4 << 20);
    write(&mut writer, WALL, &mut out);
    let text = out.clone();
    let mut step = 0;
    let cost = measure(length, || {
        out.clear();
        for _ in 0..ROUND {
            // No two rows of a host bear the same time.
            step += 40_007;
            write(&mut writer, WallOffset(WALL.0 + step), &mut out);
        }
        black_box(&out);
    });
    let copy = measure(length / 4, || {
        out.clear();
        for _ in 0..ROUND {
            let text = black_box(&text);
            black_box(text.iter().fold(0_u8, |sum, byte| sum ^ byte));
            out.extend_from_slice(text);
        }
        black_box(&out);
    });
    tell(name, cost, "ns");
    tell(&format!("{name}/to_copying_it"), cost / copy, "ratio");
}

/// The least of the times that a step of `round` took, in nanoseconds: whatever else the machine
/// does adds to it.
fn measure(length: Duration, mut round: impl FnMut()) -> f64 {
    let began = now();
    let mut least = Duration::MAX;
    loop {
        let start = now();
        round();
        least = least.min(start.elapsed());
        if began.elapsed() >= length {
            return least.as_nanos() as f64 / ROUND as f64;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real time"
)]
fn now() -> Instant {
    Instant::now()
}

fn tell(name: &str, value: f64, unit: &str) {
    let value = (value * 100.0).round() / 100.0;
    println!(
        "{}",
        json!({"bench": "rows", "name": name, "value": value, "unit": unit, "better": "lower"})
    );
}

/// What an event costs from the ring's bytes to the engine's terms.
fn decoding(length: Duration) {
    let v4 = V4 {
        local: [10, 0, 0, 5],
        peer: [10, 0, 0, 9],
    };
    let v6 = V6 {
        local: [0xb80d_0120, 0, 0, 0x0100_0000],
        peer: [0xb80d_0120, 0, 0, 0x0200_0000],
    };
    let kinds = [
        (
            "transition_ipv4",
            bytes_of(&transition(Kind::Transition, 4, v4)),
        ),
        (
            "transition_ipv6",
            bytes_of(&transition(Kind::Transition, 6, v6)),
        ),
        (
            "close_ipv4",
            bytes_of(&event::Close {
                transition: transition_of::<event::Close<V4>, _>(Kind::Close, 4, v4),
                facts: CloseFacts::default(),
            }),
        ),
        ("task", bytes_of(&task())),
        ("timer_start_ipv4", bytes_of(&minisocket(v4))),
    ];
    for (name, record) in kinds {
        let batch = Bytes::from(record.repeat(ROUND as usize));
        let cost = measure(length, || {
            let mut batch = batch.clone();
            while let Some(event) = decode::next_event(&mut batch) {
                black_box(&event);
            }
        });
        let copy = measure(length / 4, || {
            for record in batch.chunks(record.len()) {
                black_box(record.iter().fold(0_u8, |sum, byte| sum ^ byte));
            }
        });
        tell(&format!("decode/{name}"), cost, "ns");
        tell(
            &format!("decode/{name}/to_looking_at_it"),
            cost / copy,
            "ratio",
        );
    }
}

fn header<T>(kind: Kind, family: u8) -> Header {
    Header {
        kind: kind as u8,
        family,
        len: size_of::<T>() as u16,
        cpu: 1,
        flags: 0,
        seq: 77,
        netns: 4_026_531_840,
        time_ns: 1_000_000_007,
        netns_cookie: 1,
    }
}

fn transition<A>(kind: Kind, family: u8, addresses: A) -> event::Transition<A> {
    transition_of::<event::Transition<A>, A>(kind, family, addresses)
}

/// The start of a record of type `T`.
fn transition_of<T, A>(kind: Kind, family: u8, addresses: A) -> event::Transition<A> {
    event::Transition {
        header: header::<T>(kind, family),
        socket: 0xffff_8881_0000_1000,
        cookie: 4099,
        old: TcpState::Established.number(),
        new: TcpState::FinWait1.number(),
        detail: 0,
        padding: 0,
        local_port: 40_112,
        peer_port: 3306,
        addresses,
    }
}

fn task() -> event::Task {
    event::Task {
        header: header::<event::Task>(Kind::Task, 0),
        socket: 0xffff_8881_0000_1000,
        cookie: 4099,
        pid: 812,
        tid: 812,
        uid: 33,
        old: TcpState::Established.number(),
        new: TcpState::FinWait1.number(),
        padding: 0,
        cgroup: 99,
        comm: *b"php-fpm\0\0\0\0\0\0\0\0\0",
        name: *b"php-fpm\0\0\0\0\0\0\0\0\0",
    }
}

fn minisocket<A>(addresses: A) -> event::Minisocket<A> {
    event::Minisocket {
        header: header::<event::Minisocket<A>>(Kind::TimerStart, 4),
        socket: 0xffff_8881_0000_2000,
        cookie: 4099,
        expires: 4_295_556_016,
        jiffies: 4_295_541_016,
        entry_stamp_ms: 2_595_124,
        tid: 17,
        substate: TcpState::TimeWait.number(),
        tcp_flags: 0,
        payload: 0,
        local_port: 40_112,
        peer_port: 3306,
        addresses,
    }
}

fn bytes_of<T: Copy>(record: &T) -> Vec<u8> {
    // SAFETY: the records are repr(C) without padding (their sizes are asserted beside them),
    // so each byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), size_of::<T>()) }
        .to_vec()
}
