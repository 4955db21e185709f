use super::*;
use TcpState::{FinWait2, TimeWait};

const HZ: u64 = 250;
const SECOND: u64 = 1_000_000_000;
/// Jiffies at time 0.
const FIRST: u64 = 10_000;

fn jiffies() -> Jiffies {
    Jiffies::new(HZ as u32)
}

fn at(milliseconds: u64) -> Timestamp {
    Timestamp(milliseconds * 1_000_000)
}

/// A minisocket at `now`, set at `set` for a TIME_WAIT's length (both in milliseconds).
fn shown(substate: TcpState, now: u64, set: u64) -> stream::Minisocket {
    stream::Minisocket {
        substate,
        expires: FIRST + set / 4 + 60 * HZ,
        jiffies: FIRST + now / 4,
        entry_stamp_ms: 0,
        tid: 0,
    }
}

fn in_fin_wait2() -> Minisocket {
    Minisocket::new(
        at(1000),
        &shown(FinWait2, 1000, 1000),
        Sign::Move,
        jiffies(),
    )
}

#[test]
fn the_wheel_is_late_by_at_most_one_granule_of_its_level() {
    let latest = |hz: u64| latest_expiry(60 * hz) as f64 / hz as f64;
    assert_eq!(latest(250), 62.048);
    assert_eq!(latest(100), 65.12);
    assert!((latest(300) - 61.706).abs() < 0.001);
    assert_eq!(latest(1000), 64.096);
    // The edges of a level: delta < 63·8^L.
    assert_eq!(latest_expiry(0), 1);
    assert_eq!(latest_expiry(62), 63);
    assert_eq!(latest_expiry(63), 71);
    assert_eq!(latest_expiry(503), 511);
    assert_eq!(latest_expiry(504), 568);
    assert_eq!(latest_expiry(u64::MAX), u64::MAX);
}

#[test]
fn a_flip_by_a_move_is_exact_and_the_time_waits_nominal_length_is_the_timers() {
    let mut minisocket = in_fin_wait2();
    let flip = shown(TimeWait, 21_000, 21_000);
    let change = minisocket.observe(at(21_000), &flip, Sign::Move, jiffies());
    assert_eq!(change, Change::Entered);
    assert_eq!(
        minisocket.entry,
        Some(Entry {
            at: at(21_000),
            from: Some(FinWait2),
            precision: EntryPrecision::Exact,
            nominal_ns: 60 * SECOND,
        })
    );
    assert_eq!(minisocket.refreshes, 0);
    // The segment that did it follows and shows the same.
    let change = minisocket.observe(at(21_000), &flip, Sign::Segment, jiffies());
    assert_eq!((change, minisocket.refreshes), (Change::None, 0));
}

#[test]
fn an_unseen_flip_is_told_by_the_timer_to_its_last_refresh_only() {
    let mut minisocket = in_fin_wait2();
    let last = shown(TimeWait, 62_000, 1_500);
    minisocket.observe(at(62_000), &last, Sign::Silent, jiffies());
    let entry = minisocket.entry.unwrap();
    assert_eq!(entry.at, at(1_500));
    assert_eq!(entry.precision, EntryPrecision::LastRefresh);
}

#[test]
fn an_unseen_flip_in_the_jiffy_of_birth_cannot_have_been_refreshed() {
    let mut minisocket = in_fin_wait2();
    let last = shown(TimeWait, 62_000, 1_004);
    minisocket.observe(at(62_000), &last, Sign::Silent, jiffies());
    assert_eq!(minisocket.entry.unwrap().precision, EntryPrecision::Jiffy);
}

#[test]
fn the_kernels_entry_stamp_is_believed_unless_it_may_be_the_birth_or_lies_after_the_refresh() {
    let entry = |milliseconds: u32, set: u64| {
        let mut minisocket = in_fin_wait2();
        let mut last = shown(TimeWait, 62_000, set);
        last.entry_stamp_ms = milliseconds;
        minisocket.observe(at(62_000), &last, Sign::Silent, jiffies());
        minisocket
            .entry
            .map(|entry| (entry.at, entry.precision))
            .unwrap()
    };
    assert_eq!(entry(1_400, 1_800), (at(1_400), EntryPrecision::Jiffy));
    assert_eq!(
        entry(1_000, 1_800),
        (at(1_800), EntryPrecision::LastRefresh)
    );
    assert_eq!(
        entry(1_900, 1_800),
        (at(1_800), EntryPrecision::LastRefresh)
    );
}

#[test]
fn an_entry_stamp_is_read_across_the_wrap_of_its_32_bits() {
    let wrap = 1_u64 << 32;
    assert_eq!(stamp(5, at(wrap + 105)), Some(at(wrap + 5)));
    assert_eq!(stamp(u32::MAX, at(wrap + 99)), Some(at(wrap - 1)));
    assert_eq!(stamp(0, at(wrap)), None);
    assert_eq!(stamp(6, at(5)), None, "a stamp after its reading is none");
}

#[test]
fn a_refresh_counts_once_however_often_it_is_shown() {
    let mut minisocket = Minisocket::new(
        at(1000),
        &shown(TimeWait, 1000, 1000),
        Sign::Move,
        jiffies(),
    );
    minisocket.enter(
        at(1000),
        Some(FinWait2),
        &shown(TimeWait, 1000, 1000),
        jiffies(),
    );
    let refresh = shown(TimeWait, 9_000, 9_000);
    assert_eq!(
        minisocket.observe(at(9_000), &refresh, Sign::Move, jiffies()),
        Change::Refreshed
    );
    assert_eq!(
        minisocket.observe(at(9_000), &refresh, Sign::Segment, jiffies()),
        Change::None
    );
    minisocket.observe(
        at(70_000),
        &shown(TimeWait, 70_000, 9_000),
        Sign::Silent,
        jiffies(),
    );
    assert_eq!(minisocket.refreshes, 1);
    minisocket.observe(
        at(70_000),
        &shown(TimeWait, 70_000, 9_500),
        Sign::Silent,
        jiffies(),
    );
    assert_eq!(minisocket.refreshes, 2);
}

#[test]
fn lateness_counts_from_the_last_time_the_timer_was_set() {
    let mut minisocket = Minisocket::new(at(0), &shown(TimeWait, 0, 0), Sign::Move, jiffies());
    minisocket.enter(at(0), None, &shown(TimeWait, 0, 0), jiffies());
    // 60 s set for, 62.048 s at the latest, 100 ms for softirqs.
    assert!(!minisocket.is_late(at(62_148), jiffies()));
    assert!(minisocket.is_late(at(62_149), jiffies()));
    minisocket.observe(
        at(80_000),
        &shown(TimeWait, 80_000, 30_000),
        Sign::Silent,
        jiffies(),
    );
    assert!(!minisocket.is_late(at(92_148), jiffies()));
    assert!(minisocket.is_late(at(92_149), jiffies()));
}

#[test]
fn an_end_is_overdue_five_seconds_after_the_latest_that_the_wheel_allows() {
    let minisocket = in_fin_wait2();
    assert_eq!(minisocket.due, at(1_000 + 62_048 + 5_000));
}

#[test]
fn garbage_in_a_timer_does_not_overflow() {
    let garbage = stream::Minisocket {
        substate: TimeWait,
        expires: u64::MAX,
        jiffies: 0,
        entry_stamp_ms: u32::MAX,
        tid: 0,
    };
    let mut minisocket =
        Minisocket::new(Timestamp(u64::MAX), &garbage, Sign::Move, Jiffies::new(0));
    for sign in [Sign::Move, Sign::Segment, Sign::Silent] {
        minisocket.observe(Timestamp(u64::MAX), &garbage, sign, Jiffies::new(0));
        minisocket.is_late(Timestamp(u64::MAX), Jiffies::new(0));
    }
}
