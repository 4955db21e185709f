use tracer_common::tcp::TcpState;

use super::super::connection::{Bit, Rest};
use super::super::lexicon::Lexicon;
use super::super::timewait::{Jiffies, Sign};
use super::*;
use crate::record::{EntryPrecision, Incomplete, Process, Role, Source};
use crate::stream;

/// A number of any size.
fn any(random: &mut fastrand::Rng) -> u64 {
    random.u64(..) >> random.u32(0..64)
}

fn word(random: &mut fastrand::Rng) -> u32 {
    any(random) as u32
}

fn maybe<T>(random: &mut fastrand::Rng, value: T) -> Option<T> {
    random.bool().then_some(value)
}

fn any_process(random: &mut fastrand::Rng) -> Process {
    let mut comm = [0; 16];
    let len = random.usize(..16);
    random.fill(&mut comm[..len]);
    let pid = word(random);
    let tid = word(random);
    Process {
        pid: maybe(random, pid),
        tid: maybe(random, tid),
        comm: maybe(random, comm),
        name: maybe(random, comm),
        source: random
            .choice([Source::Exact, Source::Inherited, Source::Inferred])
            .unwrap_or_default(),
    }
}

fn any_address(random: &mut fastrand::Rng) -> IpAddr {
    match random.bool() {
        true => Ipv4Addr::from_bits(word(random)).into(),
        false => {
            let bits = u128::from(any(random)) << 64 | u128::from(any(random));
            Ipv6Addr::from_bits(bits).into()
        }
    }
}

fn any_end(random: &mut fastrand::Rng) -> Endpoint {
    Endpoint {
        address: any_address(random),
        port: random.u16(..),
    }
}

/// A connection whose minisocket runs, anything else about it being arbitrary.
fn any_connection(random: &mut fastrand::Rng, lexicon: &mut Lexicon) -> Connection {
    let local = any_end(random);
    let peer = any_end(random);
    let netns = (any(random), word(random));
    let mut connection = Connection::new(netns, any(random), Flow { local, peer });
    connection.serial = any(random);
    connection.generation = word(random);
    connection.found_in = word(random);
    connection.role = random
        .choice([Role::Client, Role::Server])
        .unwrap_or_default();
    connection.state = random
        .choice([None, Some(TcpState::Close)])
        .unwrap_or_default();
    connection.last_step = maybe(random, (TcpState::FinWait2, TcpState::Close));
    for bit in [
        Bit::SocketV6,
        Bit::Closed,
        Bit::Opened,
        Bit::HalfClose,
        Bit::Absent,
    ] {
        if random.bool() {
            connection.set(bit);
        }
    }
    if random.bool() {
        connection.set_uid(word(random));
        connection.set_cgroup(any(random));
        connection.set_syn_retransmits(random.u8(..));
        connection.lacks(Incomplete::TransitionLost);
    }
    let mut at = any(random) >> 1;
    for state in [TcpState::SynSent, TcpState::Established, TcpState::FinWait1] {
        if random.bool() {
            connection.timeline.arrive(state, Timestamp(at));
            // A stamp may be the one before, or earlier.
            at = (at + any(random) % (1 << 50)).saturating_sub(random.u64(..3));
        }
    }
    connection.opener = lexicon.hold(&any_process(random));
    if random.bool() {
        connection.rare_mut().closer = lexicon.hold(&any_process(random));
    }
    if random.bool() {
        connection.rare_mut().previous = Some(Previous {
            cookie: any(random),
            generation: word(random),
            gap_ns: any(random),
        });
    }
    let shown = stream::Minisocket {
        substate: random
            .choice([TcpState::FinWait2, TcpState::TimeWait])
            .unwrap_or(TcpState::TimeWait),
        expires: any(random) >> 1,
        jiffies: any(random) >> 1,
        entry_stamp_ms: 0,
        tid: 0,
    };
    let ends_at = Timestamp(any(random) >> 1);
    let began = Timestamp(any(random) >> 1);
    let jiffies = Jiffies::new(250);
    let mut minisocket = match random.bool() {
        true => Minisocket::new(began, &shown, Sign::Move, jiffies),
        false => Minisocket::found(shown.substate, ends_at, began, jiffies),
    };
    minisocket.entry = random.bool().then(|| Entry {
        at: Timestamp(any(random)),
        from: maybe(random, TcpState::FinWait2),
        precision: EntryPrecision::Jiffy,
        nominal_ns: any(random),
    });
    if random.bool() {
        minisocket.refreshes = word(random);
        minisocket.old_duplicates = word(random);
        minisocket.counted = true;
    }
    let late = connection.late_mut();
    late.minisocket = Some(minisocket);
    late.closed_at = random.bool().then(|| Timestamp(any(random)));
    late.verdict = random.bool().then(|| close::numbered(random.u8(..)));
    late.closing.failed_call = random.bool().then(|| random.u16(..));
    late.closing.facts = random.bool().then(|| CloseFacts {
        error: random.u16(..),
        marks: random.u16(..),
        bytes_sent: any(random),
        bytes_received: any(random),
        segs_out: word(random),
        segs_in: word(random),
        total_retransmits: word(random),
        srtt_us: word(random),
        min_rtt_us: u32::MAX.wrapping_sub(word(random)),
        ..CloseFacts::default()
    });
    connection
}

#[test]
fn a_packed_connection_comes_back_as_it_was() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut combinations = Combinations::default();
    let mut lexicon = Lexicon::default();
    for round in 0..20_000 {
        let connection = any_connection(&mut random, &mut lexicon);
        let mut bytes = [0xff; MOST];
        let packed = pack(&connection, None, &mut combinations, &mut bytes);
        let (len, number) = packed.expect("it can be packed");
        bytes[len..].fill(0xff);
        let jiffies = Jiffies::new(250);
        let unpacked = unpack(&bytes, &combinations, &lexicon, jiffies);
        let (again, same) = unpacked.expect("it can be unpacked");
        assert_eq!(format!("{again:?}"), format!("{connection:?}"), "{round}");
        let head = head(&bytes, &combinations).expect("it has a head");
        let names = (head.serial, head.netns_cookie, head.cookie, head.flow);
        let own = (
            connection.serial,
            connection.netns_cookie,
            connection.cookie(),
        );
        assert_eq!(names, (own.0, own.1, own.2, connection.flow), "{round}");
        assert_eq!(same, number);
        combinations.release(number);
    }
    assert!(combinations.is_empty());
}

#[test]
fn the_longest_fits() {
    let mut bytes = [0; MOST];
    let mut numbers = Numbers::default();
    let has = Has {
        closed_at: true,
        generation: true,
        retransmits: true,
        rearmed: true,
        segments: true,
        told_end: true,
        closer: true,
        previous: true,
    };
    /// Writes each number at its longest.
    struct Longest<'a>(Writer<'a>);
    impl Coder for Longest<'_> {
        fn pair(&mut self, _: &mut u64, _: &mut u64) {
            self.0.pair(&mut u64::MAX.clone(), &mut u64::MAX.clone());
        }
    }
    let writer = Writer {
        bytes: &mut bytes,
        at: 0,
    };
    let mut longest = Longest(writer);
    numbers.head(&mut longest);
    numbers.body(&mut longest, has);
    assert!(longest.0.at + 8 <= MOST, "{}", longest.0.at);
}

#[test]
fn only_what_cookie_and_addresses_find_may_be_put_to_rest() {
    let mut random = fastrand::Rng::with_seed(9);
    let mut lexicon = Lexicon::default();
    let now = Timestamp(u64::MAX);
    let rests = |connection: &mut Connection| connection.rest_at(now) == Rest::Now;
    let mut found = std::iter::repeat_with(|| any_connection(&mut random, &mut lexicon));
    let mut connection = found
        .find_map(|mut any| rests(&mut any).then_some(any))
        .unwrap();
    let role = std::mem::replace(&mut connection.role, Role::Listener);
    assert!(!rests(&mut connection), "a listener");
    connection.role = role;
    assert!(rests(&mut connection));
    connection.set(Bit::Unnamed);
    assert!(!rests(&mut connection), "a child without a cookie");
}
