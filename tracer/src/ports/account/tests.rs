use std::net::Ipv4Addr;

use proptest::prelude::*;
use tracer_common::tcp::Flow;

use super::*;
use crate::ports::{Space, collisions};
use crate::stream::Settings;

/// A tuple of these tests: client or not, its port, its destination.
type Tuple = (Side, u16, u16);

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        port,
    }
}

fn holding(by: Use, port: u16) -> Holding {
    Holding {
        by,
        owner: Owner::default(),
        port,
        since: Some(Timestamp(1)),
        ends_at: (by == Use::TimeWait).then_some(Timestamp(61_000_000_000)),
    }
}

fn change(tuple: Tuple, was: Option<Holding>, is: Option<Holding>) -> HoldingChange {
    let (side, port, destination) = tuple;
    HoldingChange {
        at: Timestamp(1_000_000_000),
        netns: 1,
        netns_cookie: 1,
        flow: Flow {
            local: endpoint(port),
            peer: endpoint(destination),
        },
        side,
        was,
        is,
    }
}

/// A whole life with these uses.
fn live(account: &mut Account, tuple: Tuple, uses: &[Use]) {
    let steps = uses.iter().map(|by| holding(*by, tuple.1));
    let mut was = None;
    for is in steps.map(Some).chain([None]) {
        account.handle(&change(tuple, was, is));
        was = is;
    }
}

const WHOLE: [Use; 5] = [
    Use::Connecting,
    Use::Established,
    Use::Closing,
    Use::FinWait2,
    Use::TimeWait,
];
const CLIENT: Side = Side::Client { bound: Some(false) };
const BOUND: Side = Side::Client { bound: Some(true) };
const UNSEEN: Side = Side::Client { bound: None };

fn is_empty(account: &Account) -> bool {
    account.routes.is_empty() && account.services.is_empty() && account.bound.is_empty()
}

#[test]
fn whole_lives_leave_nothing_behind() {
    let mut account = Account::default();
    for port in 1_000..1_200 {
        for side in [CLIENT, BOUND, UNSEEN, Side::Server] {
            live(&mut account, (side, port, port), &WHOLE);
        }
        live(&mut account, (Side::Listener, port, 0), &[Use::Listening]);
    }
    account.age(Timestamp(2_000_000_000));
    assert_eq!(account.routes.len(), 200, "openings are remembered");
    account.age(Timestamp(62_000_000_000));
    assert!(is_empty(&account), "{account:?}");
}

#[test]
fn a_port_is_used_once_connect_has_found_it() {
    let mut account = Account::default();
    let choosing = holding(Use::Connecting, 0);
    let found = holding(Use::Connecting, 40_000);
    let route = |account: &Account| account.routes().next().expect("a route").1.clone();
    account.handle(&change((CLIENT, 0, 80), None, Some(choosing)));
    let used = route(&account);
    assert_eq!((used.used(), used.choosing), (0, 1));
    account.handle(&change((CLIENT, 40_000, 80), Some(choosing), Some(found)));
    let used = route(&account);
    assert_eq!((used.used(), used.choosing), (1, 0));
    assert_eq!(used.openings.values().sum::<u32>(), 1);
    // It could not have one: none was left.
    account.handle(&change((CLIENT, 0, 80), None, Some(choosing)));
    account.handle(&change((CLIENT, 0, 80), Some(choosing), None));
    assert_eq!(route(&account).choosing, 0);
}

#[test]
fn what_clients_bound_is_not_held_against_the_capacity_twice() {
    let mut account = Account::default();
    let established = |port| Some(holding(Use::Established, port));
    let tuples = [
        (CLIENT, 40_000),
        // In the range, reserved, and outside: bound by the client, seen and not seen.
        (BOUND, 40_001),
        (BOUND, 40_005),
        (BOUND, 700),
        (UNSEEN, 40_002),
        (UNSEEN, 40_005),
        (UNSEEN, 700),
    ];
    for (side, port) in tuples {
        account.handle(&change((side, port, 2_049), None, established(port)));
    }
    let settings = Settings {
        port_range: Some((40_000, 40_009)),
        reserved_ports: vec![(40_005, 40_005)],
        ..Settings::default()
    };
    let space = Space::new(&settings, account.bound_ports(1)).expect("the range is known");
    let used = account.routes().next().expect("a route").1;
    assert_eq!(used.counts.total(), 7);
    assert_eq!(used.used(), 4);
    // 40000 and 40002, of all but 40001 and 40005.
    assert_eq!((used.used_of(&space), space.capacity()), (2, 8));
}

#[test]
fn listeners_collide_with_a_wider_range() {
    let mut account = Account::default();
    for port in [80, 8_080, 40_100, 8_081] {
        let listening = Some(holding(Use::Listening, port));
        account.handle(&change((Side::Listener, port, 0), None, listening));
    }
    // A client that bound its port listens to nobody.
    let established = Some(holding(Use::Established, 9_000));
    account.handle(&change((BOUND, 9_000, 80), None, established));
    assert_eq!(
        collisions(&account, 1, (1_024, 65_535)),
        [8_080, 8_081, 40_100]
    );
    assert!(collisions(&account, 2, (1_024, 65_535)).is_empty());
    let settings = Settings {
        port_range: Some((32_768, 60_999)),
        ..Settings::default()
    };
    let wider = Space::with_range(&account, 1, &settings, (1_024, 65_535)).expect("a space");
    assert_eq!(wider.capacity(), 65_535 - 1_024 + 1 - 4);
}

#[test]
fn many_destinations_are_forgotten() {
    let mut account = Account::default();
    for second in 0..200_u64 {
        for destination in 1..=100 {
            let step = |by| Some(holding(by, 40_000));
            let mut opening = change((CLIENT, 40_000, destination), None, step(Use::Connecting));
            opening.at = Timestamp(second * 1_000_000_000);
            opening.flow.peer.address = Ipv4Addr::from_bits(second as u32 + 1).into();
            account.handle(&opening);
            account.handle(&HoldingChange {
                was: opening.is,
                is: None,
                ..opening
            });
        }
        account.age(Timestamp(second * 1_000_000_000));
        assert!(account.routes.len() <= 61 * 100, "{}", account.routes.len());
    }
}

/// Legal changes of a few tuples: each to some use, or free.
fn steps() -> impl Strategy<Value = Vec<(usize, Option<usize>)>> {
    prop::collection::vec((0..24_usize, prop::option::of(1..Use::ALL.len())), 0..200)
}

proptest! {
    #[test]
    fn counts_are_what_is_held(steps in steps()) {
        let sides = [CLIENT, BOUND, UNSEEN, Side::Server];
        let mut account = Account::default();
        let mut held: Vec<Option<Holding>> = vec![None; 24];
        let tuple = |index: usize| (sides[index % 4], 40_000 + index as u16 / 8, 80 + index as u16 / 4 % 2);
        for (index, by) in steps {
            let is = by.map(|by| holding(Use::ALL[by], tuple(index).1));
            if is != held[index] {
                account.handle(&change(tuple(index), held[index], is));
                held[index] = is;
            }
        }
        for by in Use::ALL {
            let is_held = |index: &usize| held[*index].is_some_and(|holding| holding.by == by);
            for destination in [80, 81] {
                let here = |index: &usize| {
                    let (side, _, of) = tuple(*index);
                    side != Side::Server && of == destination
                };
                let expected = (0..24).filter(is_held).filter(here).count() as u64;
                let used = account.routes().find(|(route, _)| route.destination.port == destination);
                prop_assert_eq!(used.map_or(0, |(_, used)| used.counts.of(by)), expected);
            }
            let servers = account.services().map(|(_, used)| used.counts.of(by)).sum::<u64>();
            let expected = (0..24).filter(is_held).filter(|index| index % 4 == 3).count() as u64;
            prop_assert_eq!(servers, expected);
        }
        for (_, used) in account.routes() {
            let programs = used.programs.values().map(|holders| holders.counts.total()).sum::<u64>();
            prop_assert_eq!(programs, used.counts.total());
            let ends = used.ends.values().sum::<u32>();
            prop_assert_eq!(u64::from(ends), used.counts.of(Use::TimeWait));
        }
        for (index, is) in held.into_iter().enumerate() {
            if is.is_some() {
                account.handle(&change(tuple(index), is, None));
            }
        }
        account.age(Timestamp(100_000_000_000));
        prop_assert!(is_empty(&account), "{:?}", account);
    }
}
