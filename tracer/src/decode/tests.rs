use tracer_common::event::{
    self, CallFailed, Close, Minisocket as MinisocketRecord, Reset, Transition,
};
use tracer_common::event::{V4, V6};

use super::*;

const ADDRESSES: V4 = V4 {
    local: [10, 0, 0, 5],
    peer: [10, 0, 0, 9],
};

fn bytes_of<T: Copy>(record: &T) -> Vec<u8> {
    // SAFETY: the records are repr(C) without padding (their sizes are asserted beside them),
    // so each byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), size_of::<T>()) }
        .to_vec()
}

fn header<T>(kind: Kind, family: u8) -> Header {
    Header {
        kind: kind as u8,
        family,
        len: size_of::<T>() as u16,
        cpu: 3,
        flags: event::flags::OWNED,
        seq: 77,
        netns: 4_026_531_840,
        time_ns: 1_000_000_007,
        netns_cookie: 42,
    }
}

fn transition<A>(kind: Kind, family: u8, addresses: A) -> Transition<A> {
    Transition {
        header: header::<Transition<A>>(kind, family),
        socket: 0xffff_8881_0000_1000,
        cookie: 4099,
        old: TcpState::FinWait1.number(),
        new: TcpState::FinWait2.number(),
        detail: 9,
        padding: 0,
        local_port: 40_112,
        peer_port: 3306,
        addresses,
    }
}

fn only(batch: &[u8]) -> Result<Event, DecodeError> {
    let mut batch = Bytes::copy_from_slice(batch);
    let event = next_event(&mut batch).expect("a record");
    assert_eq!(next_event(&mut batch), None, "one record alone");
    event
}

#[test]
fn a_transition_is_read_field_by_field() {
    let record = transition(Kind::Transition, 4, ADDRESSES);
    let event = only(&bytes_of(&record)).expect("a good record");
    assert_eq!(
        (event.at, event.cpu, event.seq),
        (Timestamp(1_000_000_007), 3, 77)
    );
    assert_eq!((event.netns, event.netns_cookie), (4_026_531_840, 42));
    assert_eq!(event.flags, event::flags::OWNED);
    assert_eq!(event.socket.address, 0xffff_8881_0000_1000);
    assert_eq!(event.socket.cookie, 4099);
    assert_eq!(
        event.socket.flow.to_string(),
        "10.0.0.5:40112 -> 10.0.0.9:3306"
    );
    let (from, to) = (TcpState::FinWait1, TcpState::FinWait2);
    assert_eq!(
        event.body,
        Body::Transition {
            from,
            to,
            detail: 9
        }
    );
}

#[test]
fn addresses_of_ipv6_keep_their_order() {
    let word = u32::from_ne_bytes;
    let addresses = V6 {
        local: [word([0x20, 1, 0xd, 0xb8]), 0, 0, word([0, 0, 0, 1])],
        peer: [word([0xfe, 0x80, 0, 0]), 0, 0, word([0, 0, 0, 2])],
    };
    let event = only(&bytes_of(&transition(Kind::Transition, 6, addresses)));
    let flow = event.expect("a good record").socket.flow;
    assert_eq!(flow.to_string(), "[2001:db8::1]:40112 -> [fe80::2]:3306");
}

#[test]
fn a_close_brings_every_fact() {
    let facts = CloseFacts {
        error: 104,
        soft_error: 110,
        marks: event::marks::DEAD | event::marks::LINGER,
        retransmits: 1,
        probes_out: 2,
        linger2: -3,
        user_timeout_ms: 4,
        unread: 5,
        segs_out: 6,
        segs_in: 7,
        total_retransmits: 8,
        srtt_us: 9,
        min_rtt_us: 10,
        bytes_sent: 11,
        bytes_received: 12,
        cgroup: 13,
        uid: 14,
        shutdown: 3,
        padding: [0; 3],
    };
    let mut record = Close {
        transition: transition(Kind::Close, 4, ADDRESSES),
        facts,
    };
    record.transition.header.len = size_of::<Close<V4>>() as u16;
    let event = only(&bytes_of(&record)).expect("a good record");
    let from = TcpState::FinWait1;
    assert_eq!(event.body, Body::Close { from, facts });
}

#[test]
fn a_task_tells_who() {
    let (mut comm, mut name) = ([0; 16], [0; 16]);
    comm[..6].copy_from_slice(b"worker");
    name[..5].copy_from_slice(b"nginx");
    let record = event::Task {
        header: header::<event::Task>(Kind::Task, 0),
        socket: 1,
        cookie: 2,
        pid: 812,
        tid: 813,
        uid: 33,
        old: TcpState::Close.number(),
        new: TcpState::SynSent.number(),
        padding: 0,
        cgroup: 99,
        comm,
        name,
    };
    let event = only(&bytes_of(&record)).expect("a good record");
    let Body::Task(task) = event.body else {
        panic!("{:?}", event.body);
    };
    assert_eq!(
        (task.pid, task.tid, task.uid, task.cgroup),
        (812, 813, 33, 99)
    );
    assert_eq!((task.from, task.to), (TcpState::Close, TcpState::SynSent));
    assert_eq!((task.comm, task.name), (comm, name));
}

fn minisocket(kind: Kind) -> MinisocketRecord<V4> {
    MinisocketRecord {
        header: header::<MinisocketRecord<V4>>(kind, 4),
        socket: 1,
        cookie: 2,
        expires: 4_295_556_016,
        jiffies: 4_295_541_016,
        entry_stamp_ms: 2_595_124,
        tid: 17,
        substate: TcpState::TimeWait.number(),
        tcp_flags: 0x11,
        payload: 5,
        local_port: 40_112,
        peer_port: 3306,
        addresses: ADDRESSES,
    }
}

#[test]
fn the_five_events_of_a_minisocket_differ_in_kind_alone() {
    let expected = Minisocket {
        substate: TcpState::TimeWait,
        expires: 4_295_556_016,
        jiffies: 4_295_541_016,
        entry_stamp_ms: 2_595_124,
        tid: 17,
    };
    let body = |kind| {
        only(&bytes_of(&minisocket(kind)))
            .expect("a good record")
            .body
    };
    assert_eq!(body(Kind::TimerStart), Body::TimerStart(expected));
    assert_eq!(body(Kind::TimerCancel), Body::TimerCancel(expected));
    assert_eq!(body(Kind::TimerExpire), Body::TimerExpire(expected));
    assert_eq!(body(Kind::Schedule), Body::Schedule(expected));
    let segment = Body::Segment {
        minisocket: expected,
        tcp_flags: 0x11,
        payload: 5,
    };
    assert_eq!(body(Kind::Segment), segment);
}

#[test]
fn flags_are_passed_on_as_they_are() {
    use event::flags::{AFTER_LOSS, IN_SOFTIRQ, IN_TASK, NETNS_DYING, RECOVERED};
    for flags in [
        AFTER_LOSS,
        IN_SOFTIRQ,
        IN_TASK | NETNS_DYING,
        RECOVERED | AFTER_LOSS,
        1 << 15,
    ] {
        let mut record = minisocket(Kind::Schedule);
        record.header.flags = flags;
        let event = only(&bytes_of(&record)).expect("a good record");
        assert_eq!(event.flags, flags);
    }
}

#[test]
fn a_reset_without_a_reason_is_told_from_reason_0() {
    let mut record = Reset {
        header: header::<Reset<V4>>(Kind::ResetSent, 4),
        socket: 1,
        cookie: 2,
        state: 6,
        answers_segment: 1,
        padding: 0,
        local_port: 40_112,
        peer_port: 3306,
        reason: 0,
        padding2: 0,
        addresses: ADDRESSES,
    };
    let body = |record: &Reset<V4>| only(&bytes_of(record)).expect("a good record").body;
    let sent = |reason| Body::ResetSent {
        state: 6,
        answers_segment: true,
        reason,
    };
    assert_eq!(body(&record), sent(None));
    record.reason = 1;
    assert_eq!(body(&record), sent(Some(0)));
    record.header.kind = Kind::ResetReceived as u8;
    assert_eq!(body(&record), Body::ResetReceived { state: 6 });
}

fn call_failed() -> CallFailed<V4> {
    let (mut asked, mut comm, mut name) = ([0; 16], [0; 16], [0; 16]);
    asked[..4].copy_from_slice(&[10, 0, 0, 9]);
    comm[..6].copy_from_slice(b"worker");
    name[..5].copy_from_slice(b"nginx");
    CallFailed {
        header: header::<CallFailed<V4>>(Kind::CallFailed, 4),
        socket: 1,
        cookie: 4099,
        pid: 812,
        tid: 813,
        errno: 99,
        call: calls::CONNECT,
        state: TcpState::Close.number(),
        asked_family: 4,
        padding: 0,
        asked_port: 3306,
        local_port: 40_112,
        peer_port: 3307,
        padding2: 0,
        asked,
        comm,
        name,
        addresses: ADDRESSES,
    }
}

#[test]
fn a_failed_call_tells_who_asked_for_what() {
    let mut record = call_failed();
    let told = |record: &CallFailed<V4>| {
        let event = only(&bytes_of(record)).expect("a good record");
        let Body::CallFailed(failed) = event.body else {
            panic!("{:?}", event.body);
        };
        (event.socket, failed)
    };
    let (socket, failed) = told(&record);
    assert_eq!((socket.address, socket.cookie), (1, 4099));
    assert_eq!(socket.flow.to_string(), "10.0.0.5:40112 -> 10.0.0.9:3307");
    let expected = FailedCall {
        call: Call::Connect,
        errno: 99,
        address: Some("10.0.0.9:3306".parse().expect("an address")),
        state: Some(TcpState::Close),
        pid: 812,
        tid: 813,
        comm: record.comm,
        name: record.name,
    };
    assert_eq!(failed, expected);

    record.asked_family = 6;
    record.asked = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9];
    assert_eq!(told(&record).1, expected, "a v4-mapped address is IPv4's");
    record.asked = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let asked = told(&record).1.address.expect("an address");
    assert_eq!(asked.to_string(), "[fe80::2]:3306");
    (record.asked_family, record.state) = (0, 0);
    record.call = calls::SOCKET;
    let (_, failed) = told(&record);
    assert_eq!(
        (failed.call, failed.address, failed.state),
        (Call::Socket, None, None)
    );
}

#[test]
fn a_failed_call_of_a_later_version_is_told_as_such() {
    let mut record = call_failed();
    record.call = 9;
    let error = only(&bytes_of(&record)).expect_err("an unknown call");
    assert_eq!(error, DecodeError::UnknownCall(9));
    let mut record = call_failed();
    record.asked_family = 7;
    let error = only(&bytes_of(&record)).expect_err("an unknown family");
    assert_eq!(error, DecodeError::UnknownFamily(7));
}

#[test]
fn a_bad_record_is_told_and_the_next_one_is_still_read() {
    let good = bytes_of(&transition(Kind::Transition, 4, ADDRESSES));
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        let batch = [bad, good.clone()].concat();
        let mut batch = Bytes::from(batch);
        let error = next_event(&mut batch)
            .expect("a record")
            .expect_err("a bad one");
        assert!(
            next_event(&mut batch).expect("the next").is_ok(),
            "after {error}"
        );
        error
    };
    assert_eq!(broken(&|bad| bad[0] = 200), DecodeError::UnknownKind(200));
    assert_eq!(broken(&|bad| bad[1] = 5), DecodeError::UnknownFamily(5));
    assert_eq!(broken(&|bad| bad[48] = 12), DecodeError::UnknownState(12));
    // An IPv4 record that says IPv6 is shorter than its fields.
    let short = DecodeError::Short { kind: 1, have: 64 };
    assert_eq!(broken(&|bad| bad[1] = 6), short);
}

#[test]
fn an_impossible_length_ends_the_batch() {
    let good = bytes_of(&transition(Kind::Transition, 4, ADDRESSES));
    for len in [0, 8, 65, u16::MAX] {
        let mut bad = good.clone();
        bad[2..4].copy_from_slice(&u16::to_ne_bytes(len));
        let error = only(&bad).expect_err("a bad length");
        assert_eq!(error, DecodeError::Length { len, have: 64 });
    }
    let error = only(&good[..3]).expect_err("too short for a header");
    assert_eq!(error, DecodeError::Length { len: 0, have: 3 });
}
