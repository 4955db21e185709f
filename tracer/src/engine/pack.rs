//! Connections that wait in a minisocket, as bytes: their verdict is given, and all that may come is
//! the minisocket's end. Packed they take a fifth of the room, and each is packed and unpacked once
//! in its life as a rule.
//!
//! Every field is a number, and of a number only the bytes that it needs are kept. Two lengths share
//! a byte, which stands before the two. One list of fields serves both ways, so that they cannot
//! differ.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracer_common::event::CloseFacts;
use tracer_common::tcp::{Endpoint, Flow};

use super::alike::{Alike, AlikeMinisocket, Combinations, Has};
use super::close;
use super::connection::{Connection, Late, Rare};
use super::holdings::Told;
use super::lexicon::{Lexicon, Who};
use super::timeline::Timeline;
use super::timewait::{Entry, Jiffies, Minisocket};
use crate::record::Previous;
use crate::record::holding::Side;
use crate::time::Timestamp;

/// The most bytes that a packed connection takes.
pub(super) const MOST: usize = 512;

/// Writes or reads numbers, two at a time.
trait Coder {
    fn pair(&mut self, one: &mut u64, two: &mut u64);
}

/// Writes them.
struct Writer<'a> {
    bytes: &'a mut [u8; MOST],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, number: u64, len: usize) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + 8) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.at += len;
    }
}

impl Coder for Writer<'_> {
    fn pair(&mut self, one: &mut u64, two: &mut u64) {
        let (first, second) = (len(*one), len(*two));
        self.put((first | second << 4) as u64, 1);
        self.put(*one, first);
        self.put(*two, second);
    }
}

/// Bytes that a number needs; 0 needs none.
fn len(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()).div_ceil(8) as usize
}

/// Reads them.
struct Reader<'a> {
    /// The connection's bytes, and at least eight more.
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> u64 {
        let mut word = [0; 8];
        if let Some(bytes) = self.bytes.get(self.at..self.at + 8) {
            word.copy_from_slice(bytes);
        }
        self.at += len;
        let beyond = u64::MAX.checked_shl(8 * len as u32).unwrap_or(0);
        u64::from_le_bytes(word) & !beyond
    }
}

impl Coder for Reader<'_> {
    fn pair(&mut self, one: &mut u64, two: &mut u64) {
        let lens = self.take(1) as usize;
        *one = self.take(lens & 0xf);
        *two = self.take(lens >> 4);
    }
}

/// What a packed connection may be found by, and its age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub serial: u64,
    pub netns_cookie: u64,
    pub cookie: u64,
    pub flow: Flow,
}

/// The numbers that every packed connection has, and those that few have.
#[derive(Default)]
struct Numbers {
    alike: u64,
    serial: u64,
    cookie: u64,
    ports: u64,
    local: [u64; 2],
    peer: [u64; 2],
    pid: u64,
    tid_by_pid: u64,
    comm: [u64; 2],
    base: u64,
    steps: [u64; Timeline::CAPACITY - 1],
    entered: u64,
    began: u64,
    began_jiffies: u64,
    expires: u64,
    bytes: [u64; 2],
    segments: [u64; 2],
    round_trips: [u64; 2],
    closed: u64,
    generation: u64,
    retransmits: u64,
    armed: [u64; 2],
    counts: [u64; 3],
    told_end: u64,
    due: u64,
    closer: [u64; 5],
    previous: [u64; 3],
}

impl Numbers {
    /// Those that a packed connection can be found by, and the first of the others.
    fn head(&mut self, coder: &mut impl Coder) {
        coder.pair(&mut self.alike, &mut self.serial);
        coder.pair(&mut self.cookie, &mut self.ports);
        let [high, low] = &mut self.local;
        coder.pair(high, low);
        let [high, low] = &mut self.peer;
        coder.pair(high, low);
    }

    /// The others.
    fn body(&mut self, coder: &mut impl Coder, has: Has) {
        coder.pair(&mut self.pid, &mut self.tid_by_pid);
        let [low, high] = &mut self.comm;
        coder.pair(low, high);
        let [first, second, third, fourth] = &mut self.steps;
        coder.pair(&mut self.base, first);
        coder.pair(second, third);
        coder.pair(fourth, &mut self.entered);
        coder.pair(&mut self.began, &mut self.began_jiffies);
        let [sent, received] = &mut self.bytes;
        coder.pair(&mut self.expires, sent);
        let [out, back] = &mut self.segments;
        coder.pair(received, out);
        let [smoothed, least] = &mut self.round_trips;
        coder.pair(back, smoothed);
        coder.pair(least, &mut self.closed);
        if has.generation || has.retransmits {
            coder.pair(&mut self.generation, &mut self.retransmits);
        }
        if has.rearmed {
            let [jiffies, at] = &mut self.armed;
            coder.pair(jiffies, at);
        }
        if has.segments {
            let [refreshes, fins, duplicates] = &mut self.counts;
            coder.pair(refreshes, fins);
            coder.pair(duplicates, &mut 0);
        }
        if has.told_end {
            coder.pair(&mut self.told_end, &mut self.due);
        }
        if has.closer {
            let [pid, tid, low, high, rest] = &mut self.closer;
            coder.pair(pid, tid);
            coder.pair(low, high);
            coder.pair(rest, &mut 0);
        }
        if has.previous {
            let [cookie, generation, gap] = &mut self.previous;
            coder.pair(cookie, generation);
            coder.pair(gap, &mut 0);
        }
    }
}

/// Packs a connection whose verdict is given and whose minisocket runs, and returns how many bytes
/// that took and the number of its combination; `None`: it is not such a one, or there are too many combinations of what these have in
/// common. What a minisocket remembers for a millisecond only is not kept.
pub(super) fn pack(
    connection: &Connection,
    told: Option<Side>,
    combinations: &mut Combinations,
    bytes: &mut [u8; MOST],
) -> Option<(usize, u16)> {
    let late = connection.late.as_deref()?;
    let minisocket = late.minisocket.as_ref()?;
    let rare = connection.rare.as_deref();
    let closer = rare.map(|rare| rare.closer).unwrap_or_default();
    let previous = rare.and_then(|rare| rare.previous);
    let alike = alike(connection, late, minisocket, rare, told);
    let facts = late.closing.facts.unwrap_or_default();
    let (arrivals, _) = connection.timeline.parts();
    let [base, steps @ ..] = arrivals.map(|arrival| arrival.0);
    let mut before = base;
    let mut left = connection.timeline.len();
    let steps = steps.map(|step| {
        left = left.saturating_sub(1);
        if left == 0 {
            return 0;
        }
        let since = difference(step, before);
        before = step;
        since
    });
    let entered = minisocket.entry.map_or(before, |entry| entry.at.0);
    let closed = late.closed_at.map_or(before, |at| at.0);
    let (began, began_jiffies) = minisocket.began;
    let (armed_jiffies, armed_at) = minisocket.armed();
    let (expires, told_end) = minisocket.end_as_shown();
    let (low, high) = halves(connection.opener.comm);
    let (closer_low, closer_high) = halves(closer.comm);
    let combination = combinations.refer(&alike)?;
    let mut numbers = Numbers {
        alike: combination.into(),
        serial: connection.serial,
        cookie: connection.cookie(),
        ports: u64::from(connection.flow.local.port) << 16 | u64::from(connection.flow.peer.port),
        local: words(connection.flow.local.address),
        peer: words(connection.flow.peer.address),
        pid: connection.opener.pid.into(),
        tid_by_pid: (connection.opener.tid ^ connection.opener.pid).into(),
        comm: [low, high],
        base,
        steps,
        entered: difference(entered, before),
        began: difference(began.0, entered),
        began_jiffies,
        expires: difference(expires, began_jiffies),
        bytes: [facts.bytes_sent, facts.bytes_received],
        segments: [facts.segs_out.into(), facts.segs_in.into()],
        round_trips: [
            facts.srtt_us.into(),
            facts.min_rtt_us.wrapping_add(1).into(),
        ],
        closed: difference(closed, entered),
        generation: connection.generation.into(),
        retransmits: facts.total_retransmits.into(),
        armed: [
            difference(armed_jiffies, began_jiffies),
            difference(armed_at.0, began.0),
        ],
        counts: [
            minisocket.refreshes.into(),
            minisocket.fin_retransmits.into(),
            minisocket.old_duplicates.into(),
        ],
        told_end: told_end.map_or(0, |at| at.0),
        due: minisocket.due.0,
        closer: [
            closer.pid.into(),
            closer.tid.into(),
            closer_low,
            closer_high,
            u64::from(closer.name) << 8 | u64::from(closer.known),
        ],
        previous: previous.map_or([0; 3], |last| {
            [last.cookie, last.generation.into(), last.gap_ns]
        }),
    };
    let mut writer = Writer { bytes, at: 0 };
    numbers.head(&mut writer);
    numbers.body(&mut writer, alike.has);
    Some((writer.at, combination))
}

/// What a packed connection may be found by.
pub(super) fn head(bytes: &[u8], combinations: &Combinations) -> Option<Head> {
    let mut numbers = Numbers::default();
    numbers.head(&mut Reader { bytes, at: 0 });
    let alike = combinations.get(numbers.alike as u16)?;
    Some(numbers.named(alike))
}

/// The connection that was packed, and the number of its combination: that is to be released where
/// the packed one is dropped. Behind its bytes there must be eight more.
pub(super) fn unpack(
    bytes: &[u8],
    combinations: &Combinations,
    lexicon: &Lexicon,
    jiffies: Jiffies,
) -> Option<(Connection, u16)> {
    let mut numbers = Numbers::default();
    let mut reader = Reader { bytes, at: 0 };
    numbers.head(&mut reader);
    let number = numbers.alike as u16;
    let alike = combinations.get(number)?;
    numbers.body(&mut reader, alike.has);
    let Head {
        serial,
        netns_cookie,
        cookie,
        flow,
    } = numbers.named(alike);
    let mut connection = Connection::new((netns_cookie, alike.netns), cookie, flow);
    connection.serial = serial;
    connection.generation = numbers.generation as u32;
    connection.found_in = alike.found_in;
    connection.role = alike.role;
    connection.state = alike.state;
    connection.last_step = alike.last_step;
    connection.restore(
        alike.bits,
        alike.incomplete,
        alike.uid,
        alike.syn_retransmits,
    );
    connection.set_cgroup(alike.cgroup);
    let pid = numbers.pid as u32;
    connection.opener = Who {
        pid,
        tid: numbers.tid_by_pid as u32 ^ pid,
        comm: comm(numbers.comm),
        name: alike.opener_name,
        known: alike.opener_known,
    };
    let mut before = numbers.base;
    let mut arrivals = [Timestamp(0); Timeline::CAPACITY];
    arrivals[0] = Timestamp(numbers.base);
    let len = Timeline::from_parts(arrivals, alike.states).len();
    for (arrival, step) in arrivals
        .iter_mut()
        .skip(1)
        .zip(numbers.steps)
        .take(len.max(1) - 1)
    {
        before = after(before, step);
        *arrival = Timestamp(before);
    }
    connection.timeline = Timeline::from_parts(arrivals, alike.states);
    let entered = after(before, numbers.entered);
    let began = (
        Timestamp(after(entered, numbers.began)),
        numbers.began_jiffies,
    );
    let closed_at = Timestamp(after(entered, numbers.closed));
    let expires = after(numbers.began_jiffies, numbers.expires);
    let armed = match alike.has.rearmed {
        true => (
            after(numbers.began_jiffies, numbers.armed[0]),
            Timestamp(after(began.0.0, numbers.armed[1])),
        ),
        false => (began.1, began.0),
    };
    let told_end = alike
        .has
        .told_end
        .then_some((Timestamp(numbers.told_end), Timestamp(numbers.due)));
    let shown = alike.minisocket;
    let mut minisocket =
        Minisocket::again(shown.substate, began, expires, armed, told_end, jiffies);
    minisocket.began_in_fin_wait2 = shown.began_in_fin_wait2;
    minisocket.seen_from_start = shown.seen_from_start;
    minisocket.segments_lost = shown.segments_lost;
    minisocket.counted = shown.counted;
    minisocket.entry = shown.entry.map(|(from, precision, nominal_ns)| Entry {
        at: Timestamp(entered),
        from,
        precision,
        nominal_ns,
    });
    [
        minisocket.refreshes,
        minisocket.fin_retransmits,
        minisocket.old_duplicates,
    ] = numbers.counts.map(|count| count as u32);
    let late = connection.late_mut();
    late.closed_at = alike.has.closed_at.then_some(closed_at);
    late.verdict = alike.verdict.map(close::numbered);
    late.closing.failed_call = alike.failed_call;
    late.closing.facts = alike.facts.map(|(error, marks)| CloseFacts {
        error,
        marks,
        bytes_sent: numbers.bytes[0],
        bytes_received: numbers.bytes[1],
        segs_out: numbers.segments[0] as u32,
        segs_in: numbers.segments[1] as u32,
        srtt_us: numbers.round_trips[0] as u32,
        min_rtt_us: (numbers.round_trips[1] as u32).wrapping_sub(1),
        total_retransmits: numbers.retransmits as u32,
        ..CloseFacts::default()
    });
    late.minisocket = Some(minisocket);
    if alike.has.closer {
        let [pid, tid, low, high, rest] = numbers.closer;
        connection.rare_mut().closer = Who {
            pid: pid as u32,
            tid: tid as u32,
            comm: comm([low, high]),
            name: (rest >> 8) as u16,
            known: rest as u8,
        };
    }
    if alike.has.previous {
        let [cookie, generation, gap_ns] = numbers.previous;
        connection.rare_mut().previous = Some(Previous {
            cookie,
            generation: generation as u32,
            gap_ns,
        });
    }
    if let Some(side) = alike.told {
        connection.rare_mut().told = Told::again(&connection, side, lexicon, jiffies);
    }
    Some((connection, number))
}

impl Numbers {
    fn named(&self, alike: &Alike) -> Head {
        let end = |is_v6, words, port: u64| Endpoint {
            address: address(is_v6, words),
            port: port as u16,
        };
        Head {
            serial: self.serial,
            netns_cookie: alike.netns_cookie,
            cookie: self.cookie,
            flow: Flow {
                local: end(alike.local_is_v6, self.local, self.ports >> 16),
                peer: end(alike.peer_is_v6, self.peer, self.ports),
            },
        }
    }
}

fn alike(
    connection: &Connection,
    late: &Late,
    minisocket: &Minisocket,
    rare: Option<&Rare>,
    told: Option<Side>,
) -> Alike {
    let closer = rare.map(|rare| rare.closer).unwrap_or_default();
    let (_, states) = connection.timeline.parts();
    let facts = late.closing.facts.as_ref();
    let counts = [
        minisocket.refreshes,
        minisocket.fin_retransmits,
        minisocket.old_duplicates,
    ];
    let (began_at, began_jiffies) = minisocket.began;
    let entry = minisocket.entry;
    let (bits, incomplete, uid, syn_retransmits) = connection.kept();
    Alike {
        netns_cookie: connection.netns_cookie,
        netns: connection.netns,
        cgroup: connection.cgroup_id().unwrap_or(0),
        uid,
        found_in: connection.found_in,
        bits,
        incomplete,
        syn_retransmits,
        role: connection.role,
        state: connection.state,
        last_step: connection.last_step,
        states,
        local_is_v6: connection.flow.local.address.is_ipv6(),
        peer_is_v6: connection.flow.peer.address.is_ipv6(),
        opener_name: connection.opener.name,
        opener_known: connection.opener.known,
        verdict: late.verdict.map(close::number),
        facts: facts.map(|facts| (facts.error, facts.marks)),
        failed_call: late.closing.failed_call,
        minisocket: AlikeMinisocket {
            substate: minisocket.substate,
            began_in_fin_wait2: minisocket.began_in_fin_wait2,
            seen_from_start: minisocket.seen_from_start,
            segments_lost: minisocket.segments_lost,
            counted: minisocket.counted,
            entry: entry.map(|entry| (entry.from, entry.precision, entry.nominal_ns)),
        },
        told,
        has: Has {
            closed_at: late.closed_at.is_some(),
            generation: connection.generation != 0,
            retransmits: facts.is_some_and(|facts| facts.total_retransmits != 0),
            rearmed: minisocket.armed() != (began_jiffies, began_at),
            segments: counts != [0; 3],
            told_end: minisocket.end_as_shown().1.is_some(),
            closer: closer != Who::default(),
            previous: rare.is_some_and(|rare| rare.previous.is_some()),
        },
    }
}

/// `later` less `earlier`, small numbers for small differences of either sign. Never 0 but where
/// they are equal.
fn difference(later: u64, earlier: u64) -> u64 {
    let signed = later.wrapping_sub(earlier).cast_signed();
    (signed << 1 ^ signed >> 63).cast_unsigned()
}

/// What [`difference`] was taken of.
fn after(earlier: u64, difference: u64) -> u64 {
    let signed = (difference >> 1).cast_signed() ^ -((difference & 1).cast_signed());
    earlier.wrapping_add_signed(signed)
}

fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn address(is_v6: bool, [high, low]: [u64; 2]) -> IpAddr {
    match is_v6 {
        true => Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into(),
        false => Ipv4Addr::from_bits(low as u32).into(),
    }
}

fn halves(comm: [u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(comm);
    (whole as u64, (whole >> 64) as u64)
}

fn comm([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
